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


DAMAGES = {  # by what a power cut, or a flipped bit that leaves an object, makes of a log
    "torn": lambda log: log[:-9],
    "zeros after": lambda log: log + bytes(300),
    "zeros at the end": lambda log: log[:-30] + bytes(30),
    "lines of zeros": lambda log: log + (bytes(40) + b"\n") * 3,
    "nothing": lambda log: b"",
    "only zeros": lambda log: bytes(len(log)),
    "a name changed": lambda log: log.replace(b'"timed_steps"', b'"timed_stepr"', 1).replace(b'"event"', b'"evenu"', 1),
    "a number became text": lambda log: log.replace(b'"step": 2', b'"step": "2"', 1),
}
SOME = DAMAGES if LONG else ["torn", "zeros at the end", "nothing", "a name changed"]


def spoil(folder: Path, damage: str) -> None:
    for name in ("metrics.jsonl", "events.jsonl"):
        (folder / name).write_bytes(DAMAGES[damage]((folder / name).read_bytes()))


@pytest.mark.parametrize("damage", SOME)
def test_a_run_goes_on_with_damaged_logs_to_the_same_weights_and_says_so(damage, cut, six_steps):
    spoil(cut, damage)
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
    record("torn record", f"metrics.jsonl and events.jsonl: {damage}; the run goes on", 2)


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


@pytest.mark.parametrize("damage", DAMAGES)
def test_reading_a_finished_run_with_damaged_logs_fails_nowhere(damage, tmp_path):
    folder = write_run(tmp_path)
    (folder / "events.jsonl").write_text(
        '{"time": "2026-01-01T00:00:00+00:00", "event": "start", "step": 0}\n'
        '{"time": "2026-01-01T00:01:00+00:00", "event": "checkpoint", "step": 20}\n'
    )
    spoil(folder, damage)
    runs, left_out = find_runs([tmp_path])
    assert len(runs) == 1, left_out
    assert listing.entry_of(folder).state == "finished"
    assert inspection.describe(folder)["state"] == "finished"
    assert history.read(folder).finished
    lines = len((folder / "metrics.jsonl").read_bytes().splitlines())
    read = len(runs[0].metrics)
    assert read + runs[0].damaged_lines == lines
    record("torn record", f"{damage} in the logs of a finished run; listed and drawn", 2)
