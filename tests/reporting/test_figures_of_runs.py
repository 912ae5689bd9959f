"""Figures drawn from what runs and benches leave behind: samples, losses, memory, and speed against arithmetic."""

import math
import os
import statistics
import struct
import zlib
from dataclasses import replace

import figure_runs
import pytest
from bench_records import H200, bench, contender
from figure_runs import METHODS, lines_of, with_grid, with_losses
from run_folders import write_run

from harness.records.bench_record import Floor
from harness.records.evidence import Count, Counts, Evidence, gather
from harness.records.schema import Device
from harness.reporting import figures
from harness.reporting.drawing.sheet import Drawing
from harness.reporting.figures import losses, memory, samples, speed_cost

A100 = Device(name="NVIDIA A100", kind="cuda", count=1, threads=16)


@pytest.fixture(scope="module")
def every_method(tmp_path_factory) -> Evidence:
    return figure_runs.every_method(tmp_path_factory.mktemp("runs"))


def told(drawing: Drawing) -> str:
    return " ".join(drawing.notes)


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
    drawing = figures.MAKERS["7"](every_method)
    assert {(row["method"], row["seed"]) for row in drawing.rows} == {(method, 1) for method in METHODS}
    assert {row["distance"] for row in drawing.rows} == {6.0}
    assert [row["class"] for row in drawing.rows if row["method"] == "dit"] == list(range(10))
    assert [axes.get_title() for axes in drawing.figure.axes] == ["DiT", "MaskDiT", "MDT-lite", "SD-DiT"]
    for axes in drawing.figure.axes:
        assert axes.get_xlabel().startswith("6\n")
        (image,) = axes.images
        assert image.get_interpolation() == "none"
        assert image.get_array()[0, 0].tolist() == [200] * 3
        assert image.get_array()[-2, 0].tolist() == [209] * 3  # the last row


def test_the_svg_holds_the_pictures_and_asks_no_network(every_method, tmp_path):
    svg = figures.write([figures.MAKERS["7"](every_method)], tmp_path)[1].read_text()
    assert svg.count("data:image/png;base64") == len(METHODS)
    assert 'href="http' not in svg


