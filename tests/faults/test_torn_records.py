"""Records that a power cut left torn, full of zeros or empty: the harness says so, and the run ends as without it."""

import json
import shutil
from pathlib import Path

import pytest
from positions import LONG, record
from run_folders import write_run
from tiny_run import SIX_STEPS, losses_of, run, weights_of

from harness.records.folders import history, inspection, listing
from harness.records.schema import read_lines
from harness.records.store import find_runs, load_run
from harness.reporting.tables.run_tables import left_out
from harness.system.errors import DataError


@pytest.fixture
def cut(six_steps, tmp_path) -> Path:
    """The run as it was after its checkpoint of step 4, when the power went."""
    folder = Path(shutil.copytree(six_steps, tmp_path / six_steps.parent.name / six_steps.name))
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "step-000000006")
    for name in ("metrics.jsonl", "events.jsonl"):
        lines = read_lines(folder / name)[0]
        kept = [line for line in lines if line.get("step", 0) <= 4]
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in kept))
    return folder


def torn(content: bytes) -> bytes:
    return content[:-9]


def zeros_after(content: bytes) -> bytes:
    return content + bytes(300)


def zeros_at_the_end(content: bytes) -> bytes:
    return content[:-30] + bytes(30)


def lines_of_zeros(content: bytes) -> bytes:
    return content + (bytes(40) + b"\n") * 3


def nothing(content: bytes) -> bytes:
    return b""


def only_zeros(content: bytes) -> bytes:
    return bytes(len(content))


def a_name_changed(content: bytes) -> bytes:
    """A flipped bit may leave an object."""
    return content.replace(b'"timed_steps"', b'"timed_stepr"', 1).replace(b'"event"', b'"evenu"', 1)


def a_number_became_text(content: bytes) -> bytes:
    return content.replace(b'"step": 2', b'"step": "2"', 1)


DAMAGES = [
    torn, zeros_after, zeros_at_the_end, lines_of_zeros, nothing, only_zeros, a_name_changed, a_number_became_text,
]  # fmt: skip


SOME = DAMAGES if LONG else [torn, zeros_at_the_end, nothing, a_name_changed]


@pytest.mark.parametrize("damage", SOME, ids=lambda damage: damage.__name__)
def test_a_run_goes_on_with_damaged_logs_to_the_same_weights_and_says_so(damage, cut, six_steps):
    for name in ("metrics.jsonl", "events.jsonl"):
        (cut / name).write_bytes(damage((cut / name).read_bytes()))
    read = read_lines(cut / "metrics.jsonl")[0]
    result, folder, said = run(cut.parents[1], *SIX_STEPS)
    assert folder == cut
    assert weights_of(folder) == weights_of(six_steps)
    assert any("metrics.jsonl had" in text or "metrics.jsonl has lost" in text for text in said), said
    expected = dict(losses_of(six_steps))
    found = losses_of(folder)
    assert found == [(step, expected[step]) for step, _ in found]
    assert {step for step, _ in found} >= {5, 6}
    assert {step for step, _ in found} >= {line["step"] for line in read if type(line.get("step")) is int} - {1, 2}
    assert result.steps_per_sec is None or result.steps_per_sec > 0
    assert load_run(folder).damaged_lines == 0  # left out for good
    record("torn record", f"metrics.jsonl and events.jsonl: {damage.__name__.replace('_', ' ')}; the run goes on", 2)


EMPTY = ["config.yaml", "manifest.json", "result.json", "metrics.jsonl", "events.jsonl"]
EMPTY += [f"checkpoints/step-000000006/{name}" for name in ("state.json", "optimizer.pt", "ema.safetensors")]


def test_the_same_command_restores_a_run_with_an_empty_file(six_steps, tmp_path):
    for name in EMPTY if LONG else EMPTY[::3]:
        folder = Path(
            shutil.copytree(six_steps, tmp_path / str(EMPTY.index(name)) / six_steps.parent.name / six_steps.name)
        )
        (folder / name).write_bytes(b"")
        if not name.startswith("result"):
            (folder / "result.json").unlink()
        result, _, _ = run(folder.parents[1], *SIX_STEPS)
        assert weights_of(folder) == weights_of(six_steps), name
        assert result.complete
        assert load_run(folder).result == result, name
    record("empty record", "each file of a run folder in turn, of size 0; the same command", len(EMPTY),
           lost="the steps since the checkpoint before")  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_reading_a_finished_run_with_damaged_logs_fails_nowhere(damage, tmp_path):
    folder = write_run(tmp_path)
    (folder / "events.jsonl").write_text(
        '{"time": "2026-01-01T00:00:00+00:00", "event": "start", "step": 0}\n'
        '{"time": "2026-01-01T00:01:00+00:00", "event": "checkpoint", "step": 20}\n'
    )
    for name in ("metrics.jsonl", "events.jsonl"):
        (folder / name).write_bytes(damage((folder / name).read_bytes()))
    runs, left_out = find_runs([tmp_path])
    assert len(runs) == 1, left_out
    assert listing.entry_of(folder).state == "finished"
    assert inspection.describe(folder)["state"] == "finished"
    assert history.read(folder).finished
    lines = len((folder / "metrics.jsonl").read_bytes().splitlines())
    read = len(runs[0].metrics)
    assert read + runs[0].damaged_lines == lines
    record("torn record", f"{damage.__name__.replace('_', ' ')} in the logs of a finished run; listed and drawn", 2)


@pytest.mark.parametrize("name", ["config.yaml", "manifest.json", "result.json"])
def test_a_finished_run_with_an_empty_record_is_left_out_with_the_reason_and_spoils_no_other(name, tmp_path):
    folder = write_run(tmp_path, "dit")
    write_run(tmp_path, "sddit")
    (folder / name).write_bytes(b"")
    runs, left_out = find_runs([tmp_path])
    assert [run.result.recipe for run in runs] == ["sddit-tiny"]
    assert name.removesuffix(".yaml") in left_out[0].reason
    assert listing.entry_of(folder).state in ("damaged", "unfinished")
    with pytest.raises(DataError):
        load_run(folder)


def test_a_damaged_evaluation_is_told_in_the_report_and_the_run_is_used(tmp_path):
    folder = write_run(tmp_path)
    (folder / "evaluations").mkdir()
    (folder / "evaluations" / "guided.json").write_bytes(bytes(100))
    run = load_run(folder)
    assert set(run.evaluations) == {"final", "untrained"}
    assert "evaluations/guided.json is damaged and left out" in left_out([], [run]).csv()
