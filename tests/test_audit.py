"""`harness audit` finds whatever is spoiled in a real run's folder, and nothing in one that is whole."""

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from run_folders import write_run
from small import small_config
from typer.testing import CliRunner

from harness import experiment
from harness.audit import audit as auditing
from harness.audit import checkout, clock, evaluated, kept, privacy, requirements
from harness.audit.finding import CHECKS
from harness.cli import app
from harness.config import digest, identity
from harness.data import sources
from harness.diffusion import samplers
from harness.errors import DataError
from harness.evaluation import inception
from harness.progress import NoProgress
from harness.training import telemetry

COMMITTED = Path(__file__).parent.parent / "reports"
LINES = ("metrics.jsonl", "events.jsonl")


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


def edit(name: str, *, sealed: bool = False, **changes):
    """A spoiling of one JSON document: each key, "a__b", gets a value, or what a function makes of the old one.

    The document's own hash is left out, as someone would who means to, unless it stays `sealed`.
    """

    def spoil(folder: Path) -> None:
        path = folder / name
        document = json.loads(path.read_text())
        if not sealed:
            document.pop("sha256", None)
        for key, value in changes.items():
            *parents, last = key.split("__")
            node = document
            for parent in parents:
                node = node[parent]
            node[last] = value(node.get(last)) if callable(value) else value
        path.write_text(json.dumps(document))

    return spoil


def edit_both(**changes):
    """Of the final evaluation, in its own file and in result.json, so that the two still agree."""

    def spoil(folder: Path) -> None:
        edit("evaluations/final.json", **changes)(folder)
        edit("result.json", **{f"evaluations__final__{key}": value for key, value in changes.items()})(folder)

    return spoil


def setting(path: str, value, *, rehash: bool = False):
    """A spoiling of config.yaml; `rehash` hides it from the id, as someone would who means to."""

    def spoil(folder: Path) -> None:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        *parents, last = path.split(".")
        node = config
        for parent in parents:
            node = node[parent]
        node[last] = value
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        if rehash:
            edit("manifest.json", config_sha256=identity(config))(folder)

    return spoil


def lines(name: str, change):
    """A spoiling of a log: `change` gets its lines as objects and gives those to be written."""

    def spoil(folder: Path) -> None:
        found = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in change(found)))

    return spoil


def last(**changes):
    return lambda found: [*found[:-1], found[-1] | changes]


