"""Fig. 4, 5 and 6: convergence, mask ratio, teacher noise."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from figure_runs import ablations, every_line, measured_rows, texts, with_curve
from matplotlib.axes import Axes

from harness.papers.sddit import numbers as published
from harness.records.evidence import Evidence, gather
from harness.records.schema import Device
from harness.report import figures
from harness.report.figures import convergence, mask_ratio, teacher_noise

H200 = Device(name="NVIDIA H200", kind="cuda", count=2, threads=16)
NUMBERS = ("4", "5", "6")
X_COLUMNS = {"step": "step", "images": "images", "hours": "hours", "device_hours": "device_hours"}
NOTHING = Evidence()


@pytest.fixture
def sweep(tmp_path) -> Callable[..., Evidence]:
    return lambda seeds=3: ablations(tmp_path / "runs", seeds)


def bars(axes: Axes) -> int:
    return sum(len(bars.get_segments()) for container in axes.containers for bars in container.lines[2])


def test_figure_4_draws_exactly_the_numbers_of_its_csv(sweep):
    drawing = convergence.make(sweep())
    expected: dict[str, tuple[list, list]] = {}
    for row in drawing.rows:
        if row["kind"] == "measured":
            names = {f"{row['panel']}/{row['label']}/{axis}": row[column] for axis, column in X_COLUMNS.items()}
        else:
            names = {f"published/{row['label']}/{row['series']}": row["step"]}
        for name, x in names.items():
            xs, ys = expected.setdefault(name, ([], []))
            xs.append(x)
            ys.append(row["value"])
    for name, (xs, ys) in every_line(drawing.figure).items():
        per_hour = 60 if name.endswith("hours") else 1  # drawn in minutes
        assert xs == pytest.approx([x * per_hour for x in expected[name][0]]), name
        assert ys == expected[name][1]
    assert every_line(drawing.figure).keys() == expected.keys()


@pytest.mark.parametrize(("module", "x"), [(mask_ratio, "mask_ratio"), (teacher_noise, "teacher_sigma")])
def test_figures_5_and_6_draw_exactly_the_numbers_of_their_csv(sweep, module, x):
    drawing = module.make(sweep())
    drawn = every_line(drawing.figure)
    points = [row for row in drawing.rows if row["lowest"] is not None]
    levels = [row for row in drawing.rows if row["lowest"] is None]
    assert {f"{row['panel']}/{row['label']}" for row in drawing.rows} == drawn.keys()
    for panel in {row["panel"] for row in points}:
        ours = [row for row in points if row["panel"] == panel]
        (label,) = {row["label"] for row in ours}
        assert drawn[f"{panel}/{label}"] == ([row[x] for row in ours], [row["value"] for row in ours])
    for row in levels:
        assert set(drawn[f"{row['panel']}/{row['label']}"][1]) == {row["value"]}


@pytest.mark.parametrize("number", NUMBERS)
def test_published_points_are_those_of_the_published_table_with_source_and_protocol(number):
    rows = figures.MAKERS[number](NOTHING).rows
    table = published.figure(number)
    printed = table[table["quality"] != "missing"]
    told = {(row["value"], row["source"], row["quality"], row["protocol"]) for row in rows}
    wanted = printed[["value", "source", "quality", "protocol"]].itertuples(index=False, name=None)
    assert told >= set(wanted)
    beside = [row for row in rows if row["source"] not in set(printed["source"])]
    assert [row["label"] for row in beside] == (["DiT-S/2, 400k steps"] if number == "5" else [])


@pytest.mark.parametrize(
    ("number", "absent"),
    [("4", "MaskDiT-XL/2, all plotted steps except 1300k"), ("5", "0.1, 0.3, 0.4"), ("6", "sigma_T 0.3")],
)
def test_what_the_paper_only_draws_is_named_and_not_drawn(number, absent):
    drawing = figures.MAKERS[number](NOTHING)
    assert not any(math.isnan(row["value"]) for row in drawing.rows)
    assert any(absent in note for note in drawing.notes)
    assert absent.split(",")[0] in texts(drawing.figure)


@pytest.mark.parametrize(("number", "sweep_name"), [("4", "convergence"), ("5", "mask-ratio"), ("6", "teacher-noise")])
def test_without_measurements_the_published_panel_stands_alone_and_says_how_to_measure(number, sweep_name):
    drawing = figures.MAKERS[number](NOTHING)
    assert len(drawing.figure.axes) == 1
    assert not measured_rows(drawing)
    assert any(f"`harness sweep {sweep_name}`" in note for note in drawing.notes)


@pytest.mark.parametrize(("number", "sweep_name"), [("4", "convergence"), ("5", "mask-ratio"), ("6", "teacher-noise")])
def test_beside_tiny_runs_alone_the_sweep_of_that_scale_is_named(number, sweep_name, run_folder, tmp_path):
    run_folder("sddit")
    notes = figures.MAKERS[number](gather([tmp_path / "runs"])).notes
    assert any(f"`harness sweep {sweep_name} --scale tiny`" in note for note in notes)


@pytest.mark.parametrize("number", ["5", "6"])
def test_published_points_between_which_values_are_missing_are_not_joined(number):
    (axes,) = figures.MAKERS[number](NOTHING).figure.axes
    with_markers = [line for line in axes.get_lines() if line.get_marker() != "None"]
    assert {line.get_linestyle() for line in with_markers} == {"None"}


def test_published_curves_are_joined_within_one_source_only():
    (axes,) = convergence.make(NOTHING).figure.axes
    several = [line for line in axes.get_lines() if line.get_gid() and len(line.get_xdata()) > 1]
    joined = {line.get_gid() for line in several if line.get_linestyle() != "None"}
    assert len(several) > len(joined)  # MDT's points come from three tables
    assert joined == {"published/SD-DiT/SD-DiT Fig.4", "published/DiT/DiT XL/2 FID vs steps"}


@pytest.mark.parametrize("number", NUMBERS)
def test_error_bars_stand_for_several_seeds_and_one_seed_says_so(sweep, number):
    drawing = figures.MAKERS[number](sweep(1))
    assert [bars(axes) for axes in drawing.figure.axes] == [0] * len(drawing.figure.axes)
    assert {row["value_sd"] for row in drawing.rows} == {None}
    assert any(note.startswith("n = 1") for note in drawing.notes)


@pytest.mark.parametrize("number", NUMBERS)
def test_several_seeds_are_a_mean_with_error_bars(sweep, number):
    drawing = figures.MAKERS[number](sweep(3))
    published_axes, *others = drawing.figure.axes
    assert bars(published_axes) == 0
    assert all(bars(axes) > 1 for axes in others)
    assert {row["n"] for row in measured_rows(drawing)} == {3}
    assert any("n = 3 seeds each" in note for note in drawing.notes)


def test_the_longer_run_is_a_line_of_its_own_and_thinner(sweep):
    drawing = convergence.make(sweep())
    axes = drawing.figure.axes[1]
    found = {line.get_gid().split("/")[1]: line for line in axes.get_lines() if line.get_gid()}
    assert set(found) == {"DiT, 600 steps", "MDT-lite, 600 steps", "SD-DiT, 600 steps", "DiT, 3000 steps"}
    assert list(found["DiT, 600 steps"].get_xdata()) == [150, 300, 450, 600]
    assert list(found["DiT, 3000 steps"].get_xdata()) == [300, 600, 1500, 3000]
    assert found["DiT, 3000 steps"].get_linewidth() < found["DiT, 600 steps"].get_linewidth()


def test_times_are_steps_at_the_run_s_speed_and_count_every_device(run_folder, tmp_path):
    for seed, speed in enumerate((10.0, 20.0)):
        with_curve(run_folder("dit", seed=seed, speed=speed, device=H200), {300: 9.0})
    rows = {row["step"]: row for row in measured_rows(convergence.make(gather([tmp_path / "runs"])))}
    assert rows[300]["hours"] == pytest.approx((30 + 15) / 2 / 3600)
    assert rows[600]["hours"] == pytest.approx((60 + 30) / 2 / 3600)
    assert rows[600]["device_hours"] == pytest.approx(2 * rows[600]["hours"])
    assert rows[600]["images"] == 600 * 64


def test_times_of_another_machine_are_not_mixed_in(run_folder, tmp_path):
    for seed in range(2):
        with_curve(run_folder("dit", seed=seed, speed=10.0), {300: 9.0})
    with_curve(run_folder("mdt", speed=1000.0, device=H200), {300: 9.0})
    drawing = convergence.make(gather([tmp_path / "runs"]))
    assert {row["label"]: row["hours"] is None for row in measured_rows(drawing)} == {
        "DiT, 600 steps": False,
        "MDT-lite, 600 steps": True,
    }
    assert any("Without times: 1 run of another machine" in note for note in drawing.notes)
    assert not [name for name in every_line(drawing.figure) if "MDT" in name and name.endswith("hours")]


def test_a_run_of_another_batch_is_counted_and_not_drawn(sweep, run_folder, tmp_path):
    before = convergence.make(sweep(1)).rows
    folder = run_folder("mdt", distance=1.0, protocol={"steps": 225, "batch_size": 256})
    with_curve(folder, {100: 2.0})
    after = convergence.make(gather([tmp_path / "runs"]))
    assert after.rows == before
    assert "Not drawn: 1 run of another batch." in after.notes


def test_a_step_that_not_every_seed_was_evaluated_at_is_not_drawn(run_folder, tmp_path):
    with_curve(run_folder("dit", seed=0), {150: 20.0, 300: 9.0})
    with_curve(run_folder("dit", seed=1), {300: 9.0})
    rows = measured_rows(convergence.make(gather([tmp_path / "runs"])))
    assert [row["step"] for row in rows] == [300, 600]


def test_the_curves_are_of_the_paper_s_knobs_or_say_which_they_have(run_folder, tmp_path):
    with_curve(run_folder("dit"), {300: 9.0})
    with_curve(run_folder("sddit", knobs={"mask_ratio": 0.5}), {300: 9.0})
    evidence = gather([tmp_path / "runs"])
    labels = {row["label"] for row in measured_rows(convergence.make(evidence))}
    assert labels == {"DiT, 600 steps", "SD-DiT (mask_ratio 0.5), 600 steps"}
    with_curve(run_folder("sddit", seed=1), {300: 9.0})
    labels = {row["label"] for row in measured_rows(convergence.make(gather([tmp_path / "runs"])))}
    assert labels == {"DiT, 600 steps", "SD-DiT, 600 steps"}


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    "different", [{"protocol": {"learning_rate": 1e-4}}, {"evaluation": {"num_images": 2000}}], ids=str
)
def test_runs_of_another_protocol_have_a_panel_of_their_own(sweep, run_folder, tmp_path, number, different):
    before = figures.MAKERS[number](sweep(2))
    for ratio in (0.2, 0.5):
        for sigma in (0.002, 0.5):
            knobs = {"mask_ratio": ratio, "discriminate": True, "teacher_sigma": sigma}
            with_curve(run_folder("sddit", seed=5, knobs=knobs, distance=50.0, **different), {300: 60.0})
    after = figures.MAKERS[number](gather([tmp_path / "runs"]))
    panels = [list(dict.fromkeys(row["panel"] for row in drawing.rows)) for drawing in (before, after)]
    assert panels[1][: len(panels[0])] == panels[0]
    assert len(panels[1]) == len(panels[0]) + 1
    for row in after.rows:
        assert (row["value"] >= 50.0 and row["kind"] == "measured") == (row["panel"] == panels[1][-1])


@pytest.mark.parametrize("module", [mask_ratio, teacher_noise])
def test_runs_of_another_budget_do_not_enter_a_point(sweep, run_folder, tmp_path, module):
    before = module.make(sweep(2)).rows
    for steps, batch_size in ((1200, 64), (150, 256)):
        knobs = {"mask_ratio": 0.5, "discriminate": True, "teacher_sigma": 0.5}
        protocol = {"steps": steps, "batch_size": batch_size}
        run_folder("sddit", seed=7, distance=1.0, knobs=knobs, protocol=protocol)
    assert module.make(gather([tmp_path / "runs"])).rows == before


def test_the_best_mask_ratio_is_ringed_and_told(sweep):
    drawing = mask_ratio.make(sweep())
    rings = {}
    for axes in drawing.figure.axes:
        (ring,) = [line for line in axes.get_lines() if line.get_markersize() > 8]
        rings[axes] = (ring.get_xdata()[0], round(ring.get_ydata()[0], 3))
    assert list(rings.values()) == [(0.2, 48.39), (0.2, 6.12)]
    assert "Lowest mean: 6.12 at mask ratio 0.2." in drawing.notes
    assert [row["mask_ratio"] for row in drawing.rows if row["lowest"]] == [0.2, 0.2]


def test_the_best_mask_ratio_is_that_of_the_seeds_all_have_in_common(run_folder, tmp_path):
    for ratio, distances in {0.2: (4.0, 9.0), 0.5: (5.0, 9.5), 0.9: (6.0,)}.items():
        for seed, distance in enumerate(distances):
            run_folder("sddit", seed=seed, distance=distance, knobs={"mask_ratio": ratio})
    drawing = mask_ratio.make(gather([tmp_path / "runs"]))
    assert [row["mask_ratio"] for row in measured_rows(drawing) if row["lowest"]] == [0.2]  # 0.9 has the lower mean
    assert drawing.figure is not None


def test_mask_ratios_without_a_common_seed_have_no_best_one(run_folder, tmp_path):
    for seed, ratio in enumerate((0.2, 0.5)):
        run_folder("sddit", seed=seed, knobs={"mask_ratio": ratio})
    drawing = mask_ratio.make(gather([tmp_path / "runs"]))
    assert not [row for row in measured_rows(drawing) if row["lowest"]]
    assert any("no seed in common" in note for note in drawing.notes)


def test_the_lines_of_figure_5_are_the_setting_s_own_dit_and_mdt_at_the_same_steps(sweep):
    levels = [row for row in measured_rows(mask_ratio.make(sweep())) if row["mask_ratio"] is None]
    assert {row["label"]: round(row["value"], 6) for row in levels} == {
        "DiT, the same steps": 5.1,  # and not the 2.04 of the longer run
        "MDT-lite, the same steps": 4.08,
    }


def test_a_method_that_did_not_run_at_these_steps_has_no_line_and_is_named(run_folder, tmp_path):
    for ratio in (0.2, 0.5):
        run_folder("sddit", knobs={"mask_ratio": ratio})
    run_folder("dit", protocol={"steps": 3000})
    drawing = mask_ratio.make(gather([tmp_path / "runs"]))
    assert not [row for row in measured_rows(drawing) if row["method"] != "sddit"]
    assert any("No line for DiT and MDT" in note for note in drawing.notes)


def test_one_mask_ratio_is_no_curve_and_is_told(run_folder, tmp_path):
    run_folder("sddit")
    drawing = mask_ratio.make(gather([tmp_path / "runs"]))
    assert not measured_rows(drawing)
    assert any("So far: 0.2" in note for note in drawing.notes)


def test_the_teacher_drawn_as_the_student_is_a_line_with_its_spread(sweep):
    drawing = teacher_noise.make(sweep())
    (row,) = [row for row in measured_rows(drawing) if row["teacher_sigma"] == "student"]
    assert row["value"] == pytest.approx(8.0 * 1.02)
    assert row["value_sd"] == pytest.approx(8.0 * 0.02)
    fixed = [row["teacher_sigma"] for row in measured_rows(drawing) if row["teacher_sigma"] != "student"]
    assert fixed == [0.002, 0.1, 0.5]
    assert all(axes.get_xscale() == "log" for axes in drawing.figure.axes)


def test_the_area_is_the_density_of_the_student_s_ln_sigma():
    ln_sigma = np.linspace(-9, 7, 4001)
    density = teacher_noise.density(np.exp(ln_sigma))
    assert np.trapezoid(density, ln_sigma) == pytest.approx(1, abs=1e-6)
    mean = np.trapezoid(density * ln_sigma, ln_sigma)
    assert mean == pytest.approx(-1.2, abs=1e-6)
    assert np.trapezoid(density * (ln_sigma - mean) ** 2, ln_sigma) == pytest.approx(1.44, abs=1e-5)
