"""Fig. 3 as data, and what `harness compare` answers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.papers import specified
from harness.records.evidence import gather
from harness.records.schema import Device
from harness.records.store import find_runs
from harness.records.trials import metric_title
from harness.reporting import figures
from harness.reporting.figures import comparison
from harness.reporting.figures.speed_quality import MOST_PANELS, Group, groups, trials_of
from harness.system.errors import UsageError

H200 = Device(name="NVIDIA H200", kind="cuda", count=1, threads=16)


def measured(*roots: Path) -> list[Group]:
    published, *others = groups(find_runs(roots)[0], specified("figures.yaml")["3"])
    assert published.name == "published"
    return others


def labels(group: Group) -> list[str]:
    return [point["label"] for point in group.points]


def test_runs_under_equal_conditions_share_one_panel(four_methods):
    (panel,) = measured(four_methods)
    assert labels(panel) == ["DiT 100%", "MaskDiT 50%", "MDT-lite 100% + 70%", "SD-DiT 80%"]
    assert panel.title == (
        "Measured: digits, tiny, 600 steps, batch 64, fp32, no VAE in the step (cached) — "
        "Intel Xeon Processor, 2 threads"
    )


@pytest.mark.parametrize(
    "different",
    [
        {"protocol": {"steps": 900}},
        {"protocol": {"batch_size": 32}},
        {"protocol": {"learning_rate": 1e-4}},
        {"protocol": {"ema_warmup": False}},
        {"protocol": {"pipeline": "online-vae"}},
        {"device": H200},
        {"device": Device(name="Intel(R) Xeon(R) Processor", kind="cpu", count=1, threads=4)},
        {"evaluation": {"num_images": 2000}},
        {"evaluation": {"features_sha256": "0" * 8}},
        {"evaluation": {"reference_sha256": "0" * 8}},
        {"evaluation": {"label_rule": "balanced"}},
        {"evaluation": {"uint8_rule": "truncate"}},
        {"evaluation": {"seed": 1}},
        {"evaluation": {"vae": "ft-mse"}},
        {"evaluation": {"guidance_scale": 1.5}},
        {"precision": {"tf32": True}},
    ],
    ids=str,
)
def test_a_panel_never_mixes_protocols(run_folder, tmp_path, different):
    run_folder("dit")
    run_folder("sddit", **different)
    panels = measured(tmp_path)
    assert [len(panel.points) for panel in panels] == [1, 1]
    assert panels[0].title != panels[1].title


def test_formulation_and_sampler_may_differ_within_a_panel_and_are_named(run_folder, tmp_path):
    run_folder("dit")
    run_folder("mdt")
    assert not any("sampler" in note for note in measured(tmp_path)[0].notes)
    run_folder("sddit")
    (panel,) = measured(tmp_path)
    ways = {tuple(point[name] for name in ("formulation", "sampler", "num_steps", "nfe")) for point in panel.points}
    assert ways == {("iddpm", "ddpm", 50, 50), ("edm", "heun", 18, 35)}
    assert any("Formulation and sampler differ" in note and "35 network evaluations" in note for note in panel.notes)


def test_seeds_of_one_method_are_one_point_with_mean_and_spread_and_one_seed_has_no_spread(run_folder, tmp_path):
    run_folder("dit", seed=0, speed=9.0, distance=4.0)
    (panel,) = measured(tmp_path)
    assert (panel.points[0]["steps_per_sec_sd"], panel.points[0]["n"]) == (None, 1)
    assert any(note.startswith("n = 1") for note in panel.notes)
    for seed, speed, distance in ((1, 10.0, 5.0), (2, 11.0, 9.0)):
        run_folder("dit", seed=seed, speed=speed, distance=distance)
    (point,) = measured(tmp_path)[0].points
    assert (point["steps_per_sec"], point["steps_per_sec_sd"], point["n"]) == (10.0, 1.0, 3)
    assert point["value"] == 6.0
    assert point["value_sd"] == pytest.approx(7**0.5)  # deviations -2, -1, 3 over n - 1


def test_runs_that_differ_in_a_knob_are_two_points_told_apart_by_it(run_folder, tmp_path):
    run_folder("sddit", knobs={"num_prototypes": 256})
    run_folder("sddit", knobs={"num_prototypes": 512}, seed=1)
    (panel,) = measured(tmp_path)
    assert set(labels(panel)) == {"SD-DiT 80% (num_prototypes 256)", "SD-DiT 80% (num_prototypes 512)"}
    assert [point["n"] for point in panel.points] == [1, 1]


def test_relative_values_are_divided_by_the_dit_of_the_same_panel(run_folder, tmp_path):
    run_folder("dit", speed=10.0, distance=4.0)
    run_folder("sddit", speed=5.0, distance=12.0)
    run_folder("sddit", speed=50.0, distance=2.0, device=H200)
    run_folder("dit", evaluation={"num_steps": 250, "nfe": 250}, seed=1, protocol={"steps": 900})
    run_folder("dit", seed=2, protocol={"steps": 900})  # two points of DiT in one panel: none to divide by
    found = groups(find_runs([tmp_path])[0], specified("figures.yaml")["3"])
    ratios = {
        (len(group.points), point["method"]): (point["speed_relative_to_dit"], point["value_relative_to_dit"])
        for group in found
        for point in group.points
        if (group.measured, point["method"]) != (False, "dit")
    }
    assert ratios == {
        (3, "mdt"): (pytest.approx(2.4 / 5.03), pytest.approx(53.46 / 68.40)),  # published
        (3, "sddit"): (pytest.approx(9.2 / 5.03), pytest.approx(48.39 / 68.40)),
        (2, "dit"): (None, None),
        (2, "sddit"): (0.5, 3.0),
        (1, "sddit"): (None, None),
    }


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"speed": None}, "no steps per second"),
        ({"distance": None}, "no evaluation called 'final'"),
        ({"metrics": {"precision": 0.5}}, "no metric called fid... or fd-..."),
    ],
)
def test_a_run_without_its_numbers_is_left_out_with_the_reason(run_folder, tmp_path, settings, reason):
    run_folder("dit")
    run_folder("mdt", **settings)
    trials, left_out = trials_of(find_runs([tmp_path])[0])
    assert [trial.method for trial in trials] == ["dit"]
    assert reason in left_out[0].reason


def test_only_50k_images_through_inception_are_called_fid(run_folder, tmp_path):
    run_folder("dit", metrics={"fid10k": 12.0})
    run_folder("mdt", metrics={"fid50k": 12.0, "fid10k": 13.0})
    run_folder("sddit", metrics={"fid_infinity50k": 1.0, "kid50k": 0.1})  # neither is a FID
    titles = {panel.metric: metric_title(panel.metric) for panel in measured(tmp_path)}
    assert titles == {"fid10k": "fid10k", "fid50k": "FID-50K"}


def test_a_tiny_run_is_not_comparable_with_the_paper_and_says_why(four_methods):
    published, panel = groups(find_runs([four_methods])[0], specified("figures.yaml")["3"])
    assert [row["method"] for row in published.rows()] == ["dit", "mdt", "sddit"]  # MaskDiT's has no value, so no row
    assert {row["comparable_with_paper"] for row in published.rows()} == {"yes"}
    assert {row["comparable_with_paper"] for row in panel.rows()} == {"no"}
    assert "data digits instead of ImageNet 256" in panel.differences.values()
    lite = next(point for point in panel.points if point["method"] == "mdt")
    assert "relative_position False instead of True" in lite["differences"].values()


def test_runs_of_the_ablations_are_counted_and_kept_but_not_drawn(run_folder, tmp_path):
    for method in ("dit", "mdt", "sddit"):
        run_folder(method)
    for ratio in (0.1, 0.5, 0.9):
        run_folder("sddit", knobs={"mask_ratio": ratio}, speed=5.0)
    (panel,) = measured(tmp_path)
    drawn = [point["label"] for point in panel.drawn_points]
    assert drawn == ["DiT 100%", "MDT-lite 100% + 70%", "SD-DiT 80%"]
    assert [row["drawn"] for row in panel.rows()] == ["yes"] * 3 + ["no"] * 3
    assert any("3 more points" in note for note in panel.notes)


def test_other_budgets_of_the_same_methods_are_kept_as_data_and_not_drawn(run_folder, tmp_path):
    for method in ("dit", "sddit"):
        run_folder(method)
    run_folder("dit", protocol={"steps": 3000})
    run_folder("sddit", protocol={"steps": 225, "batch_size": 256})
    run_folder("mdt", protocol={"steps": 900})  # the only one of its method, so it is drawn
    found = measured(tmp_path)
    drawn = [{point["method"] for point in panel.points} for panel in found if panel.drawn]
    assert drawn == [{"dit", "sddit"}, {"mdt"}]
    assert len(found) == 4


def test_of_many_panels_only_the_first_are_drawn_and_the_others_counted(run_folder, tmp_path):
    for i in range(9):
        run_folder("dit", protocol={"learning_rate": 1e-3 * (i + 1)})
    drawing = figures.MAKERS["3"](gather([tmp_path]))
    assert len(drawing.rows) == 3 + 9
    assert len(drawing.figure.axes) == 1 + MOST_PANELS + 1
    assert f"{9 - MOST_PANELS} more panels" in drawing.notes[-1]


def test_the_json_is_plain_and_names_what_was_left_out(run_folder, tmp_path):
    run_folder("dit")
    run_folder("mdt", finished=False)
    run_folder("sddit", speed=None)
    answer = comparison.compare([tmp_path / "runs"], "all", tmp_path / "out")
    document = json.loads(json.dumps(answer, allow_nan=False))
    published, own = document["figures"]["3"]["panels"]
    assert [point["value"] for point in published["points"]] == [68.40, 53.46, 48.39]
    assert own["points"][0]["seeds"] == [0]
    assert document["figures"]["3"]["missing"][0]["model"] == "MaskDiT-S/2"
    reasons = " ".join(item["reason"] for item in document["left_out"])
    assert "unfinished" in reasons
    assert "no steps per second" in reasons
    assert len(document["left_out"]) == 2
    for figure in document["figures"].values():
        assert {"title", "notes", "rows", "files"} <= figure.keys()
    assert [Path(path).suffix for path in document["figures"]["4"]["files"]] == [".png", ".svg", ".csv"]
    assert all(Path(path).exists() for path in document["files"])
    assert {claim["verdict"] for claim in document["claims"]}


def test_the_command_answers_with_one_figure_in_json_and_an_unknown_one_with_the_known(four_methods, tmp_path):
    arguments = ["compare", str(four_methods), "--figure", "5", "--out", str(tmp_path / "out"), "--json"]
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 0
    document = json.loads(answer.stdout)
    assert list(document["figures"]) == ["5"]
    assert [Path(path).name for path in document["files"]] == ["figure5.png", "figure5.svg", "figure5.csv"]
    assert document["left_out"] == []
    known = "Available: 3, 4, 5, 6, 7, all, cost, held-out, losses, memory"
    with pytest.raises(UsageError, match=rf"no figure is called '9'.*{known}"):
        comparison.compare([four_methods], "9", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_figures_and_reports_import_no_torch_and_no_baseline(four_methods, tmp_path):
    script = f"""
import sys
from pathlib import Path
from harness.reporting import report
from harness.reporting.figures import comparison
comparison.compare([Path({str(four_methods)!r})], "all", Path({str(tmp_path / "out")!r}))
report.write([Path({str(four_methods)!r})], Path({str(tmp_path / "out")!r}))
packages = ("torch", "torchvision", "torch_fidelity", "sklearn")
heavy = sorted(name for name in sys.modules if name.split(".")[0] in packages)
heavy += sorted(name for name in sys.modules if name.startswith("baselines."))  # the empty package is no baseline
assert not heavy, heavy
assert "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
