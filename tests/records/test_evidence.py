"""What a root holds: runs, benches and counts, each once, and everything that cannot be used with its reason."""

import json
import shutil

import pytest
from bench_records import bench, contender
from run_folders import write_run

from harness.records.evidence import Count, Counts, gather
from harness.records.schema import write_record
from harness.system.errors import DataError

COUNT = Count(params=740_570_704, gmacs_forward=128.05, gmacs_step=436.93)


def test_runs_benches_and_counts_are_found_below_a_root_and_once_through_two(tmp_path):
    write_run(tmp_path / "runs", "dit")
    (tmp_path / "bench").mkdir()
    write_record(tmp_path / "bench" / "bench.json", bench())
    write_record(tmp_path / "counts.json", Counts(harness_version="1", recipes={"sddit-xl": COUNT}))
    found = gather([tmp_path, tmp_path / "bench"])
    assert (len(found.runs), len(found.benches), len(found.counts)) == (1, 1, 1)
    assert found.count("sddit-xl") == COUNT
    assert found.count("dit-xl") is None
    assert not found.left_out


def test_a_folder_with_nothing_but_a_bench_or_counts_is_evidence_too(tmp_path):
    write_record(tmp_path / "counts.json", Counts(harness_version="1", recipes={"sddit-xl": COUNT}))
    assert gather([tmp_path]).count("sddit-xl") == COUNT


def with_a_window_of(seconds: float) -> str:
    document = bench(entries=(contender(),)).model_dump(mode="json")
    document["entries"][0]["windows"][0]["seconds"] = seconds
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cannot be read"),
        ("[]", "schema version None"),
        ('{"schema_version": 9}', "schema version 9"),
        ('{"schema_version": 1, "entries": 3}', "not a valid Bench"),
        ("[" * 9999, "cannot be read"),
        *((with_a_window_of(seconds), "windows.0.seconds") for seconds in (0, -1, float("inf"), float("nan"))),
    ],
)
def test_a_damaged_or_impossible_bench_is_named_and_left_out(text, reason, tmp_path):
    write_run(tmp_path / "runs", "dit")
    (tmp_path / "bench.json").write_text(text)
    found = gather([tmp_path])
    assert not found.benches
    assert [item.path.name for item in found.left_out] == ["bench.json"]
    assert reason in found.left_out[0].reason
    assert str(tmp_path) not in found.left_out[0].reason


def test_what_lies_inside_a_run_is_the_run_s(tmp_path):
    folder = write_run(tmp_path, "dit")
    write_record(folder / "bench.json", bench())
    assert not gather([tmp_path]).benches


def test_nothing_at_all_is_an_error_that_says_what_makes_some(tmp_path):
    with pytest.raises(DataError, match="harness run"):
        gather([tmp_path])
    with pytest.raises(DataError, match="does not exist"):
        gather([tmp_path / "nowhere"])


def test_a_root_that_goes_away_while_it_is_read_is_no_traceback(tmp_path):
    """A result that is a folder, a file that is a folder, a link that leads nowhere."""
    write_run(tmp_path / "good", "dit")
    broken = write_run(tmp_path / "broken", "mdt")
    (broken / "result.json").unlink()
    (broken / "result.json").mkdir()
    other = write_run(tmp_path / "other", "sddit")
    shutil.rmtree(other / "evaluations", ignore_errors=True)
    (other / "manifest.json").unlink()
    (other / "manifest.json").symlink_to(tmp_path / "nowhere")
    found = gather([tmp_path])
    assert len(found.runs) == 1
    assert len(found.left_out) == 2
    assert json.dumps([item.reason for item in found.left_out])
