"""A few kills of every kind and of either process of a pair; `make faults` does many.

Both suites run as programs of their own: they fork, which a process that has computed must not.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="moments are chosen by /proc")


def suite(name: str, out: Path, *arguments: str) -> list[dict]:
    """The rows of a suite; its failures are told as it tells them."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(out)}
    command = [sys.executable, str(HERE / f"{name}.py"), *arguments, "--out", str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((out / f"{name}.json").read_text())["faults"]


def test_a_killed_command_given_again_ends_as_if_it_had_not_been_killed(tmp_path):
    rows = suite("kills", tmp_path, "--kills", "2", "--stops", "0")
    assert {row["kind"] for row in rows} == {"training", "saving", "encoding", "sampling", "evaluating"}
    for row in rows:
        assert row["survived"] == row["tried"] >= 2, row
        assert row["details"]["at work"] >= 2, row
        assert row["details"]["finished work repeated"] == 0, row


def test_a_run_of_two_processes_ends_with_either_of_them_and_goes_on(tmp_path):
    rows = suite("ranks", tmp_path, "--times", "1", "--only", "rank 0 is killed", "rank 1 gets SIGTERM")
    assert [(row["tried"], row["survived"]) for row in rows] == [(1, 1)] * len(rows)
    assert len(rows) == 2
