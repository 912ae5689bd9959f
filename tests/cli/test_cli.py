"""The command line as a user meets it: real processes, exit codes, what goes to which stream."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import QUICK_EVALUATION, harness, invoke

from harness.records.schema import Result, read_record

SMALL = ["--set", "width=16", "--set", "depth=3", "--set", "num_heads=2", "--set", "batch_size=8"]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (["run", "sdit-tiny"], 2, "Did you mean sddit-tiny"),
        (["run", "dit-tiny", "--steps", "-5"], 2, "steps is '-5'; it must be a whole number of at least 1"),
        (["run", "sddit-tiny", "--set", "mask_ratio=1.5"], 2, "mask_ratio is 1.5; it must be less than 1"),
        (["run", "dit-tiny", "--data", "digit"], 2, "Did you mean digits"),
        (["run", "dit-tiny", "--set", "features=digit"], 2, "Did you mean digits"),
        (["run"], 2, "name a recipe"),
        (["run", "--config", "absent.yaml"], 4, "absent.yaml cannot be read"),
        (["run", "dit-tiny", "--out", "/dev/null/runs"], 4, "cannot be written"),
        (["run", "dit-tiny", "--precision", "tf32"], 3, "this processor has no TF32"),
        (["compare", "--figure", "33"], 2, "no figure is called '33'"),
        (["compare"], 4, "harness demo"),
        (["report", "nowhere"], 4, "nowhere"),
    ],
)
def test_a_wrong_command_says_what_why_and_what_to_do(arguments, exit_code, says, tmp_path):
    done = invoke(*arguments, cwd=tmp_path)
    assert (done.exit_code, done.stdout) == (exit_code, "")
    assert says in done.stderr
    assert list(tmp_path.rglob("*.json")) == []


def test_a_run_prints_one_json_document_and_leaves_a_complete_folder(tmp_path):
    done = harness("run", "dit-tiny", "--steps", "20", *SMALL, *QUICK_EVALUATION, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["complete"]
    assert answer["steps"] == 20
    assert answer["timed_steps"] == 10
    assert answer["steps_per_sec"] > 0
    folder = tmp_path / "runs" / "dit-tiny" / answer["run_id"]
    assert read_record(folder / "result.json", Result) == Result.model_validate(answer)
    for name in ("config.yaml", "manifest.json", "metrics.jsonl", "events.jsonl", "samples/grid.png"):
        assert (folder / name).stat().st_size > 0, name
    final = answer["evaluations"]["final"]
    assert set(final["metrics"]) == {
        f"{metric}-digits@60" for metric in ("fd", "sfd", "is", "precision", "recall", "class_accuracy")
    }
    assert final["protocol"]["nfe"] == 3
    untrained = answer["evaluations"]["untrained"]
    assert untrained["step"] == 0
    assert untrained["protocol"] == final["protocol"]

    again = harness("run", "--config", str(folder / "config.yaml"), "--json", cwd=tmp_path)
    assert json.loads(again.stdout) == answer
    assert "is finished; nothing to do" in again.stderr


def test_a_step_that_does_not_fit_into_memory_ends_with_3_and_the_pieces_that_would(tmp_path):
    """The allocator really refuses: the process may address 12 GB, and 200,000 images at once take more."""
    from resource import RLIMIT_AS, setrlimit

    too_much = ["--set", "batch_size=200000", "--micro-batch", "200000", "--no-eval"]
    done = harness(
        "run", "dit-tiny", *too_much, cwd=tmp_path, preexec_fn=lambda: setrlimit(RLIMIT_AS, (12 * 2**30,) * 2)
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert re.search(r"did not fit into this machine's memory; --micro-batch \d+ should", done.stderr)
    assert "Traceback" not in done.stderr


LONG = [
    *("run", "dit-tiny", "--steps", "400", *SMALL, "--no-eval"),
    *("--set", "log_every=1", "--set", "checkpoint_every=50"),
]


def weights(runs: Path) -> bytes:
    newest = max(runs.glob("dit-tiny/*/checkpoints/step-*"))
    return (newest / "method.safetensors").read_bytes() + (newest / "ema.safetensors").read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("whole")
    whole = harness(*LONG, cwd=folder)
    assert whole.returncode == 0, whole.stderr
    return weights(folder / "runs")


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_run_that_is_killed_and_repeated_ends_with_the_weights_of_one_that_was_not(
    number, exit_code, uninterrupted, tmp_path
):
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", *LONG],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not any(tmp_path.glob("runs/dit-tiny/*/checkpoints/step-000000050")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    process.communicate()
    assert process.returncode == exit_code
    assert not any(tmp_path.glob("runs/dit-tiny/*/result.json"))
    if number != signal.SIGKILL:
        return  # what it saved is held to the same standard, bit for bit, in tests/training/test_engine.py
    rest = harness(*LONG, cwd=tmp_path)
    assert rest.returncode == 0, rest.stderr
    assert "continuing from the checkpoint of step" in rest.stderr
    assert weights(tmp_path / "runs") == uninterrupted
