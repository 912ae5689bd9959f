"""`harness reproduce` carries a run out again: bit for bit where it can be, else within what tells seeds apart."""

import copy
import inspect
import json
import os
import shutil
import signal
from collections import defaultdict
from pathlib import Path

import pytest
import torch
import yaml
from command_line import invoke
from small import small_config
from tiny_run import trained

from harness.cli import reproduce as cli_reproduce
from harness.recipes.naming import digest
from harness.records import provenance
from harness.records.finding import found_below
from harness.records.run_folder import RunFolder
from harness.records.schema import Manifest, read_record
from harness.records.store import find_runs
from harness.runs.reproduce import comparison
from harness.runs.reproduce.comparison import EXACT, TOLERANT
from harness.runs.reproduce.reproduce import reproduce, restored
from harness.system.errors import DataError, Preempted, SetupError, UsageError
from harness.system.processes.world import World
from harness.system.progress import NoProgress
from harness.training.step import TrainStep

REPORTS = Path(__file__).parents[2] / "reports"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def committed(monkeypatch):
    """The tree that the tests run in may change while they do."""
    monkeypatch.setattr(provenance, "git_state", lambda: ("c" * 40, None))


def logged(run: RunFolder, lines: list[dict]) -> RunFolder:
    """The run with these lines as its log."""
    again = copy.copy(run)
    again.metrics = lines
    return again


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    cfg = small_config("sddit", "steps=6", "num_images=50", "num_steps=3", "untrained=false", "metrics=[fd,precision]")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "git_state", lambda: ("c" * 40, None))
        return trained(cfg, root, "harness run sddit-tiny", evaluate=True)


@pytest.fixture
def record(made, tmp_path):
    folder = tmp_path / "record" / made.parent.name / made.name
    shutil.copytree(made, folder)
    return folder


def again(record: Path, *, steps: int | None = None, force: bool = False):
    return reproduce(
        record, record.parents[1] / "again", steps=steps, force=force, progress=NoProgress(), world=World()
    )


def change(path: Path, **facts) -> None:
    document = json.loads(path.read_text())
    document.pop("sha256", None)
    path.write_text(json.dumps(document | facts))


def of(document: dict, what: str) -> dict:
    return next(row for row in document["rows"] if row["what"].startswith(what))


def test_on_the_same_machine_every_number_is_the_same_bit_for_bit(record):
    document = again(record)
    assert (document["comparison"], document["reproduced"], document["environment"]) == (EXACT, True, [])
    assert {row["allowed"] for row in document["rows"]} == {"equal"}
    for what in ("configuration", "loss,", "raw weights", "averaged weights", "final: images", "final: fd"):
        assert of(document, what)["reproduced"] is True


def test_a_run_that_was_stopped_by_a_signal_and_continued_is_reproduced(tmp_path, monkeypatch):
    cfg = small_config(
        "sddit", "steps=6", "log_every=5", "checkpoint_every=6", "num_images=50", "num_steps=3", "untrained=false"
    )
    taken = TrainStep.__call__

    def signalled(self, batch, step, **asked):
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return taken(self, batch, step, **asked)

    monkeypatch.setattr(TrainStep, "__call__", signalled)
    with pytest.raises(Preempted, match="SIGTERM at step 4: saved"):
        trained(cfg, tmp_path / "r")
    monkeypatch.setattr(TrainStep, "__call__", taken)
    folder = trained(cfg, tmp_path / "r")
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [5, 6]
    done = invoke("reproduce", str(folder), "--out", str(tmp_path / "again"), "--json")
    assert done.exit_code == 0, done.output


