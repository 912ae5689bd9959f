"""What all figures have in common, and Fig. 3."""

import csv
import itertools
import json
from dataclasses import replace

import figure_runs
import matplotlib as mpl
import numpy as np
import pytest
from bench_records import bench, contender
from figure_runs import every_line, texts
from run_folders import write_run

from harness.records.evidence import Evidence, gather
from harness.records.schema import Device
from harness.reporting import figures
from harness.reporting.drawing.scales import log_ticks, short, unit_of_time
from harness.reporting.drawing.sheet import MOST_PANELS, TITLE, Drawing, csv_of, lines_of, title_of
from harness.system.errors import DataError

H200 = Device(name="NVIDIA H200", kind="cuda", count=1, threads=16)
NAMES = tuple(figures.MAKERS)


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> Evidence:
    """Something for every figure, with three seeds and with one."""
    root = tmp_path_factory.mktemp("runs")
    figure_runs.ablations(root / "ablations", seeds=2)
    return replace(figure_runs.every_method(root / "methods"), benches=(bench(entries=(contender(),)),))


@pytest.fixture(scope="module")
def drawings(everything) -> dict[str, Drawing]:
    return {name: make(everything) for name, make in figures.MAKERS.items()}


@pytest.fixture(scope="module")
def all_drawings(drawings, tmp_path_factory) -> list[Drawing]:
    """Those, and the ablations' figures with measurements."""
    evidence = figure_runs.ablations(tmp_path_factory.mktemp("ablations"))
    return [*drawings.values(), *(figures.MAKERS[number](evidence) for number in ("3", "4", "5", "6"))]


@pytest.fixture(scope="module")
def crowded(tmp_path_factory) -> Evidence:
    """More settings than a figure has panels, each with several values of two knobs."""
    root = tmp_path_factory.mktemp("crowded")
    for i in range(MOST_PANELS + 1):
        for sigma, ratio in ((0.002, 0.2), (0.002, 0.5), (0.5, 0.5)):
            knobs = {"mask_ratio": ratio, "discriminate": True, "teacher_sigma": sigma}
            protocol = {"learning_rate": 1e-3 * (i + 1), "batch_size": 64 + i}
            figure_runs.with_curve(write_run(root, "sddit", knobs=knobs, protocol=protocol), {300: 9.0})
    return gather([root])


@pytest.mark.parametrize("name", NAMES)
def test_the_same_evidence_gives_the_same_bytes_whatever_matplotlib_is_set_to(everything, drawings, tmp_path, name):
    first = figures.write([drawings[name]], tmp_path / "new" / "folder")
    with mpl.rc_context({"font.size": 30, "svg.hashsalt": None, "axes.grid": False, "image.cmap": "jet"}):
        second = figures.write([figures.MAKERS[name](everything)], tmp_path / "second")
    assert [path.suffix for path in first] == [".png", ".svg", ".csv"]
    assert first[0].read_bytes().startswith(b"\x89PNG")
    assert "<svg" in first[1].read_text(encoding="utf-8")
    assert first[2].read_text(encoding="utf-8") == csv_of(drawings[name].frame)
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name


@pytest.mark.parametrize("name", NAMES)
def test_with_nothing_measured_a_figure_says_how_to_measure(name, tmp_path):
    drawing = figures.MAKERS[name](Evidence())
    assert any("`harness " in note for note in drawing.notes)
    kinds = {row.get("kind", row.get("source")) for row in drawing.rows}
    assert not kinds & {"measured", "run", "bench", "process RSS", "device allocated"}
    assert len(figures.write([drawing], tmp_path)) == 3


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_says_how_many_seeds_it_shows(all_drawings, name):
    assert any("n = " in " ".join(drawing.notes) for drawing in all_drawings if drawing.name.endswith(name))


def test_numbers_are_plain_and_notes_are_in_the_picture(all_drawings):
    for drawing in all_drawings:
        json.dumps(drawing.as_json(), allow_nan=False)
        for note in drawing.notes:
            assert note in texts(drawing.figure), drawing.name


