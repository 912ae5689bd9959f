"""Fig. 4, 5 and 6: convergence, mask ratio, teacher noise."""

import math
from pathlib import Path

import numpy as np
import pytest
from figure_runs import ablations, every_line, measured_rows, with_curve
from matplotlib.axes import Axes
from run_folders import write_run

from harness.papers import specified
from harness.papers.sddit import numbers as published
from harness.records.evidence import Evidence, gather
from harness.records.schema import Device
from harness.reporting.drawing.sheet import Drawing
from harness.reporting.figures import MAKERS, knob

H200 = Device(name="NVIDIA H200", kind="cuda", count=2, threads=16)
NUMBERS = ("4", "5", "6")
X_COLUMNS = ("step", "images", "hours", "device_hours")
every_figure = pytest.mark.parametrize("number", NUMBERS)


@pytest.fixture(scope="module")
def alone() -> dict[str, Drawing]:
    """The figures of what is published."""
    return {number: MAKERS[number](Evidence()) for number in NUMBERS}


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("two")
    ablations(root, seeds=2)
    return root


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> dict[str, Drawing]:
    """The figures of all sweeps with three seeds."""
    evidence = ablations(tmp_path_factory.mktemp("three"), seeds=3)
    return {number: MAKERS[number](evidence) for number in NUMBERS}


def bars(axes: Axes) -> int:
    return sum(len(bars.get_segments()) for container in axes.containers for bars in container.lines[2])


def notes(root: Path, number: str) -> str:
    return " ".join(MAKERS[number](gather([root])).notes)


# Published -------------------------------------------------------------------------------------------------------


@every_figure
def test_published_points_are_those_of_the_published_table_with_source_and_protocol(alone, number):
    rows = alone[number].rows
    table = published.figure(number)
    printed = table[table["quality"] != "missing"]
    found = {(row["value"], row["source"], row["quality"], row["protocol"]) for row in rows}
    assert found >= set(printed[["value", "source", "quality", "protocol"]].itertuples(index=False, name=None))
    beside = [row for row in rows if row["source"] not in set(printed["source"])]
    assert [row["label"] for row in beside] == (["DiT-S/2, 400k steps"] if number == "5" else [])


@pytest.mark.parametrize(
    ("number", "absent"),
    [("4", "MaskDiT-XL/2, all plotted steps except 1300k"), ("5", "0.1, 0.3, 0.4"), ("6", "sigma_T 0.3")],
)
def test_what_the_paper_only_draws_is_named_and_not_drawn(alone, number, absent):
    assert not any(math.isnan(row["value"]) for row in alone[number].rows)
    assert any(absent in note for note in alone[number].notes)


@every_figure
def test_without_measurements_the_published_panel_stands_alone_and_names_the_sweep(alone, number, tmp_path):
    assert len(alone[number].figure.axes) == 1
    assert not measured_rows(alone[number])
    sweep = specified("figures.yaml")[number]["sweep"]
    assert any(f"`harness sweep {sweep}`" in note for note in alone[number].notes)
    write_run(tmp_path, "sddit")
    assert f"`harness sweep {sweep} --scale tiny`" in notes(tmp_path, number)


@every_figure
def test_published_points_are_joined_only_where_one_source_prints_one_run(alone, number):
    (axes,) = alone[number].figure.axes
    several = [line for line in axes.get_lines() if line.get_marker() != "None" and len(line.get_xdata()) > 1]
    joined = {line.get_gid() for line in several if line.get_linestyle() != "None"}
    runs = {"published/SD-DiT/SD-DiT Fig.4", "published/DiT/DiT XL/2 FID vs steps"}
    assert joined == (runs if number == "4" else set())
    assert len(several) > len(joined)


# Measured --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "x"), [("4", "step"), ("5", "mask_ratio"), ("6", "teacher_sigma")])
def test_every_row_of_the_csv_is_drawn(swept, number, x):
    """test_figures.py tests that whatever is drawn is a row of the CSV."""
    drawn = every_line(swept[number].figure)
    for row in swept[number].rows:
        label = f"{row['panel']}/{row['label']}"
        names = [label, f"{label}/{row.get('series')}", *(f"{label}/{column}" for column in X_COLUMNS)]
        lines = [drawn[name] for name in names if name in drawn]
        assert len(lines) == (len(X_COLUMNS) if number == "4" and row["kind"] == "measured" else 1)
        assert all(row["value"] in y for _, y in lines)
        assert not isinstance(row[x], float) or row[x] in lines[0][0]


