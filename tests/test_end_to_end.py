"""The whole story, at a size for a test: four runs, the figure and the report, from one command."""

import csv
import json

import pytest
from command_line import QUICK_EVALUATION, invoke

from harness.cli.results import DEMO
from harness.records.schema import Result, read_record

pytestmark = pytest.mark.slow

TINY = ["--set", "width=16", "--set", "num_heads=2", "--set", "batch_size=8", "--steps", "14"]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    done = invoke("demo", "--out", "out", "--runs", "runs", *TINY, *QUICK_EVALUATION, "--json", cwd=folder)
    assert done.exit_code == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_the_demo_trains_and_evaluates_all_four_methods(told):
    folder, _ = told
    results = [read_record(path, Result) for path in folder.glob("out/runs/*/*/result.json")]
    assert {result.recipe for result in results} == set(DEMO)
    for result in results:
        assert set(result.evaluations) == {"untrained", "final"}
        assert result.steps_per_sec > 0
    assert {result.input_patches for result in results} == {"100%", "50%", "100% + 70%", "80%"}


def test_the_demo_draws_the_figure_and_writes_the_report(told):
    folder, answer = told
    names = {name.rsplit("/", 1)[-1] for name in answer["files"]}
    assert names >= {"figure3.png", "figure3.svg", "figure3.csv", "report.md"}
    assert all((folder / name).stat().st_size > 500 for name in answer["files"])
    report = (folder / "out" / "report.md").read_text()
    assert "48.39" in report
    assert "fd-digits@60" in report


def test_measured_and_published_points_stand_in_the_csv_apart_and_the_missing_one_has_no_value(told):
    folder, _ = told
    rows = list(csv.DictReader((folder / "out" / "figure3.csv").read_text().splitlines()))
    points = {(row["kind"], row["method"]) for row in rows}
    assert points == {("published", method) for method in ("dit", "mdt", "sddit")} | {
        ("measured", method) for method in ("dit", "maskdit", "mdt", "sddit")
    }
    published = {row["method"]: (row["steps_per_sec"], row["value"]) for row in rows if row["kind"] == "published"}
    assert published == {"dit": ("5.03", "68.4"), "mdt": ("2.4", "53.46"), "sddit": ("9.2", "48.39")}


def test_the_records_beside_the_report_hold_no_weights(told):
    folder, _ = told
    assert not list((folder / "out").rglob("*.safetensors"))
    assert not list((folder / "out").rglob("*.pt"))


def test_the_report_is_drawn_again_from_the_records_alone(told):
    folder, _ = told
    done = invoke("report", "out/runs", "--out", "again", cwd=folder)
    assert done.exit_code == 0, done.stderr
    assert (folder / "again" / "report.md").read_text() == (folder / "out" / "report.md").read_text()


def test_a_failing_run_ends_the_demo_with_its_own_exit_code(tmp_path):
    done = invoke("demo", "--set", "mask_ratio=2", cwd=tmp_path)
    assert done.exit_code == 2
    assert "the demo stopped at dit-tiny" in done.stderr