def test_every_marker_and_bar_that_is_drawn_is_a_row_of_the_csv(all_drawings):
    """Both numbers of a marker stand in one row. Hours may be drawn in minutes or seconds."""
    for drawing in all_drawings:
        rows = [{cell for cell in row.values() if isinstance(cell, int | float)} for row in drawing.rows]
        lines = every_line(drawing.figure)
        for name, (xs, ys) in lines.items():
            for x, y in zip(xs, ys, strict=True):
                beside = [cell for row in rows if y in row for cell in row]
                times = [cell * factor for cell in beside for factor in (1, 60, 3600)]
                level = list(xs) == [0, 1]  # the line of a value without a place on the axis
                assert beside, (drawing.name, name, y)
                assert level or np.isclose(times, x, rtol=1e-9).any(), (drawing.name, name, x)
        bars = [patch.get_width() for axes in drawing.figure.axes for patch in axes.patches if patch.get_gid()]
        assert sorted(bars) == sorted(row["gigabytes"] for row in drawing.rows if "gigabytes" in row)


def test_every_text_lies_within_the_figure_and_every_axis_has_ticks(all_drawings):
    for drawing in all_drawings:
        renderer = drawing.figure.canvas.get_renderer()
        page = drawing.figure.get_window_extent(renderer).padded(1)
        keys = [legend for part in drawing.figure.subfigs for legend in part.legends]
        for text in [text for part in (drawing.figure, *drawing.figure.subfigs) for text in part.texts] + keys:
            box = text.get_window_extent(renderer)
            assert page.x0 <= box.x0 <= box.x1 <= page.x1, (drawing.name, text)
            assert page.y0 <= box.y0 <= box.y1 <= page.y1, (drawing.name, text)
        for axes in drawing.figure.axes:
            box = axes.get_tightbbox(renderer)
            assert page.x0 <= box.x0 <= box.x1 <= page.x1 + 1, (drawing.name, axes.get_ylabel())
            for axis in (axes.xaxis, axes.yaxis) if axes.lines else ():
                low, high = sorted(axis.get_view_interval())
                assert 2 <= sum(low <= tick <= high for tick in axis.get_majorticklocs()) <= 8, drawing.name


@pytest.mark.parametrize("name", ["4", "5", "6", "losses", "memory"])
def test_of_many_panels_the_first_are_drawn_and_the_others_counted(crowded, name):
    drawing = figures.MAKERS[name](crowded)
    assert any(note.startswith("Not drawn but in the CSV: ") for note in drawing.notes)
    assert len({row.get("panel", row.get("setting")) for row in drawing.rows}) > MOST_PANELS
    assert len(drawing.figure.subfigs) == MOST_PANELS


@pytest.mark.parametrize("low", [0.0013, 0.05, 0.9, 1.9, 37.0, 140.0, 9.6e3, 3.6e5])
@pytest.mark.parametrize("factor", [1.2, 2.0, 4.0, 30.0, 700.0, 1e5])
def test_a_logarithmic_axis_has_two_to_five_round_ticks(low, factor):
    ticks = log_ticks(low, low * factor)
    assert 2 <= len(ticks) <= 5
    assert all(low <= tick <= low * factor for tick in ticks)
    assert len({short(tick) for tick in ticks}) == len(ticks)


def test_numbers_and_times_are_written_as_people_do():
    values = {400_000: "400k", 2_400_000: "2.4M", 0.002: "0.002", 1.5: "1.5", 10: "10"}
    assert {value: short(value) for value in values} == values
    assert [unit_of_time(hours)[0] for hours in (200.0, 0.5, 0.001)] == ["hours", "minutes", "seconds"]


def test_a_key_of_many_differences_is_broken_into_lines(run_folder, tmp_path):
    for number in (256, 512):
        knobs = {"num_prototypes": number, "student_temperature": number / 1e5, "teacher_momentum": [0.9, number / 1e3]}
        run_folder("sddit", knobs=knobs)
    figure = figures.MAKERS["3"](gather([tmp_path])).figure
    page = figure.get_window_extent()
    for part in figure.subfigs:
        box = part.legends[0].get_window_extent(figure.canvas.get_renderer())
        assert page.x0 <= box.x0 <= box.x1 <= page.x1


def test_names_with_markup_are_drawn_as_they_are_and_a_bad_folder_is_an_error_with_advice(run_folder, tmp_path):
    run_folder("dit", protocol={"data": r"$\broken{"})
    drawing = figures.MAKERS["3"](gather([tmp_path]))
    figures.write([drawing], tmp_path / "out")
    assert r"$\broken{" in texts(drawing.figure)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="--out"):
        figures.write([drawing], tmp_path / "file" / "below")


# Figure 3 --------------------------------------------------------------------------------------------------------