@every_figure
def test_several_seeds_are_a_mean_with_error_bars_and_one_seed_has_none_and_says_so(swept, number, tmp_path):
    published_axes, *others = swept[number].figure.axes
    assert bars(published_axes) == 0
    assert all(bars(axes) > 1 for axes in others)
    assert {row["n"] for row in measured_rows(swept[number])} == {3}
    assert any("n = 3 seeds each" in note for note in swept[number].notes)
    single = MAKERS[number](ablations(tmp_path, seeds=1))
    assert [bars(axes) for axes in single.figure.axes] == [0] * len(single.figure.axes)
    assert {row["value_sd"] for row in single.rows} == {None}
    assert any(note.startswith("n = 1") for note in single.notes)


@every_figure
@pytest.mark.parametrize(
    "different", [{"protocol": {"learning_rate": 1e-4}}, {"evaluation": {"num_images": 2000}}], ids=str
)
def test_runs_of_another_protocol_have_a_panel_of_their_own(two_seeds, tmp_path, number, different):
    for ratio in (0.2, 0.5):
        for sigma in (0.002, 0.5):
            knobs = {"mask_ratio": ratio, "discriminate": True, "teacher_sigma": sigma}
            with_curve(write_run(tmp_path, "sddit", seed=5, knobs=knobs, distance=50.0, **different), {300: 60.0})
    before, after = (MAKERS[number](gather(roots)) for roots in ([two_seeds], [two_seeds, tmp_path]))
    panels = [list(dict.fromkeys(row["panel"] for row in drawing.rows)) for drawing in (before, after)]
    assert panels[1][:-1] == panels[0]
    for row in after.rows:
        assert (row["value"] >= 50.0 and row["kind"] == "measured") == (row["panel"] == panels[1][-1])


@every_figure
def test_runs_of_another_budget_do_not_enter_a_point(two_seeds, tmp_path, number):
    for steps, batch_size in ((225, 256),) if number == "4" else ((1200, 64), (150, 256)):
        knobs = {"mask_ratio": 0.5, "discriminate": True, "teacher_sigma": 0.5}
        protocol = {"steps": steps, "batch_size": batch_size}
        with_curve(write_run(tmp_path, "sddit", seed=7, distance=1.0, knobs=knobs, protocol=protocol), {100: 2.0})
    before, after = (MAKERS[number](gather(roots)) for roots in ([two_seeds], [two_seeds, tmp_path]))
    assert after.rows == before.rows
    assert ("Not drawn: 1 run of another batch." in after.notes) == (number == "4")


# Figure 4 --------------------------------------------------------------------------------------------------------


def test_the_longer_run_is_a_line_of_its_own_and_thinner(swept):
    axes = swept["4"].figure.axes[1]
    found = {line.get_gid().split("/")[1]: line for line in axes.get_lines() if line.get_gid()}
    assert set(found) == {"DiT, 600 steps", "MDT-lite, 600 steps", "SD-DiT, 600 steps", "DiT, 3000 steps"}
    assert list(found["DiT, 600 steps"].get_xdata()) == [150, 300, 450, 600]
    assert list(found["DiT, 3000 steps"].get_xdata()) == [300, 600, 1500, 3000]
    assert found["DiT, 3000 steps"].get_linewidth() < found["DiT, 600 steps"].get_linewidth()


def test_times_are_steps_at_the_speed_of_the_run_and_count_every_device(tmp_path):
    for seed, speed in enumerate((10.0, 20.0)):
        with_curve(write_run(tmp_path, "dit", seed=seed, speed=speed, device=H200), {300: 9.0})
    rows = {row["step"]: row for row in measured_rows(MAKERS["4"](gather([tmp_path])))}
    assert rows[300]["hours"] == pytest.approx((30 + 15) / 2 / 3600)
    assert rows[600]["hours"] == pytest.approx((60 + 30) / 2 / 3600)
    assert rows[600]["device_hours"] == pytest.approx(2 * rows[600]["hours"])
    assert rows[600]["images"] == 600 * 64


def test_times_of_another_machine_are_not_mixed_in(tmp_path):
    for seed in range(2):
        with_curve(write_run(tmp_path, "dit", seed=seed, speed=10.0), {300: 9.0})
    with_curve(write_run(tmp_path, "mdt", speed=1000.0, device=H200), {300: 9.0})
    drawing = MAKERS["4"](gather([tmp_path]))
    without = {row["label"]: row["hours"] is None for row in measured_rows(drawing)}
    assert without == {"DiT, 600 steps": False, "MDT-lite, 600 steps": True}
    assert any("Without times: 1 run of another machine" in note for note in drawing.notes)
    assert not [name for name in every_line(drawing.figure) if "MDT" in name and name.endswith("hours")]


