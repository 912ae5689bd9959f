"""`harness run` as a user meets it: exit codes, what goes to which stream, and what a run leaves."""

import json
import re

import pytest
from command_line import QUICK_EVALUATION, SMALL, harness, invoke

from harness.records.schema import Result, read_record


def test_a_run_prints_one_json_document_and_leaves_a_complete_folder(tmp_path):
    done = invoke("run", "dit-tiny", "--steps", "20", *SMALL, *QUICK_EVALUATION, "--json", cwd=tmp_path)
    assert done.exit_code == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["complete"]
    assert (answer["steps"], answer["timed_steps"]) == (20, 10)
    assert answer["steps_per_sec"] > 0
    folder = tmp_path / "runs" / "dit-tiny" / answer["run_id"]
    assert read_record(folder / "result.json", Result) == Result.model_validate(answer)
    for name in ("config.yaml", "manifest.json", "metrics.jsonl", "events.jsonl", "samples/grid.png"):
        assert (folder / name).stat().st_size > 0, name
    final, untrained = answer["evaluations"]["final"], answer["evaluations"]["untrained"]
    assert set(final["metrics"]) == {
        f"{metric}-digits@60" for metric in ("fd", "sfd", "is", "precision", "recall", "class_accuracy")
    }
    assert final["protocol"]["nfe"] == 3
    assert (untrained["step"], untrained["protocol"]) == (0, final["protocol"])

    again = invoke("run", "--config", folder / "config.yaml", "--json", cwd=tmp_path)
    assert json.loads(again.stdout) == answer
    assert "is finished; nothing to do" in again.stderr


@pytest.mark.slow
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