def header(width: int, height: int) -> bytes:
    """The first bytes of a PNG, up to its compressed pixels, which are missing."""
    size = b"IHDR" + struct.pack(">II5B", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + size + struct.pack(">II4s", zlib.crc32(size), 5, b"IDAT")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "no samples/grid.png"),
        (b"", "cannot be read"),
        (b"not a picture, though long enough for a header", "cannot be read"),
        (header(100_000, 100_000), "more than the 33,554,432 pixels"),
        (header(6_000, 6_000), "6000 x 6000 pixels; more than"),
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
    drawing = figures.MAKERS["7"](gather([tmp_path]))
    assert f"SD-DiT: {'' if why.startswith('no s') else 'samples/grid.png '}" in told(drawing)
    assert why in told(drawing)
    assert {row["method"] for row in drawing.rows} == {"dit"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_in_a_pictures_place_is_not_waited_for(run_folder, tmp_path):
    folder = run_folder("dit") / "samples"
    folder.mkdir()
    os.mkfifo(folder / "grid.png")
    assert figures.MAKERS["7"](gather([tmp_path])).rows == []


# Losses ----------------------------------------------------------------------------------------------------------


def test_formulations_and_quantities_never_share_axes(every_method):
    groups = [set(lines) for lines in lines_of(losses.make(every_method).figure)]
    assert groups == [
        {"maskdit/loss/denoise", "sddit/loss/generate"},
        {"dit/loss", "mdt/loss/full", "mdt/loss/masked"},
        {"sddit/loss/cls", "sddit/loss/patches"},
        {"maskdit/loss/mae"},
    ]


def test_a_loss_curve_is_the_mean_over_the_seeds(every_method):
    values = [1 + seed / 10 + 1 + 50 / 600 for seed in (0, 1, 2)]
    rows = losses.make(every_method).rows
    last = next(row for row in rows if row["part"] == "loss/generate" and row["step"] == 600)
    assert last["mean"] == pytest.approx(statistics.fmean(values))
    assert last["sd"] == pytest.approx(statistics.stdev(values))
    assert (last["n"], last["seeds"]) == (3, "0 1 2")


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


# Memory ----------------------------------------------------------------------------------------------------------


def test_kinds_of_memory_and_devices_never_share_axes(run_folder, tmp_path):
    for device, method, seed, gigabytes in (
        (H200, "dit", 0, 4),
        (H200, "dit", 1, 5),
        (H200, "sddit", 0, 7),
        (A100, "dit", 0, 5),
    ):
        peak = {"peak_memory_bytes": gigabytes * 10**9, "peak_memory_kind": "device allocated"}
        write_run(tmp_path / "runs" / device.name, method, seed=seed, device=device, **peak)
    write_run(tmp_path / "runs" / "whole", "dit", seed=2, device=H200)
    run_folder("dit")  # on a CPU: the whole process
    timed = bench(entries=(contender(peak_allocated_bytes=3 * 10**9),))
    drawing = memory.make(replace(gather([tmp_path / "runs"]), benches=(timed,)))
    measured = [row for row in drawing.rows if row["quality"] == "measured"]
    panels = {row["panel"]: (row["kind"], row["device"]) for row in measured}
    assert sorted(panels.values()) == [
        ("bench, device allocated", "NVIDIA H200"),
        ("device allocated", "NVIDIA A100"),
        ("device allocated", "NVIDIA H200"),
        ("process RSS", "Intel Xeon Processor, 2 threads"),
        ("process RSS", "NVIDIA H200"),
    ]
    assert {(row["label"], row["gigabytes"], row["n"]) for row in measured if row["device"] == "NVIDIA H200"} == {
        ("DiT", 4.5, 2),
        ("SD-DiT", 7.0, 1),
        ("dit-s cached", 3.0, 1),
        ("DiT", 0.9, 1),
    }


def test_digitised_memory_is_hatched_and_an_unprinted_one_is_named_but_not_drawn(every_method):
    drawing = memory.make(every_method)
    qualities = {(row["label"], row["gigabytes"]): row["quality"] for row in drawing.rows}
    for axes in drawing.figure.axes:
        for patch in axes.patches:
            if patch.get_gid():
                quality = qualities[patch.get_gid().removeprefix("bar/"), patch.get_width()]
                assert (patch.get_hatch() is not None) == (quality == "digitised")
    assert ("SD-DiT-XL/2", 45.0) in qualities
    assert "Not shown: MDT-XL/2 (SD-DiT App.B)" in told(drawing)


# Speed against arithmetic ----------------------------------------------------------------------------------------


def test_every_point_lies_at_its_arithmetic_and_speed_on_the_axes_of_its_device(run_folder, tmp_path):
    for method in METHODS:
        for seed in (1, 2):
            run_folder(method, seed=seed, speed=10.0 + seed)
    run_folder("dit", device=A100, speed=100.0)
    evidence = replace(gather([tmp_path]), benches=(bench(entries=(contender(), contender("mdt-s", gmacs=33.0))),))
    drawing = speed_cost.make(evidence)
    drawn = lines_of(drawing.figure)
    expected = [
        {f"{row['source']}/{row['name']}": ([row["gmacs_per_image"]], [row["images_per_sec"]]) for row in rows}
        for panel in dict.fromkeys(row["panel"] for row in drawing.rows)
        if (rows := [row for row in drawing.rows if row["panel"] == panel])
    ]
    assert drawn == expected
    assert [len(points) for points in drawn] == [2, 2, 1, len(METHODS)]  # published DiT and MDT, H200, A100, the CPU
    dit = next(row for row in drawing.rows if row["source"] == "run" and row["method"] == "dit" and row["n"] == 2)
    assert dit["images_per_sec"] == pytest.approx(11.5 * 64)  # of seeds 1 and 2
    assert dit["gmacs_per_sec"] == pytest.approx(0.06 * 11.5 * 64)


def test_the_ceiling_is_half_the_measured_operations_as_one_multiply_accumulate_is_two(tmp_path):
    foreign = contender(gmacs=None, name="official", conditions={"code": "facebookresearch/DiT"})
    drawing = speed_cost.make(Evidence(benches=(bench(entries=(contender("dit-tiny"), foreign), flops=100e9),)))
    measured = [row for row in drawing.rows if row["source"] == "bench"]
    assert [row["ceiling_gmacs_per_sec"] for row in measured] == [50.0]
    assert [(row["low"], row["images_per_sec"], row["high"]) for row in measured] == [(1, 2, 4)]
    assert "1 contenders of other code, whose arithmetic is not modelled" in told(drawing)
    assert not [row for row in drawing.rows if row["source"] == "published"]  # whose arithmetic was not counted
    assert "harness recipes count" in told(drawing)


def test_published_speeds_stand_at_the_counted_arithmetic_with_the_ratio_that_follows():
    counted = {
        f"{method}-s": Count(params=1, gmacs_forward=1, gmacs_step=g) for method, g in (("dit", 10), ("sddit", 40))
    }
    drawing = speed_cost.make(Evidence(counts=(Counts(harness_version="0", recipes=counted),)))
    assert {(row["method"], row["gmacs_per_image"], row["images_per_sec"]) for row in drawing.rows} == {
        ("dit", 10, 5.03 * 256),
        ("sddit", 40, 9.2 * 256),
    }
    assert f"{5.03 * 10 / (9.2 * 40):.2f} times" in told(drawing)
    assert "not counted here: MDT-S/2" in told(drawing)
    assert "Not shown: MaskDiT-S/2" in told(drawing)
    for axes in drawing.figure.axes:
        assert all(line.get_markerfacecolor() == "white" for line in axes.get_lines() if line.get_gid())


def test_a_step_that_encodes_counts_its_vae_or_has_no_point():
    floor = Floor(of="ceilings measured here", arithmetic_seconds=6.0, memory_seconds=1, seconds=6.0)
    online = {"pipeline": "online-vae", "gmacs": 18.0}
    mixed = contender().conditions | {"pipeline": "online-vae", "precision": "bf16"}  # the VAE's products are fp32
    entries = (
        contender(**online, name="told", gmacs_vae=100.0),
        contender(**online, name="in the floor", floors=[floor]),
        contender(**online, name="unknown"),
        contender(**online, name="of two rates", floors=[floor], conditions=mixed),
    )
    timed = bench(entries=entries).model_copy(update={"matrix_flops_per_second": {"fp32": 100e9, "bf16": 500e9}})
    drawing = speed_cost.make(Evidence(benches=(timed,)))
    placed = {row["name"]: row["gmacs_per_image"] for row in drawing.rows if row["source"] == "bench"}
    assert placed == {"told": 118.0, "in the floor": pytest.approx(6.0 * 50 / 2)}  # seconds x 50 GMAC/s, of two images
    assert "Not drawn: 2 contenders that encode in the step" in told(drawing)


# Held-out images ---------------------------------------------------------------------------------------------------


def test_the_figure_of_held_out_images_has_the_records_means_by_level_step_and_block(every_method):
    rows = figures.MAKERS["held-out"](every_method).rows
    dit = [row for row in rows if row["method"] == "dit"]
    by_sigma = {row["sigma"]: row["mean"] for row in dit if row["quantity"] == "error by sigma"}
    assert by_sigma == pytest.approx({0.02: 0.9, 0.5: 0.315, 20.0: 0.1})  # seeds 1 and 2
    along = {row["step"]: row["mean"] for row in dit if row["quantity"] == "error by step"}
    assert len(along) == 10
    assert along[30] == pytest.approx(1 / 1.3 + 0.015)
    table = {(row["block"], row["sigma"]): row["mean"] for row in dit if row["quantity"] == "probe"}
    assert len(table) == 6
    assert table["blocks.0", 0.8] == pytest.approx(0.23)
    assert {row["n"] for row in dit} == {2}


def test_a_heat_map_shows_each_block_s_accuracy_at_each_level(every_method):
    figure = figures.MAKERS["held-out"](every_method).figure
    maps = [axes for axes in figure.axes if axes.images]
    assert len(maps) == 4
    assert [text.get_text() for text in maps[0].texts] == ["0.50", "0.23", "0.70", "0.30", "0.60", "0.25"]
    assert [tick.get_text() for tick in maps[0].get_yticklabels()] == ["blocks.0", "blocks.1", "blocks.2"]