def test_a_step_that_not_every_seed_was_evaluated_at_is_not_drawn(tmp_path):
    with_curve(write_run(tmp_path, "dit", seed=0), {150: 20.0, 300: 9.0})
    with_curve(write_run(tmp_path, "dit", seed=1), {300: 9.0})
    assert [row["step"] for row in measured_rows(MAKERS["4"](gather([tmp_path])))] == [300, 600]


def test_the_curves_have_the_knobs_of_the_paper_or_say_which_they_have(tmp_path):
    def labels() -> set[str]:
        return {row["label"] for row in measured_rows(MAKERS["4"](gather([tmp_path])))}

    with_curve(write_run(tmp_path, "dit"), {300: 9.0})
    with_curve(write_run(tmp_path, "sddit", knobs={"mask_ratio": 0.5}), {300: 9.0})
    assert labels() == {"DiT, 600 steps", "SD-DiT (mask_ratio 0.5), 600 steps"}
    with_curve(write_run(tmp_path, "sddit", seed=1), {300: 9.0})
    assert labels() == {"DiT, 600 steps", "SD-DiT, 600 steps"}


# Figures 5 and 6 -------------------------------------------------------------------------------------------------


def test_the_best_mask_ratio_is_ringed_and_named_beside_dit_and_mdt_at_the_same_steps(swept):
    drawing = swept["5"]
    rings = []
    for axes in drawing.figure.axes:
        (ring,) = [line for line in axes.get_lines() if line.get_markersize() > 8]
        rings.append((ring.get_xdata()[0], round(ring.get_ydata()[0], 3)))
    assert rings == [(0.2, 48.39), (0.2, 6.12)]
    assert "Lowest mean: 6.12 at mask ratio 0.2." in drawing.notes
    assert [row["mask_ratio"] for row in drawing.rows if row["lowest"]] == [0.2, 0.2]
    levels = {row["label"]: row["value"] for row in measured_rows(drawing) if row["mask_ratio"] is None}
    assert levels == pytest.approx({"DiT, the same steps": 5.1, "MDT-lite, the same steps": 4.08})  # no longer run


@pytest.mark.parametrize(
    ("distances", "best"),
    [
        ({0.2: {0: 4.0, 1: 9.0}, 0.5: {0: 5.0, 1: 9.5}, 0.9: {0: 6.0}}, [0.2]),  # 0.9 has the lower mean
        ({0.2: {0: 4.0}, 0.5: {1: 5.0}}, []),
    ],
)
def test_the_best_mask_ratio_is_that_of_the_seeds_all_have_in_common(tmp_path, distances, best):
    for ratio, by_seed in distances.items():
        for seed, distance in by_seed.items():
            write_run(tmp_path, "sddit", seed=seed, distance=distance, knobs={"mask_ratio": ratio})
    drawing = MAKERS["5"](gather([tmp_path]))
    assert [row["mask_ratio"] for row in measured_rows(drawing) if row["lowest"]] == best
    assert any("no seed in common" in note for note in drawing.notes) == (not best)


def test_one_mask_ratio_is_no_curve_and_a_method_of_other_steps_is_no_line(tmp_path):
    write_run(tmp_path, "sddit")
    write_run(tmp_path, "dit", protocol={"steps": 3000})
    assert not measured_rows(MAKERS["5"](gather([tmp_path])))
    assert "So far: 0.2" in notes(tmp_path, "5")
    write_run(tmp_path, "sddit", knobs={"mask_ratio": 0.5})
    assert {row["method"] for row in measured_rows(MAKERS["5"](gather([tmp_path])))} == {"sddit"}
    assert "No line for DiT and MDT" in notes(tmp_path, "5")


def test_the_teacher_drawn_as_the_student_is_a_line_with_its_spread(swept):
    rows = measured_rows(swept["6"])
    (row,) = [row for row in rows if row["teacher_sigma"] == "student"]
    assert row["value"] == pytest.approx(8.0 * 1.02)
    assert row["value_sd"] == pytest.approx(8.0 * 0.02)
    assert [row["teacher_sigma"] for row in rows if row["teacher_sigma"] != "student"] == [0.002, 0.1, 0.5]
    assert all(axes.get_xscale() == "log" for axes in swept["6"].figure.axes)


def test_the_area_is_the_density_of_the_student_s_ln_sigma():
    ln_sigma = np.linspace(-9, 7, 4001)
    density = knob.density(np.exp(ln_sigma), specified("figures.yaml")["6"]["density"])
    assert np.trapezoid(density, ln_sigma) == pytest.approx(1, abs=1e-6)
    mean = np.trapezoid(density * ln_sigma, ln_sigma)
    assert mean == pytest.approx(-1.2, abs=1e-6)
    assert np.trapezoid(density * (ln_sigma - mean) ** 2, ln_sigma) == pytest.approx(1.44, abs=1e-5)