def written(name: str, content: str | bytes):
    def spoil(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return spoil


def appended(name: str, text: str):
    return lambda folder: (folder / name).write_text((folder / name).read_text() + text)


def flipped(name: str):
    """One bit of the newest checkpoint's file."""

    def spoil(folder: Path) -> None:
        path = max((folder / "checkpoints").glob("step-*")) / name
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

    return spoil


def other_weights(folder: Path) -> None:
    """Weights changed together with every hash in the checkpoint: only the evaluation still knows better."""
    flipped("ema.safetensors")(folder)
    place = max((folder / "checkpoints").glob("step-*"))
    state = json.loads((place / "state.json").read_text())
    del state["sha256"]
    from harness.files import sha256_of

    state["files"]["ema.safetensors"] = sha256_of(place / "ema.safetensors")
    (place / "state.json").write_text(json.dumps({**state, "sha256": digest(state)}))


def removed(name: str):
    return lambda folder: (folder / name).unlink()


def renamed(folder: Path) -> None:
    folder.rename(folder.with_name("seed0-0123456789"))


def renamed_metric(old: str, new: str):
    return lambda metrics: {new if name.startswith(old) else name: value for name, value in metrics.items()}


SPOILINGS = [
    # check that finds it, what was done
    ("records", "a schema version of the future", edit("manifest.json", schema_version=99)),
    ("records", "a torn result", written("result.json", '{"schema_version": 1, "recipe": "di')),
    ("records", "a digit that changed on the disk", edit("manifest.json", sealed=True, seed=1)),
    ("records", "a field that nobody knows", edit("result.json", invented=1)),
    ("records", "no manifest", removed("manifest.json")),
    ("records", "a torn line", appended("metrics.jsonl", '{"step": 1')),
    ("records", "a damaged evaluation", written("evaluations/other.json", "{}")),
    ("records", "a result that says incomplete", edit("result.json", complete=False)),
    ("agreement", "another seed in the result", edit("result.json", seed=7)),
    ("agreement", "another seed in the manifest", edit("manifest.json", seed=7)),
    ("agreement", "more steps in the result", edit("result.json", steps=600)),
    ("agreement", "more images in the result", edit("result.json", images_seen=1)),
    ("agreement", "another device in the result", edit("result.json", device__threads=99)),
    ("agreement", "a better distance in the result", edit("result.json", evaluations__final__step=11)),
    ("id", "a setting changed after the run", setting("protocol.learning_rate", 0.5)),
    ("id", "the id of another run", edit("result.json", run_id="seed0-0123456789")),
    ("id", "a folder called like another run", renamed),
    ("recipe", "a setting that the command has otherwise", setting("network.width", 32, rehash=True)),
    ("recipe", "another recipe than the command's", edit("manifest.json", command="harness run sddit-tiny")),
    ("checkpoints", "a flipped bit of the average", flipped("ema.safetensors")),
    ("checkpoints", "a flipped bit of the optimizer", flipped("optimizer.pt")),
    ("checkpoints", "a flipped bit of the raw weights", flipped("method.safetensors")),
    ("checkpoints", "a state that was edited", lambda f: _edit_state(f, seconds=0.0)),
    ("checkpoints", "no average", lambda f: (max((f / "checkpoints").glob("step-*")) / "ema.safetensors").unlink()),
    ("checkpoints", "a checkpoint of another run", lambda f: _edit_state(f, rehash=True, config_sha256="0" * 64)),
    ("weights", "other weights, with every hash", other_weights),
    ("weights", "an evaluation of other weights", edit_both(weights_sha256="0" * 64)),
    ("conditions", "no NFE", edit_both(protocol__nfe=None)),
    ("conditions", "no sampler", edit_both(protocol__sampler=None)),
    ("conditions", "no rule for labels", edit_both(protocol__label_rule=None)),
    ("conditions", "no rule for uint8", edit_both(protocol__uint8_rule=None)),
    ("conditions", "no seed", edit_both(protocol__seed=None)),
    ("conditions", "a hash that is none", edit_both(protocol__features_sha256="abc")),
    ("conditions", "more NFE than the sampler takes", edit_both(protocol__nfe=999)),
    ("conditions", "guidance that was not configured", edit_both(protocol__guidance_scale=4.0)),
    ("conditions", "another N than configured", edit_both(protocol__num_images=1000)),
    ("conditions", "another reference than the data", edit_both(protocol__reference_sha256="0" * 64)),
    ("conditions", "a VAE without its hash", edit_both(protocol__vae="stabilityai/sd-vae-ft-ema")),
    ("names", "called fid50k", edit_both(metrics=renamed_metric("fd", "fid50k"))),
    ("names", "called by another N", edit_both(metrics=renamed_metric("fd", "fd-digits@50k"))),
    ("names", "a metric that is not finite", edit_both(metrics=lambda m: dict.fromkeys(m, 1e999))),
    ("features", "FID by a network that is not the pinned", edit_both(protocol__features="inception")),
    ("data", "another hash of the data", edit("manifest.json", data__sha256="0" * 64)),
    ("data", "no hash of the data", edit("manifest.json", data__sha256="")),
    ("data", "another count of images", edit("manifest.json", data__num_images=1)),
    ("seeds", "a copy as a second seed", lambda f: shutil.copytree(f, f.parent / "copy")),
    ("seeds", "a seed without effect", lambda f: _with_another_seed(f)),
    ("precision", "no flag", edit("manifest.json", precision={"precision": "fp32"})),
    ("precision", "fp32 that is TF32", edit("manifest.json", precision__float32_matmul_precision="high")),
    ("code", "no commit", edit("manifest.json", git_commit="main")),
    ("code", "changes without a hash", edit("manifest.json", git_diff_sha256="yes")),
    ("versions", "no version of torch", edit("manifest.json", packages={"numpy": "2.4.6"})),
    ("device", "a device without a name", edit("manifest.json", device__name=" ")),
    ("device", "no threads", edit("manifest.json", device__threads=0)),
    ("timing", "a higher speed", edit("result.json", steps_per_sec=lambda old: 2 * old)),
    ("timing", "no warm-up", edit("result.json", timed_steps=12)),
    ("timing", "more timed steps in the log", lines("metrics.jsonl", last(timed_steps=12))),
    ("timing", "no share of waiting", lines("metrics.jsonl", last(data_wait_share=None))),
    ("timing", "less time than was timed", edit("result.json", wall_seconds=0.0)),
    ("log", "a line that is gone", lines("metrics.jsonl", lambda found: found[:2] + found[3:])),
    ("log", "lines in another order", lines("metrics.jsonl", lambda found: found[::-1])),
    ("log", "a line twice", lines("metrics.jsonl", lambda found: [*found, found[-1]])),
    ("log", "an end that is gone", lines("metrics.jsonl", lambda found: found[:-1])),
    ("log", "a loss that is not finite", lines("metrics.jsonl", last(loss=float("nan")))),
    (
        "log",
        "no loss",
        lines("metrics.jsonl", lambda found: [{k: v for k, v in line.items() if k != "loss"} for line in found]),
    ),
    ("log", "images of another batch", lines("metrics.jsonl", last(images=1))),
    ("privacy", "an absolute path", edit("manifest.json", command="harness run dit-tiny --set data=/home/jo/latents")),
    ("privacy", "a host", lines("events.jsonl", last(hostname="x"))),
    ("privacy", "an address", lines("events.jsonl", last(by="jo@example.org"))),
    ("privacy", "a token", lines("events.jsonl", last(key="hf_abcdefghijklmnopqrstuv"))),
    ("privacy", "a path of Windows", written("notes.txt", "C:\\runs\\mine")),
    (
        "times",
        "an event before the start",
        lines("events.jsonl", lambda e: [e[0] | {"time": "2020-01-01T00:00:00Z"}, *e[1:]]),
    ),
    ("times", "events that go back", lines("events.jsonl", last(time="2020-01-01T00:00:00Z"))),
    ("times", "an event without a time", lines("events.jsonl", last(time=None))),
    ("times", "more seconds than passed", lines("metrics.jsonl", last(timed_seconds=1e6))),
    ("times", "no last checkpoint", lines("events.jsonl", lambda e: [x for x in e if x.get("step") != 12])),
]


def _edit_state(folder: Path, *, rehash: bool = False, **changes) -> None:
    path = max((folder / "checkpoints").glob("step-*")) / "state.json"
    state = json.loads(path.read_text()) | changes
    if rehash:
        del state["sha256"]
        state["sha256"] = digest(state)
    path.write_text(json.dumps(state))


def _with_another_seed(folder: Path) -> None:
    """A second run of the setting, of seed 1, with the first one's losses."""
    config = yaml.safe_load((folder / "config.yaml").read_text()) | {"seed": 1}
    other = folder.with_name(f"seed1-{identity(config)[:10]}")
    shutil.copytree(folder, other)
    setting("seed", 1, rehash=True)(other)
    edit("manifest.json", seed=1)(other)
    edit("result.json", seed=1, run_id=other.name)(other)


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
    assert len(inception.SHA256) == 64


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
        "import sys; from pathlib import Path; from harness.audit.audit import audit; "
        f"audit([Path({str(tmp_path)!r})]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
