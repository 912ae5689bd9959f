import csv

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from harness.records.schema import Device
from harness.records.store import find_runs
from harness.report import figures
from harness.report.figures import speed_quality
from harness.report.figures.figure3 import Figure3, figure3
from harness.system.errors import DataError

H200 = Device(name="NVIDIA H200", kind="cuda", count=1, threads=16)


@pytest.fixture
def data(run_folder, tmp_path) -> Figure3:
    """Two measured panels, one with several seeds, besides the published one."""
    for seed in range(3):
        for method, speed, distance in (("dit", 50.0, 5.0), ("mdt", 28.0, 4.0), ("sddit", 26.0, 12.0)):
            run_folder(method, seed=seed, speed=speed + seed, distance=distance + 0.1 * seed, device=H200)
    for method, speed, distance in (("dit", 10.2, 5.1), ("maskdit", 7.4, 21.3), ("mdt", 5.6, 4.2)):
        run_folder(method, speed=speed, distance=distance)
    run_folder("maskdit", speed=9.0, distance=18.0, knobs={"mask_ratio": 0.75})  # of an ablation: data, but not drawn
    return figure3(find_runs([tmp_path])[0])[0]


def drawn(figure: Figure) -> dict[str, tuple[float, float]]:
    """Every marker by its name."""
    lines = [line for axes in figure.axes for line in axes.get_lines() if line.get_gid()]
    return {line.get_gid(): (line.get_xdata()[0], line.get_ydata()[0]) for line in lines}


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for holder in (figure, *figure.axes) for text in holder.texts]


def test_png_svg_and_csv_are_written(data, tmp_path):
    paths = figures.write([speed_quality.drawing(data)], tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["figure3.png", "figure3.svg", "figure3.csv"]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert "<svg" in paths[1].read_text(encoding="utf-8")
    assert paths[2].read_text(encoding="utf-8") == figures.csv_of(data.rows())


def test_the_same_data_gives_the_same_bytes(data, tmp_path):
    first = figures.write([speed_quality.drawing(data)], tmp_path / "first")
    with mpl.rc_context({"font.size": 30, "svg.hashsalt": None, "axes.grid": False}):  # somebody's own settings
        second = figures.write([speed_quality.drawing(data)], tmp_path / "second")
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name


def test_the_csv_marks_exactly_what_is_drawn(data):
    every = list(csv.DictReader(figures.csv_of(data.rows()).splitlines()))
    rows = [row for row in every if row["drawn"] == "yes"]
    assert len(every) == len(rows) + 1
    expected = {
        f"{row['panel']}/{row['label']}": (float(row["steps_per_sec"]), float(row["value"])) for row in rows
    } | {
        f"relative/{row['panel']}/{row['label']}": (
            float(row["speed_relative_to_dit"]),
            float(row["value_relative_to_dit"]),
        )
        for row in rows
    }
    assert drawn(speed_quality.draw(data)) == expected


def test_the_missing_point_is_named_and_not_drawn(data):
    figure = speed_quality.draw(data)
    assert not [name for name in drawn(figure) if "published/MaskDiT" in name]
    assert any("MaskDiT-S/2: drawn only, value not in the paper's text" in text for text in texts(figure))


def test_published_markers_are_hollow_and_measured_ones_filled(data):
    figure = speed_quality.draw(data)
    for axes in figure.axes:
        for line in axes.get_lines():
            if line.get_gid():
                assert (line.get_markerfacecolor() == "white") == ("published/" in line.get_gid())


def test_no_line_joins_two_markers(data):
    for axes in speed_quality.draw(data).axes:
        markers = {(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.get_lines() if line.get_gid()}
        for line in axes.get_lines():
            ends = set(zip(line.get_xdata(), line.get_ydata(), strict=True))
            assert len(ends & markers) <= 1


def test_every_panel_has_axes_of_its_own_with_units_and_directions(data):
    figure = speed_quality.draw(data)
    published, *measured, relative = figure.axes
    assert len(measured) == 2
    assert published.get_ylabel() == "FID-50K (lower is better)"
    for axes in measured:
        assert axes.get_xlabel() == "Training speed, steps/s (higher is better)"
        assert axes.get_ylabel() == "fd-digits@1k (lower is better)"
    assert "DiT" in relative.get_xlabel()


def test_labels_lie_inside_their_axes_and_off_one_another(data):
    figure = speed_quality.draw(data)
    renderer = figure.canvas.get_renderer()
    for axes in figure.axes:
        window = axes.get_window_extent(renderer)
        boxes = {text.get_text(): text.get_window_extent(renderer) for text in axes.texts}
        assert len(boxes) == len(axes.texts)
        for name, box in boxes.items():
            assert window.padded(1).containsx(box.x0), name
            assert window.padded(1).containsx(box.x1), name
            assert window.padded(1).containsy(box.y0), name
            assert window.padded(1).containsy(box.y1), name
            for other, other_box in boxes.items():
                assert other == name or not box.overlaps(other_box), (name, other)


def test_points_in_the_same_place_get_labels_of_their_own(run_folder, tmp_path):
    for method in ("dit", "maskdit", "mdt", "sddit"):
        run_folder(method, speed=10.0, distance=5.0)
    axes = speed_quality.draw(figure3(find_runs([tmp_path])[0])[0]).axes[1]
    renderer = axes.get_figure().canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert len(boxes) == 5  # four labels and the hint
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


def test_text_fits_the_width_of_the_figure(data):
    figure = speed_quality.draw(data)
    renderer = figure.canvas.get_renderer()
    width = figure.get_window_extent(renderer).width
    for text in figure.texts:
        assert text.get_window_extent(renderer).x1 <= width, text.get_text()


def test_names_with_markup_are_drawn_as_they_are(run_folder, tmp_path):
    run_folder("dit", protocol={"data": r"$\broken{"})
    figures.write([speed_quality.drawing(figure3(find_runs([tmp_path])[0])[0])], tmp_path / "out")
    figure = speed_quality.draw(figure3(find_runs([tmp_path / "runs"])[0])[0])
    assert any(r"$\broken{" in text for text in texts(figure))


def test_a_place_that_cannot_be_written_is_an_error_with_advice(data, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="--out"):
        figures.write([speed_quality.drawing(data)], tmp_path / "file" / "below")
