"""`harness audit` finds whatever is spoiled in a real run's folder, and nothing in one that is whole."""

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from run_folders import write_run
from run_spoilings import SPOILINGS, continued, edit, flipped, last, lines, setting
from small import small_config
from typer.testing import CliRunner

from harness.checks.audit import audit as auditing
from harness.checks.audit import checkout, clock, evaluated, kept, privacy, requirements, requirements_beyond
from harness.checks.audit.finding import CHECKS
from harness.cli import app
from harness.data import sources
from harness.evaluation.networks import inception
from harness.model import samplers
from harness.runs import training_run as experiment
from harness.system.errors import DataError
from harness.system.progress import NoProgress
from harness.training import telemetry

COMMITTED = Path(__file__).parents[2] / "reports"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A real run with its weights and an evaluation, from the command to the result."""
    root = tmp_path_factory.mktemp("made")
    assignments = ["steps=12", "num_images=50", "num_steps=4", "untrained=false", "metrics=[fd]"]
    cfg = small_config("dit", *assignments)
    command = " ".join(["harness run dit-tiny", *(f"--set {text}" for text in ["width=16", *assignments])])
    experiment.run(cfg, root, command=command, progress=NoProgress(), with_evaluation=True, force=False)
    return root / cfg.recipe / cfg.run_id


@pytest.fixture
def run(made, tmp_path):
    folder = tmp_path / "runs" / made.parent.name / made.name
    shutil.copytree(made, folder)
    return folder


def findings(*roots: Path) -> dict[str, str]:
    """The status of every check of the first run below the roots."""
    document = auditing.audit(roots)
    return {finding["check"]: finding["status"] for finding in document["runs"][0]["findings"]}


def said(root: Path, check: str) -> str:
    return next(f["says"] for f in auditing.audit([root])["runs"][0]["findings"] if f["check"] == check)


def test_a_whole_run_passes_every_check(run):
    assert findings(run) == dict.fromkeys(CHECKS, "ok") | {
        # nothing says the tree that the tests run in is committed
        check: findings(run)[check]
        for check in ("recipe", "code")
        if findings(run)[check] != "failed"
    }
    assert auditing.audit([run])["verdicts"]["verified"] == 1


@pytest.mark.parametrize(
    ("check", "spoil"), [(c, s) for c, _, s in SPOILINGS], ids=[f"{c}: {w}" for c, w, _ in SPOILINGS]
)
def test_each_check_fails_on_a_run_spoiled_in_its_way(run, check, spoil):
    spoil(run)
    assert findings(run.parent)[check] == "failed"


def test_every_check_has_a_spoiling():
    assert {check for check, _, _ in SPOILINGS} == set(CHECKS)


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
    done = CliRunner().invoke(app, ["audit", str(COMMITTED / "demo"), "--json", "--out", str(tmp_path / "new")])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["num_runs"] == 4
    assert document["verdicts"][auditing.AS_KEPT] == 4
    assert json.loads((tmp_path / "new" / "audit.json").read_text()) == document
    assert "R4" in (tmp_path / "new" / "audit.md").read_text()


def test_a_damaged_file_ends_with_6_and_is_named(run):
    flipped("optimizer.pt")(run)
    done = CliRunner().invoke(app, ["audit", str(run)], env={"COLUMNS": "80"})
    assert done.exit_code == 6
    assert "optimizer.pt is damaged" in done.output
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_where_there_is_no_run_it_ends_with_4(tmp_path):
    with pytest.raises(DataError):
        auditing.audit([tmp_path])
    assert CliRunner().invoke(app, ["audit", str(tmp_path)]).exit_code == 4


def test_requirements_are_told_in_order_and_follow_from_what_is_seen(run, monkeypatch):
    told = {item["id"]: item for item in auditing.audit([run])["requirements"]}
    assert list(told) == [f"R{number}" for number in range(1, 21)]
    assert "no DOI" in told["R4"]["evidence"]
    assert "1 of 1 runs' checkpoints match" in told["R17"]["evidence"]
    flipped("ema.safetensors")(run)
    spoiled = {item["id"]: item for item in auditing.audit([run])["requirements"]}
    assert "0 of 1 runs' checkpoints match" in spoiled["R17"]["evidence"]
    assert "1 failed" in spoiled["R20"]["evidence"]
    monkeypatch.setattr(checkout, "find", lambda: None)
    unseen = {item["id"]: item for item in auditing.audit([run])["requirements"]}
    assert unseen["R3"]["standing"] == unseen["R4"]["standing"] == "cannot be seen from here"


def test_a_doi_would_be_seen(tmp_path):
    """The evidence that there is none is no constant."""
    (tmp_path / "CITATION.cff").write_text("doi: 10.5281/zenodo.1234567\n")
    assert requirements.DOI.search(checkout.Checkout(tmp_path).text("CITATION.cff"))


def test_what_is_stated_twice_is_stated_alike():
    """So that an audit need not import torch, it has these by itself."""
    assert clock.WARMUP_STEPS == telemetry.WARMUP_STEPS
    for sampler, calls in evaluated.CALLS.items():
        assert calls(18) == samplers.evaluations_per_image(sampler, 18)
    assert kept.data_folder() == sources.data_folder()
    assert len(inception.PUBLISHED.sha256) == 64


def test_a_thousand_records_take_well_under_a_minute(tmp_path):
    """Counted at fifty, on whatever this machine does beside."""
    for seed in range(50):
        write_run(tmp_path, "dit", seed=seed)
    begun = time.process_time()
    assert auditing.audit([tmp_path])["num_runs"] == 50
    assert (time.process_time() - begun) * 20 < 60


def test_records_of_absent_data_are_audited_without_torch(tmp_path):
    write_run(tmp_path, "dit", size="s", distance=None)
    code = (
        "import sys; from pathlib import Path; from harness.checks.audit.audit import audit; "
        f"audit([Path({str(tmp_path)!r})]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)


def test_a_command_may_write_a_number_as_yaml_does(run):
    edit("manifest.json", command=lambda old: f"{old} --set num_images=0x32 --set learning_rate=6e-3")(run)
    setting("protocol.learning_rate", 0.006, rehash=True)(run)
    assert findings(run)["recipe"] != "failed"


def test_a_record_without_a_hash_of_itself_is_told(run):
    assert findings(run)["records"] == "ok"
    edit("result.json")(run)
    assert findings(run)["records"] == "remark"
    assert said(run, "records").endswith("result.json")
    assert "documents of schema version 1 in 1 of 1" in required(run)["R19"]["evidence"]


def test_a_version_of_four_numbers_is_no_address(run):
    edit("manifest.json", packages=lambda old: old | {"nvidia-cudnn": "9.1.0.70"})(run)
    assert findings(run)["privacy"] == "ok"


def test_texts_that_hold_no_place_are_not_taken_for_one():
    harmless = "550.54.15 and/or 2026-11-22T08:02:20+00:00 DiT-S/2 harness/data/x.py https://arxiv.org/abs/2401.09603"
    assert list(privacy._told_by(harmless, set())) == []
    begun = time.process_time()
    for hostile in ("1." * 50_000, "/a" * 50_000, "2000:" * 20_000, "a@" * 50_000, "\\" * 100_000):
        list(privacy._told_by(hostile, set()))
    assert time.process_time() - begun < 5, "no pattern goes back and forth"


def test_a_continuation_that_left_its_warm_up_out_passes(run):
    def warm(found):
        return [line | {"timed_steps": 0, "timed_seconds": 0.0, "data_wait_share": None} for line in found]

    continued(run, at=6)
    lines("metrics.jsonl", warm)(run)
    edit("result.json", timed_steps=0, steps_per_sec=None)(run)
    assert findings(run)["timing"] == findings(run)["log"] == "ok"
    assert "in 2 start(s)" in said(run, "timing")


def test_an_audits_own_page_is_evidence_of_nothing(tmp_path):
    page = tmp_path / "reports" / "audit" / "audit.md"
    page.parent.mkdir(parents=True)
    page.write_text("what may not be redistributed is not said; no table gives the hours to a stated distance")
    (tmp_path / "reports" / "audit" / "x.csv").write_text("hours_to_fid")
    project = checkout.Checkout(tmp_path)
    assert not project.mentions("redistribut")
    assert not project.mentions("hours to (a|reach)|hours_to", "reports/*/*.csv", "reports/*/*.md")
    (tmp_path / "README.md").write_text("The weights may not be redistributed.")
    assert project.mentions("redistribut")


def test_a_part_with_nothing_to_see_does_not_hold(run):
    parts = {r["id"]: {p["says"]: p["holds"] for p in r["parts"]} for r in auditing.audit([run])["requirements"]}
    assert parts["R17"]["2 of 2 files of weights are safetensors"] is True
    (run / "result.json").unlink()
    (max((run / "checkpoints").glob("step-*")) / "ema.safetensors").write_bytes(b"a pickle")
    parts = {r["id"]: {p["says"]: p["holds"] for p in r["parts"]} for r in auditing.audit([run])["requirements"]}
    assert parts["R17"]["1 of 2 files of weights are safetensors"] is False
    assert parts["R10"]["compiling and attention kernel said in 0 of 0 runs"] is None
    shutil.rmtree(run / "checkpoints")
    parts = {r["id"]: {p["says"]: p["holds"] for p in r["parts"]} for r in auditing.audit([run])["requirements"]}
    assert parts["R17"]["no file of weights to read"] is None


def test_a_worked_method_is_one_that_its_package_names_and_has(tmp_path):
    folder = tmp_path / "docs" / "fifth"
    folder.mkdir(parents=True)
    project = checkout.Checkout(tmp_path)
    assert not requirements_beyond._has_worked_method(project)
    (folder / "pyproject.toml").write_text('[project.entry-points."harness.methods"]\nx = "x_method.x"\n')
    assert not requirements_beyond._has_worked_method(project)
    (folder / "x_method").mkdir()
    (folder / "x_method" / "x.py").touch()
    assert requirements_beyond._has_worked_method(project)


def required(root: Path) -> dict[str, dict]:
    return {item["id"]: item for item in auditing.audit([root])["requirements"]}
