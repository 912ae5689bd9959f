"""`harness audit` finds whatever is spoiled in a real run's folder, and nothing in one that is whole."""

import json
import shutil
import socket
import time
from pathlib import Path

import pytest
from command_line import invoke
from run_folders import write_run
from run_spoilings import SPOILINGS, continued, edit, flipped, last, lines, setting
from small import small_config
from tiny_run import trained

from harness.checks.audit import audit as auditing
from harness.checks.audit import privacy
from harness.checks.audit.audit import WHAT
from harness.system.errors import DataError

COMMITTED = Path(__file__).parents[2] / "reports"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A real run with its weights and an evaluation, from the command to the result."""
    root = tmp_path_factory.mktemp("made")
    assignments = ["steps=12", "num_images=50", "num_steps=4", "untrained=false", "metrics=[fd]"]
    cfg = small_config("dit", *assignments)
    command = " ".join(["harness run dit-tiny", *(f"--set {text}" for text in ["width=16", *assignments])])
    return trained(cfg, root, command, evaluate=True)


@pytest.fixture
def run(made, tmp_path):
    folder = tmp_path / "runs" / made.parent.name / made.name
    shutil.copytree(made, folder)
    return folder


def findings(*roots: Path) -> dict[str, str]:
    """The status of every check of the first run below the roots."""
    document = auditing.audit(roots)
    return {finding["name"]: finding["status"] for finding in document["runs"][0]["findings"]}


def said(root: Path, check: str) -> str:
    return next(f["found"] for f in auditing.audit([root])["runs"][0]["findings"] if f["name"] == check)


def test_a_whole_run_passes_every_check(run):
    assert findings(run) == dict.fromkeys(WHAT, "ok") | {
        # nothing says the tree that the tests run in is committed
        check: findings(run)[check]
        for check in ("recipe", "code")
        if findings(run)[check] != "failure"
    }
    assert auditing.audit([run])["verdicts"]["verified"] == 1


@pytest.mark.parametrize(
    ("check", "spoil"), [(c, s) for c, _, s in SPOILINGS], ids=[f"{c}: {w}" for c, w, _ in SPOILINGS]
)
def test_each_check_fails_on_a_run_spoiled_in_its_way(run, check, spoil):
    spoil(run)
    assert findings(run.parent)[check] == "failure"


def test_every_check_has_a_spoiling():
    assert {check for check, _, _ in SPOILINGS} == set(WHAT)


def test_this_machine_and_user_are_not_named(run, monkeypatch):
    privacy._of_this_machine.cache_clear()
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu-node-17.example.org")
    monkeypatch.setattr(privacy.getpass, "getuser", lambda: "joanna")
    lines("events.jsonl", last(text="on gpu-node-17 by joanna"))(run)
    try:
        assert "this machine's name" in said(run, "privacy")
        assert "the user's name" in said(run, "privacy")
        assert "joanna" not in said(run, "privacy")
    finally:
        monkeypatch.undo()
        privacy._of_this_machine.cache_clear()


def test_each_setting_that_is_not_the_recipes_is_asked_for_or_the_recipe_has_changed(run):
    setting("protocol.weight_decay", 0.25, rehash=True)(run)
    differing = auditing.audit([run])["runs"][0]["differs_from_recipe"]
    why = {item["setting"]: item["why"] for item in differing}
    assert why["protocol.steps"] == why["network.width"] == "asked for"
    assert why["protocol.weight_decay"] == "the recipe has changed"


def test_records_without_weights_are_verified_as_far_as_kept(run):
    shutil.rmtree(run / "checkpoints")
    document = auditing.audit([run])
    assert document["verdicts"][auditing.AS_KEPT] == 1
    assert findings(run)["checkpoints"] == findings(run)["weights"] == "not kept"


def test_an_unfinished_run_is_told_and_is_no_failure(run):
    (run / "result.json").unlink()
    assert auditing.audit([run])["verdicts"][auditing.UNFINISHED] == 1


def test_a_milestone_may_keep_its_average_alone(run):
    """What the engine itself leaves of one that is no longer new."""
    first = min((run / "checkpoints").glob("step-*"))
    (first / "optimizer.pt").unlink()
    (first / "method.safetensors").unlink()
    assert findings(run)["checkpoints"] == "ok"


def test_the_committed_runs_pass(tmp_path):
    done = invoke("audit", str(COMMITTED / "demo"), "--json", "--out", str(tmp_path / "new"))
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["num_runs"] == 4
    assert document["verdicts"][auditing.AS_KEPT] == 4
    assert json.loads((tmp_path / "new" / "audit.json").read_text()) == document
    page = (tmp_path / "new" / "audit.md").read_text()
    assert "4 verified as far as kept" in page
    assert "asked for: steps" in page or "settings of today's recipe" in page


def test_a_damaged_file_ends_with_6_and_is_named(run):
    flipped("optimizer.pt")(run)
    done = invoke("audit", str(run))
    assert done.exit_code == 6
    assert "optimizer.pt is damaged" in done.output
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_where_there_is_no_run_it_ends_with_4(tmp_path):
    with pytest.raises(DataError):
        auditing.audit([tmp_path])
    assert invoke("audit", str(tmp_path)).exit_code == 4


def test_a_thousand_records_take_well_under_a_minute(tmp_path):
    """Counted at fifty, on whatever this machine does beside."""
    for seed in range(50):
        write_run(tmp_path, "dit", seed=seed)
    begun = time.process_time()
    assert auditing.audit([tmp_path])["num_runs"] == 50
    assert (time.process_time() - begun) * 20 < 60


def test_a_command_may_write_a_number_as_yaml_does(run):
    edit("manifest.json", command=lambda old: f"{old} --set num_images=0x32 --set learning_rate=6e-3")(run)
    setting("protocol.learning_rate", 0.006, rehash=True)(run)
    assert findings(run)["recipe"] != "failure"


def test_a_record_without_a_hash_of_itself_is_told(run):
    assert findings(run)["records"] == "ok"
    edit("result.json")(run)
    assert findings(run)["records"] == "warning"
    assert said(run, "records").endswith("result.json")


def test_a_version_of_four_numbers_is_no_address(run):
    edit("manifest.json", packages=lambda old: old | {"nvidia-cudnn": "9.1.0.70"})(run)
    assert findings(run)["privacy"] == "ok"


def test_texts_that_hold_no_place_are_not_taken_for_one():
    harmless = "550.54.15 and/or 2026-11-22T08:02:20+00:00 DiT-S/2 harness/data/x.py https://arxiv.org/abs/2401.09603"
    assert list(privacy._private_in(harmless, set())) == []
    begun = time.process_time()
    for hostile in ("1." * 50_000, "/a" * 50_000, "2000:" * 20_000, "a@" * 50_000, "\\" * 100_000):
        list(privacy._private_in(hostile, set()))
    assert time.process_time() - begun < 5, "no pattern goes back and forth"


def test_a_continuation_that_left_its_warm_up_out_passes(run):
    def warm(found):
        return [line | {"timed_steps": 0, "timed_seconds": 0.0, "data_wait_share": None} for line in found]

    continued(run, at=6)
    lines("metrics.jsonl", warm)(run)
    edit("result.json", timed_steps=0, steps_per_sec=None)(run)
    assert findings(run)["timing"] == findings(run)["log"] == "ok"
    assert "in 2 start(s)" in said(run, "timing")


def test_a_stop_between_two_lines_needs_no_line_of_its_own(run):
    """The checkpoint of a signal keeps the losses so far for the next line; any other checkpoint has a line."""

    def stopped(signal: str):
        def events(found):
            later = next(index for index, event in enumerate(found) if event.get("step", 0) > 7)
            saved, own = found[later] | {"event": "checkpoint", "step": 7}, {"event": signal, "step": 7}
            return [*found[:later], saved, saved | own, saved | {"event": "resume"}, *found[later:]]

        return events

    lines("events.jsonl", stopped("preemption"))(run)
    assert findings(run)["log"] == "ok"
    lines("events.jsonl", lambda found: [event for event in found if event["event"] != "preemption"])(run)
    assert "no line of step 7" in said(run, "log")