@pytest.fixture
def drawing(run_folder, tmp_path) -> Drawing:
    """Two measured panels, one with several seeds, besides the published one."""
    for seed in range(3):
        for method, speed, distance in (("dit", 50.0, 5.0), ("mdt", 28.0, 4.0), ("sddit", 26.0, 12.0)):
            run_folder(method, seed=seed, speed=speed + seed, distance=distance + 0.1 * seed, device=H200)
    for method, speed, distance in (("dit", 10.2, 5.1), ("maskdit", 7.4, 21.3), ("mdt", 5.6, 4.2)):
        run_folder(method, speed=speed, distance=distance)
    run_folder("maskdit", speed=9.0, distance=18.0, knobs={"mask_ratio": 0.75})  # of an ablation: data, but not drawn
    return figures.MAKERS["3"](gather([tmp_path]))


def test_the_csv_marks_exactly_what_is_drawn(drawing):
    rows = [row for row in csv.DictReader(csv_of(drawing.frame).splitlines()) if row["drawn"] == "yes"]
    assert len(drawing.rows) == len(rows) + 1
    names = {f"{place}{row['panel']}/{row['label']}" for row in rows for place in ("", "relative/")}
    assert every_line(drawing.figure).keys() == names


def test_published_markers_are_hollow_and_the_missing_point_is_named_and_not_drawn(drawing):
    figure = drawing.figure
    assert not [name for name in every_line(figure) if "published/MaskDiT" in name]
    assert "MaskDiT-S/2: drawn only, value not in the paper's text" in texts(figure)
    for axes in figure.axes:
        for line in axes.get_lines():
            if line.get_gid():
                assert (line.get_markerfacecolor() == "white") == ("published/" in line.get_gid())
                assert len(line.get_xdata()) == 1  # no line joins two markers


def test_every_panel_has_axes_of_its_own_with_units_and_directions_and_a_key(drawing):
    figure = drawing.figure
    published, *measured, relative = figure.axes
    assert published.get_ylabel() == "FID-50K (lower is better)"
    assert len(measured) == 2
    for axes in measured:
        assert axes.get_xlabel() == "Training speed, steps/s (higher is better)"
        assert axes.get_ylabel() == "fd-digits@1k (lower is better)"
    assert "DiT" in relative.get_xlabel()
    for part in figure.subfigs:
        named = {line.get_label() for line in part.axes[0].get_lines() if line.get_gid()}
        named = {label for label in named if not label.startswith("_")}  # a name is in the key once
        assert {text.get_text() for text in part.legends[0].get_texts()} == named


def test_the_key_of_the_last_panel_is_filled_where_a_point_of_that_name_was_measured(everything):
    drawing = figures.MAKERS["3"](everything)
    part = drawing.figure.subfigs[-1]
    (key,) = part.legends
    filled = {
        text.get_text(): handle.get_markerfacecolor() != "white"
        for text, handle in zip(key.get_texts(), key.legend_handles, strict=True)
    }
    measured = {row["label"] for row in drawing.rows if row["kind"] == "measured" and row["label"] in filled}
    assert {label for label, is_filled in filled.items() if is_filled} == measured
    assert len(filled) > len(measured) > 0  # MDT is published only: MDT-lite is what is measured


@pytest.mark.parametrize(
    "title",
    [
        "Discriminative loss: cross-entropy to the teacher, nats, SD-DiT: digits, size tiny, fp32, cached, batch 64",
        "(b) Measured: digits, size tiny, fp32, cached, batch 64",
        "(b) Measured: digits, size tiny, fp32, cached, 600 steps, batch 64",
        "digits, size tiny, fp32, cached: 600 steps, batch 64, seed 0",
        "Published, GB per GPU of 8 x A100: images of 256 x 256 pixels",
    ],
)
def test_a_title_breaks_neither_before_a_number_nor_its_unit_and_leaves_no_word_alone(title):
    lines = title_of(title, TITLE).splitlines()
    assert " ".join(lines) == title
    assert max(map(len, lines)) <= TITLE
    assert len(lines) == len(lines_of(title, TITLE).splitlines())
    for line, following in itertools.pairwise(lines):
        assert not following[0].isdigit() or not line.endswith(("batch", "seed", "x"))
        assert not (line[-1].isdigit() and following.startswith(("steps", "pixels", "x ")))
        assert len(following.split()) > 1
