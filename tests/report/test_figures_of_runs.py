"""Figures drawn from what runs leave behind: samples, losses, and what all such figures have in common."""

import csv
import json
import math
import os
import statistics
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from bench_records import bench, contender
from matplotlib.figure import Figure
from PIL import Image

from harness.records.evidence import Evidence, gather
from harness.report import figures
from harness.report.drawing.sheet import Drawing
from harness.report.figures import losses, memory, samples, speed_cost

MAKERS = [samples.make, losses.make, memory.make, speed_cost.make]
METHODS = ("dit", "maskdit", "mdt", "sddit")
LOSSES = {
    "dit": ("loss",),
    "maskdit": ("loss", "loss/denoise", "loss/mae"),
    "mdt": ("loss", "loss/full", "loss/masked"),
    "sddit": ("loss", "loss/generate", "loss/cls", "loss/patches"),
}
PROTOTYPES = {"num_prototypes": 256}


# Building --------------------------------------------------------------------------------------------------------


def with_losses(folder: Path, method: str, seed: int = 0, *, steps=range(30, 601, 30)) -> Path:
    lines = [
        {"step": step, **{name: 1 + seed / 10 + place + 50 / step for place, name in enumerate(LOSSES[method])}}
        for step in steps
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def with_grid(folder: Path, *, shade: int = 200) -> Path:
    """The picture that an evaluation of 1,000 of the 8 x 8 digits leaves: ten rows of ten, enlarged six times."""
    cells = np.full((10, 9, 10, 9), 128, np.uint8)
    cells[:, :8, :, :8] = shade + np.arange(10)[:, None, None, None]  # rows can be told apart
    picture = Image.fromarray(cells.reshape(90, 90)).resize((540, 540), Image.Resampling.NEAREST)
    (folder / "samples").mkdir()
    picture.save(folder / "samples" / "grid.png")
    return folder


@pytest.fixture
def every_method(run_folder, tmp_path) -> Evidence:
    """The four methods with seeds 1 and 2, and SD-DiT with a third, all with losses and pictures."""
    for method in METHODS:
        for seed in (1, 2, *([0] if method == "sddit" else [])):
            knobs = PROTOTYPES if method == "sddit" else {}
            folder = run_folder(method, seed=seed, distance=5.0 + seed, speed=10.0 + seed, knobs=knobs)
            with_grid(with_losses(folder, method, seed))
    return gather([tmp_path])


def lines_of(figure: Figure) -> list[dict[str, tuple[list[float], list[float]]]]:
    """For each axes that have any: named lines and their values."""
    found = [{line.get_gid(): line.get_data() for line in axes.get_lines() if line.get_gid()} for axes in figure.axes]
    return [{name: (list(x), list(y)) for name, (x, y) in lines.items()} for lines in found if lines]


def told(drawing: Drawing) -> str:
    return " ".join(drawing.notes)


# All four --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", MAKERS)
def test_with_nothing_measured_a_sheet_says_so_and_how_to_measure(make, tmp_path):
    drawing = make(Evidence())
    assert "harness" in told(drawing)
    assert not [
        row for row in drawing.rows if row.get("quality") == "measured" or row.get("source") in ("run", "bench")
    ]
    assert len(figures.write([drawing], tmp_path)) == 3


@pytest.mark.parametrize("make", MAKERS)
def test_the_same_runs_give_the_same_bytes(make, every_method, tmp_path):
    evidence = replace(every_method, benches=(bench(entries=(contender(),)),))
    first = figures.write([make(evidence)], tmp_path / "first")
    with mpl.rc_context({"font.size": 30, "svg.hashsalt": None, "axes.grid": False, "image.cmap": "jet"}):
        second = figures.write([make(evidence)], tmp_path / "second")
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name


@pytest.mark.parametrize("make", MAKERS)
def test_every_figure_says_how_many_seeds_it_shows(make, every_method):
    assert "n = " in told(make(every_method))


def test_none_of_them_needs_torch():
    modules = "samples, losses, memory, speed_cost"
    code = f"import sys; from harness.report.figures import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# Samples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["random", "balanced"])
def test_rows_are_called_by_the_classes_that_the_evaluation_asked_for(rule):
    from harness.evaluation.generation import choose_labels

    assert samples.labels(rule, 200, 37, seed=5) == choose_labels(rule, 200, 37, seed=5).tolist()


@pytest.mark.parametrize(("side", "channels", "num_images"), [(8, 1, 1000), (8, 1, 17), (40, 3, 60)])
def test_the_images_of_a_grid_come_back_as_they_were_laid_out(side, channels, num_images, tmp_path):
    torch = pytest.importorskip("torch")
    from harness.evaluation.images.uint8 import class_grid, save_png

    asked = torch.tensor(samples.labels("random", num_images, 12, seed=3))
    images = torch.randint(256, (num_images, side, side, channels), dtype=torch.uint8)
    save_png(tmp_path / "grid.png", class_grid(images, asked))
    classes = sorted(set(asked.tolist()))[:10]
    counts = tuple(min(10, int((asked == label).sum())) for label in classes)
    found = samples.read_grid(tmp_path / "grid.png", samples.Layout(tuple(classes), counts, (side,)))
    for row, (label, count) in enumerate(zip(classes, counts, strict=True)):
        expected = images[asked == label][:count].expand(-1, -1, -1, 3).numpy()
        assert (found[row, :count] == expected).all()


def test_the_methods_stand_side_by_side_with_the_lowest_seed_that_all_have(every_method):
    drawing = samples.make(every_method)
    assert {(row["method"], row["seed"]) for row in drawing.rows} == {(method, 1) for method in METHODS}
    assert {row["distance"] for row in drawing.rows} == {6.0}
    assert [row["class"] for row in drawing.rows if row["method"] == "dit"] == list(range(10))
    (axes,) = drawing.figure.axes
    assert [text.get_text() for text in axes.texts].count("6") == len(METHODS) + 1  # beneath each, and a class
    assert len(axes.images) == len(METHODS)
    for image in axes.images:
        assert image.get_interpolation() == "none"
        assert image.get_array()[0, 0].tolist() == [200] * 3
        assert image.get_array()[-2, 0].tolist() == [209] * 3  # the last row


def test_the_svg_holds_the_pictures_and_asks_no_network(every_method, tmp_path):
    svg = figures.write([samples.make(every_method)], tmp_path)[1].read_text()
    assert svg.count("data:image/png;base64") == len(METHODS)
    assert 'href="http' not in svg


def header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII5sI", 13, b"IHDR", width, height, b"\x08\x00\x00\x00\x00", 0)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "no samples/grid.png"),
        (b"", "cannot be read"),
        (b"not a picture, though long enough for a header", "no PNG"),
        (header(100_000, 100_000), "100000 x 100000 pixels; more than"),
        (header(541, 540), "541 x 540 pixels, its evaluation's classes 540 x 540"),
        (header(540, 540), "cannot be read"),
    ],
)
def test_a_picture_that_cannot_be_used_is_a_note_and_the_others_are_drawn(run_folder, tmp_path, content, why):
    with_grid(run_folder("dit"))
    folder = run_folder("sddit") / "samples"
    folder.mkdir()
    if content is not None:
        (folder / "grid.png").write_bytes(content)
    drawing = samples.make(gather([tmp_path]))
    assert f"SD-DiT: {'' if why.startswith('no s') else 'samples/grid.png '}" in told(drawing)
    assert why in told(drawing)
    assert {row["method"] for row in drawing.rows} == {"dit"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_in_a_pictures_place_is_not_waited_for(run_folder, tmp_path):
    folder = run_folder("dit") / "samples"
    folder.mkdir()
    os.mkfifo(folder / "grid.png")
    assert samples.make(gather([tmp_path])).rows == []


# Losses ----------------------------------------------------------------------------------------------------------


def test_formulations_and_quantities_never_share_axes(every_method):
    groups = [set(lines) for lines in lines_of(losses.make(every_method).figure)]
    assert groups == [
        {"maskdit/loss/denoise", "sddit/loss/generate"},
        {"dit/loss", "mdt/loss/full", "mdt/loss/masked"},
        {"sddit/loss/cls", "sddit/loss/patches"},
        {"maskdit/loss/mae"},
    ]


def test_loss_curves_are_the_csv_and_the_mean_over_the_seeds(every_method):
    drawing = losses.make(every_method)
    drawn = {name: values for lines in lines_of(drawing.figure) for name, values in lines.items()}
    rows = list(csv.DictReader(figures.csv_of(drawing.rows).splitlines()))
    for name, (steps, means) in drawn.items():
        own = [row for row in rows if f"{row['method']}/{row['part']}" == name]
        assert [(int(row["step"]), float(row["mean"])) for row in own] == list(zip(steps, means, strict=True))
    values = [1 + seed / 10 + 1 + 50 / 600 for seed in (0, 1, 2)]
    last = next(row for row in rows if row["part"] == "loss/generate" and row["step"] == "600")
    assert float(last["mean"]) == pytest.approx(statistics.fmean(values))
    assert float(last["sd"]) == pytest.approx(statistics.stdev(values))
    assert (last["n"], last["seeds"]) == ("3", "0 1 2")


def test_a_uniform_guess_among_the_prototypes_is_drawn_beside_the_discriminative_parts(every_method):
    drawing = losses.make(every_method)
    axes = [
        axes for axes in drawing.figure.axes if any(line.get_gid() == "sddit/loss/cls" for line in axes.get_lines())
    ]
    unnamed = [
        line.get_ydata() for line in axes[0].get_lines() if (line.get_gid() or "").startswith("_") or not line.get_gid()
    ]
    assert [math.log(256)] * 2 in [list(values) for values in unnamed]
    assert f"{math.log(256):.3f}" in told(drawing)


def test_smoothing_a_long_log_keeps_its_mean_and_is_named(run_folder, tmp_path):
    steps = range(10, 10 * losses.MAX_POINTS * 3, 10)  # one line short of full windows
    with_losses(run_folder("dit"), "dit", steps=steps)
    drawing = losses.make(gather([tmp_path]))
    assert len(drawing.rows) == losses.MAX_POINTS - 1
    assert "mean of 3 logged lines" in told(drawing)
    assert drawing.rows[0]["mean"] == pytest.approx(statistics.fmean(1 + 50 / step for step in (10, 20, 30)))


def test_a_log_of_another_kind_leaves_its_lines_out(run_folder, tmp_path):
    folder = run_folder("dit")
    lines = ['{"step": 20, "loss": 0.5}', '{"step": 40, "loss": NaN}', '{"step": "60", "loss": 1}', '{"loss": 1}']
    lines += ['{"step": 80, "loss": "low"}', '{"step": 100, "loss": 1e400}', '{"step": true, "loss": 2}', "torn {"]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert [(row["step"], row["mean"]) for row in losses.make(gather([tmp_path])).rows] == [(20, 0.5)]
