"""The functions that `from harness import ...` gives."""

import pytest
from run_folders import write_run

import harness
from harness.records.schema import read_record
from harness.system.errors import DataError, UsageError

SMALL = {"width": 16, "depth": 3, "num_heads": 2, "batch_size": 8, "steps": 4, "evaluation.num_images": 50}
NAMES = ("run", "sample", "evaluate", "compare", "report")


def test_a_run_is_trained_sampled_and_measured_from_python(tmp_path):
    result = harness.run("dit-tiny", SMALL, out=tmp_path, evaluate=False)
    assert (result.recipe, result.steps) == ("dit-tiny", 4)
    folder = tmp_path / "dit-tiny" / result.run_id
    assert read_record(folder / "result.json", type(result)) == result
    assert harness.run("dit-tiny", SMALL, out=tmp_path, evaluate=False) == result
    drawn = harness.sample(folder, 50, {"num_steps": 3}, labels="random", npz=True)
    measured = harness.evaluate(drawn["files"][-1], reference="digits", features="digits", metrics=["fd"])
    assert list(measured.metrics) == ["fd-digits@50"]
    assert harness.evaluate(folder, {"num_steps": 3}, metrics=["fd"]).metrics == pytest.approx(measured.metrics)


def test_figures_and_a_report_are_written_from_python(tmp_path):
    write_run(tmp_path / "runs", "dit")
    assert harness.compare(tmp_path / "runs", "losses", out=tmp_path / "figures")["files"]
    written = harness.report([str(tmp_path / "runs")], out=tmp_path / "report", formats=["md"])
    assert tmp_path / "report" / "report.md" in written.files


def test_what_cannot_be_done_is_an_error_of_the_harness(tmp_path):
    for wrong in (
        lambda: harness.run("dit-tinny"),
        lambda: harness.run("dit-tiny", {"mask_ratio": 2}, out=tmp_path),
        lambda: harness.sample(tmp_path, 0),
        lambda: harness.sample(tmp_path, labels="sorted"),
    ):
        with pytest.raises(UsageError):
            wrong()
    for missing in (lambda: harness.evaluate(tmp_path / "none.npz"), lambda: harness.compare(tmp_path / "none")):
        with pytest.raises(DataError):
            missing()


def test_settings_are_a_mapping_or_assignments():
    given = harness.assignments({"steps": 200, "data": "digits", "betas": [0.9, 0.99], "guidance_scale": None})
    assert given == ["steps=200", 'data="digits"', "betas=[0.9, 0.99]", "guidance_scale=null"]
    assert harness.assignments(("steps=200",)) == ["steps=200"]


@pytest.mark.parametrize("name", NAMES)
def test_every_function_says_what_it_takes_gives_and_raises(name):
    said = getattr(harness, name).__doc__
    assert all(f"\n    {part}" in said for part in ("Arguments:", "Returns ", "Raises ", "Example:"))
    assert name in dir(harness) or name in harness.__all__
