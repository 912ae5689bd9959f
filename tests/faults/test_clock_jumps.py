"""Clocks that jump by years while a run goes on, and files of the future: no crash, and nothing negative."""

import datetime as of_clocks
import itertools
import os
import re
import time
from pathlib import Path

import pytest
from positions import LONG, record
from run_folders import write_run
from tiny_run import SIX_STEPS, run, weights_of

from harness.cli import runs_text
from harness.data.latents import verified
from harness.records import provenance, store
from harness.records.folders import history, inspection, listing, removal
from harness.system.errors import UsageError
from harness.system.files import sha256_of
from harness.training import logbook

YEAR = 365.25 * 24 * 3600
JUMPS = {
    "to the past": [0, -10 * YEAR],
    "to the future": [0, 10 * YEAR],
    "to and fro": [0, 20 * YEAR, -30 * YEAR, YEAR, -1, 3600],
    "to 1970": [-1.7e9],
}
SOME = JUMPS if LONG else {name: JUMPS[name] for name in ("to and fro", "to 1970")}


@pytest.fixture
def jumping(monkeypatch, request):
    """Every look at the clock sees another time. perf_counter, which cannot jump, is left alone."""
    offsets, real = itertools.cycle(request.param), time.time

    class Jumping(of_clocks.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromtimestamp(max(real() + next(offsets), 0), tz)

    monkeypatch.setattr(time, "time", lambda: max(real() + next(offsets), 0.0))
    for module in (logbook, provenance, runs_text, listing):
        monkeypatch.setattr(module, "datetime", Jumping)


def numbers_in(value) -> list[float]:
    if isinstance(value, dict):
        return [number for inner in value.values() for number in numbers_in(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in numbers_in(inner)]
    return [value] if isinstance(value, int | float) else []


@pytest.mark.parametrize("jumping", SOME.values(), ids=SOME, indirect=True)
def test_a_run_whose_clock_jumps_has_the_same_weights_and_no_negative_time(jumping, six_steps, tmp_path):
    result, folder, _ = run(tmp_path, *SIX_STEPS)
    assert weights_of(folder) == weights_of(six_steps)
    assert result.wall_seconds > 0
    assert min(numbers_in(result.model_dump(mode="json", exclude={"evaluations"}))) >= 0
    lines = store.load_run(folder).metrics
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(line["timed_seconds"] >= 0 and (line["data_wait_share"] or 0) >= 0 for line in lines)
    assert listing.entry_of(folder).state == "finished"
    told = history.read(folder)
    assert [point.step for point in told.points] == [1, 2, 3, 4, 5, 6]
    assert all(point.time is None or point.time >= 0 for point in told.points)
    record("clock", "the clock jumps by years at every look, while a run trains and is listed", len(JUMPS))


@pytest.mark.parametrize("jumping", [JUMPS["to and fro"]], ids=["to and fro"], indirect=True)
def test_an_interrupted_run_goes_on_though_the_clock_has_jumped(jumping, six_steps, tmp_path):
    _, folder, _ = run(tmp_path, *SIX_STEPS)
    (folder / "result.json").unlink()
    (folder / "checkpoints" / "step-000000006" / "state.json").unlink()
    result, _, _ = run(tmp_path, *SIX_STEPS)
    assert weights_of(folder) == weights_of(six_steps)
    assert result.wall_seconds > 0
    record("clock", "the clock jumps by years between an interruption and the continuation", 1)


@pytest.fixture
def from_the_future(tmp_path) -> Path:
    folder = write_run(tmp_path, finished=False, started_at="2091-01-01T00:00:00+00:00")
    (folder / "events.jsonl").write_text('{"time": "2091-01-01T00:00:00+00:00", "event": "start", "step": 0}\n')
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (4e9, 4e9))
    return folder


def test_files_of_the_future_are_listed_with_an_age_that_is_not_negative(from_the_future):
    entry = listing.entry_of(from_the_future)
    assert entry.state == "unfinished"
    text = "\n".join(runs_text.of_the_list({"roots": ["."], "runs": [entry.as_json()]}))
    assert not re.search(r"-\s?\d+\s?(s|min|h|d)\b", text), text
    assert inspection.describe(from_the_future)["state"] == "unfinished"
    (from_the_future / "events.jsonl").unlink()
    assert listing.entry_of(from_the_future).last_active is not None


def test_a_run_of_the_future_is_removed_only_by_force(from_the_future, tmp_path):
    """It may be going on, for all that its files' times say."""
    with pytest.raises(UsageError, match=r"written to 0 s ago.*--force"):
        removal.plan(from_the_future, tmp_path)
    assert removal.plan(from_the_future, tmp_path, force=True).empties


def test_a_data_file_of_the_future_is_still_hashed_when_it_changes(tmp_path):
    path = tmp_path / "shard"
    path.write_bytes(b"one")
    os.utime(path, (4e9, 4e9))
    expected = {"shard": sha256_of(path)}
    assert verified.damaged(tmp_path, expected) == []
    path.write_bytes(b"two")
    os.utime(path, (4e9, 4e9))
    assert verified.damaged(tmp_path, expected) == ["shard"]


def test_a_file_system_without_the_year_1970_does_not_stop_a_listing(tmp_path):
    folder = write_run(tmp_path)
    for path in folder.rglob("*"):
        os.utime(path, (0, 0))
    assert listing.entry_of(folder).last_active is not None