def test_a_line_that_an_older_version_wrote_at_a_stop_is_left_out_with_the_next_one(record):
    lines = [{"step": step, "loss": loss} for step, loss in ((2, 1.0), (3, 5.0), (4, 7.0), (6, 2.0))]
    (record / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (record / "events.jsonl").write_text(json.dumps({"event": "preemption", "step": 3, "signal": "SIGTERM"}) + "\n")
    now = logged(RunFolder(record), [{"step": 2, "loss": 1.0}, {"step": 4, "loss": 6.0}, lines[3]])
    rows = comparison.losses(RunFolder(record), now, EXACT, None)
    assert [(row.what, row.reproduced) for row in rows] == [
        ("losses at 3, 4", None), ("loss, 2 lines to step 6; worst at 2", True),
    ]  # fmt: skip


def test_a_number_that_is_not_the_same_is_not_reproduced(record):
    lines = [json.loads(line) for line in (record / "metrics.jsonl").read_text().splitlines()]
    lines[-1]["loss"] *= 1 + 1e-12
    (record / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = invoke("reproduce", str(record), "--out", str(record.parents[1] / "again"), "--json")
    assert done.exit_code == 6, done.output
    document = json.loads(done.stdout)
    assert [row["what"][:5] for row in document["rows"] if row["reproduced"] is False] == ["loss,"]


def test_a_record_without_weights_is_compared_by_losses_and_metrics(record):
    shutil.rmtree(record / "checkpoints")
    document = again(record)
    assert document["reproduced"]
    assert of(document, "raw weights")["reproduced"] is None
    assert of(document, "final: weights")["reproduced"] is True, "the evaluation still knows their hash"


def test_on_another_machine_the_tolerance_applies_and_the_difference_is_told(record):
    manifest = json.loads((record / "manifest.json").read_text())
    change(record / "manifest.json", device=manifest["device"] | {"name": "Another Processor"}, python="3.10.0")
    document = again(record, steps=2)
    assert (document["comparison"], document["reproduced"]) == (TOLERANT, True)
    assert "device name" in document["why"]
    assert {item["what"] for item in document["environment"]} >= {"device name", "Python"}


def test_the_first_steps_are_those_of_the_whole_run_whatever_the_method_makes_of_its_budget(record):
    """The re-run keeps the budget and is stopped: SD-DiT's teacher follows the share of it that is done."""
    document = again(record, steps=4)
    assert (document["steps"], document["of_steps"], document["comparison"]) == (4, 6, EXACT)
    assert document["reproduced"]
    assert again(record, steps=4)["reproduced"], "repeated, it compares what is there"


def other_data(record: Path) -> None:
    manifest = json.loads((record / "manifest.json").read_text())
    change(record / "manifest.json", data=manifest["data"] | {"sha256": "0" * 64})


def setting_that_is_unknown(record: Path) -> None:
    config = yaml.safe_load((record / "config.yaml").read_text())
    config["protocol"]["invented"] = 1
    (record / "config.yaml").write_text(yaml.safe_dump(config))


def log_cut_short(record: Path) -> None:
    (record / "metrics.jsonl").write_text((record / "metrics.jsonl").read_text().splitlines(keepends=True)[0])


@pytest.mark.parametrize(("spoil", "steps", "error", "says"), [
    (shutil.rmtree, None, DataError, "not a run folder"),
    (lambda record: (record / "manifest.json").unlink(), None, DataError, "cannot be reproduced"),
    (lambda record: (record / "import.json").write_text("{}"), None, DataError, "an imported checkpoint"),
    (other_data, None, DataError, "not what the run was made with"),
    (setting_that_is_unknown, None, SetupError, "cannot carry out"),
    (lambda record: change(record / "manifest.json", harness_version="9.1.0"), None, SetupError, r"harness 9\.1\.0"),
    (lambda record: change(record / "manifest.json", world_size=2), None, UsageError, "say --nproc 2"),
    (log_cut_short, 4, UsageError, "log ends at step 2"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_is_trained(record, spoil, steps, error, says):
    spoil(record)
    with pytest.raises(error, match=says):
        again(record, steps=steps)
    assert not (record.parents[1] / "again").exists()


def test_a_record_that_is_older_than_some_settings_gets_the_recipes_and_is_told():
    found = restored(next((REPORTS / "demo" / "runs" / "dit-tiny").iterdir()))
    assert "sampling.guidance_interval" in found.completed
    assert found.cfg.protocol.learning_rate == 0.006


def of_two_seeds() -> list[tuple[RunFolder, RunFolder]]:
    """Pairs of committed runs that differ in their seed alone."""
    settings = defaultdict(list)
    for run in find_runs([REPORTS / "tiny" / "runs"])[0]:
        rest = {key: value for key, value in run.config.items() if key not in ("seed", "execution")}
        settings[digest(rest)].append(RunFolder(run.path, run.name))
    return [(a, b) for runs in settings.values() for i, a in enumerate(runs) for b in runs[i + 1 :]]


def test_the_tolerance_of_the_first_lines_tells_seeds_apart_in_every_committed_setting():
    """Each pair of committed runs that differ in their seed alone would not pass for one another."""
    pairs = of_two_seeds()
    assert len(pairs) > 40
    for one, other in pairs:
        rows = comparison.losses(one, other, TOLERANT, comparison.FIRST_STEPS)
        assert any(row.reproduced is False for row in rows), (one.name, other.name)


def test_lines_of_a_hundred_steps_never_confirm_a_run_of_another_seed():
    """What a larger recipe's log would say of the same runs."""
    near, pairs = 0, of_two_seeds()
    for one, other in pairs:
        wide = [logged(run, in_windows(run.metrics, 4)) for run in (one, other)]
        rows = comparison.losses(*wide, TOLERANT, None)
        refuted = any(row.reproduced is False for row in rows)
        near += not refuted
        assert refuted or comparison.SEEDS in [row.what for row in rows], (one.name, other.name)
    assert near > 5, "the wider tolerances alone would let these pass"


def in_windows(lines: list[dict], count: int) -> list[dict]:
    """The log as it would be with a line for each `count` of these, as of 120 steps in place of 30."""
    wide = []
    for i in range(0, len(lines) - count + 1, count):
        part = lines[i : i + count]
        means = {k: sum(line[k] for line in part) / count for k in part[0] if k == "loss" or k.startswith("loss/")}
        wide.append(part[-1] | means)
    return wide


def test_a_copy_of_the_record_is_no_re_run(record):
    place = record.parents[1] / "again" / record.parent.name / record.name
    shutil.copytree(record, place)
    with pytest.raises(UsageError, match="is a copy of the record"):
        again(record)
    assert again(record, steps=2, force=True)["reproduced"], "started over, it is one"
    assert again(record, steps=2)["reproduced"]
    assert [(folder.name, reason) for folder, reason in found_below(place.parents[1])] == [(record.name, "")]


def test_by_default_a_re_run_lies_where_no_command_looks_for_runs():
    """As one more run of the record's setting and seed it would fail audits and be counted twice in comparisons."""
    default = inspect.signature(cli_reproduce.reproduce).parameters["out"].default
    assert Path("runs") not in (default, *default.parents)


def test_where_no_early_line_is_logged_losses_cannot_tell_and_it_is_no_reproduction(record):
    manifest = json.loads((record / "manifest.json").read_text())
    change(record / "manifest.json", device=manifest["device"] | {"name": "Another Processor"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "FIRST_STEPS", 1)  # its first line is of step 2
        document = again(record, steps=4)
        assert document["reproduced"] is None
        assert "cannot tell by losses" in document["verdict"]
        assert "**cannot tell by losses" in cli_reproduce.added("", document, "harness reproduce x")
        out = str(record.parents[1] / "again")
        done = invoke("reproduce", str(record), "--out", out, "--steps", "4")
    assert done.exit_code == 6
    assert "--set log_every=20" in done.output


def test_an_evaluation_that_the_re_run_did_not_make_fails_unless_it_was_made_by_hand(record):
    evaluations = RunFolder(record, "").all_evaluations
    rows = comparison.evaluations(evaluations | {"by-hand": evaluations["final"]}, {}, EXACT)
    assert [(row.what, row.reproduced) for row in rows] == [("by-hand: evaluation", None), ("final: evaluation", False)]


@pytest.mark.parametrize(("metric", "then", "now", "good"), [
    ("kid-digits@50", 0.0001, -0.0003, True), ("kid-digits@50", 0.0001, 0.01, False),
    ("kid-digits@50", 0.1, 0.11, True), ("cmmd-clip@50", 0.0, 0.02, True), ("cmmd-clip@50", 1.0, 1.5, False),
    ("fd-digits@50", 0.0001, -0.0003, False),
])  # fmt: skip
def test_kernel_distances_near_zero_may_differ_by_an_absolute_amount(metric, then, now, good):
    allowed = comparison.of_metric(metric, 100)
    assert allowed.accepts(then, now) is good
    assert ("absolute" in str(allowed)) is not metric.startswith("fd")


def test_which_comparison_applies_follows_from_what_differs(record):
    then = read_record(record / "manifest.json", Manifest)
    assert comparison.comparison(then, comparison.differences(then, then), completed=False)[0] == EXACT
    assert comparison.comparison(then, [], completed=True)[0] == TOLERANT
    for change_ in (
        {"packages": then.packages | {"torch": "2.0.0"}},
        {"git_commit": "d" * 40},
        {"git_diff_sha256": "d" * 64},
        {"world_size": 2},
        {"device": then.device.model_copy(update={"threads": 64})},
    ):
        found = comparison.differences(then, then.model_copy(update=change_))
        assert comparison.comparison(then, found, completed=False)[0] == TOLERANT
    later = then.model_copy(update={"python": "3.13.0"})
    assert comparison.comparison(then, comparison.differences(then, later), completed=False)[0] == EXACT
    gpu = then.model_copy(update={"device": then.device.model_copy(update={"kind": "cuda"})})
    assert comparison.comparison(gpu, [], completed=False)[0] == TOLERANT


def test_a_page_holds_one_section_for_each_re_run(record):
    document = again(record, steps=2)
    once = cli_reproduce.added("", document, "harness reproduce x --steps 2")
    assert cli_reproduce.added(once, document, "harness reproduce x --steps 2") == once
    two = cli_reproduce.added(once, document | {"run": "other/run"}, "harness reproduce y")
    assert two.count("\n## ") == 2
    assert "**reproduced**" in two
