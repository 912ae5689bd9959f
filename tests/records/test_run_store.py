"""Finished runs found below roots; everything else is listed with its reason and stops nothing."""

import shutil

import pytest

from harness.records.evidence import gather
from harness.records.folders.listing import entry_of
from harness.records.schema import read_lines, write_record
from harness.records.store import find_runs
from harness.reporting.tables.run_tables import left_out as table_of_left_out
from harness.system.errors import DataError


def test_a_finished_run_is_found_once_below_a_root_as_a_root_and_through_several(run_folder, tmp_path):
    folder = run_folder("dit", speed=7.5)
    for roots in ([tmp_path], [folder], [tmp_path, folder, folder.parent]):
        runs, left_out = find_runs(roots)
        assert [run.path for run in runs] == [folder]
        assert runs[0].result.steps_per_sec == 7.5
        assert runs[0].metrics[-1]["step"] == 40
        assert left_out == []


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("result.json", "{", "result.json cannot be read"),
        ("result.json", "", "result.json cannot be read"),
        ("manifest.json", "", "manifest.json cannot be read"),
        ("config.yaml", "", "config.yaml is missing or not a run's configuration"),
        ("result.json", "[]", "schema version None"),
        ("result.json", '{"schema_version": 99}', "schema version 99"),
        ("result.json", '{"schema_version": 1}', "not a valid Result"),
        ("result.json", "9" * 5000, "cannot be read"),
        ("result.json", "[" * 100_000, "cannot be read"),
        ("manifest.json", "\x00", "manifest.json cannot be read"),
        ("manifest.json", None, "damaged: manifest.json is missing"),
        ("config.yaml", "a: [", "config.yaml is missing or not a run's configuration"),
        ("config.yaml", "method: dit\nprotocol: 3\n", "no valid"),
        (
            "config.yaml",
            "method: dit\nnetwork: {}\nknobs: {}\nprotocol: {}\nsampling: {}\nformulation: edm\nseed: 0\nblock: rms\n",
            "no valid block",
        ),
        ("config.yaml", "[" * 5000, "config.yaml is missing or not a run's configuration"),
        ("config.yaml", ("learning_rate: 0.001", "learning_rate: 0.0001"), "hash differs"),
        ("result.json", ('"schema_version": 1', '"schema_version": 7'), "schema version 7"),
        ("result.json", None, "unfinished: no result.json, last logged step 40"),
    ],
)
def test_a_damaged_or_unfinished_folder_is_listed_in_one_line_beside_the_good_ones(
    run_folder, tmp_path, name, text, reason
):
    good, other = run_folder("dit"), run_folder("mdt")
    if text is None:
        (other / name).unlink()
    else:
        content = (other / name).read_text(encoding="utf-8")
        (other / name).write_text(text if isinstance(text, str) else content.replace(*text, 1), encoding="utf-8")
    runs, (left_out,) = find_runs([tmp_path])
    assert [run.path for run in runs] == [good]
    assert left_out.path == other
    assert reason in left_out.reason
    assert "\n" not in left_out.reason
    assert entry_of(other).state in ("damaged", "unfinished")
    assert str(tmp_path) not in left_out.reason


def test_a_run_that_diverged_is_listed_as_failed(run_folder, tmp_path):
    run_folder("dit")
    folder = run_folder("mdt", finished=False)
    (folder / "events.jsonl").write_text('{"event": "start"}\n{"event": "divergence", "step": 31, "loss": "nan"}\n')
    _, left_out = find_runs([tmp_path])
    assert left_out[0].reason.startswith("failed: it diverged at step 31")


def test_a_result_of_another_run_is_not_taken_for_this_one_s(run_folder, tmp_path):
    folder, other = run_folder("dit"), run_folder("dit", protocol={"steps": 900})
    shutil.copy(other / "result.json", folder / "result.json")
    runs, left_out = find_runs([tmp_path])
    assert [run.path for run in runs] == [other]
    assert "another run" in left_out[0].reason


def test_later_evaluations_belong_to_the_run_and_damaged_ones_and_lines_do_not_leave_it_out(run_folder, tmp_path):
    folder = run_folder("dit")
    final = find_runs([tmp_path])[0][0].result.evaluations["final"]
    (folder / "evaluations").mkdir(exist_ok=True)
    write_record(folder / "evaluations" / "guided.json", final.model_copy(update={"name": "guided"}))
    (folder / "evaluations" / "torn.json").write_text('{"schema_ver')
    with open(folder / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 60, "lo')
    (run,), left_out = find_runs([tmp_path])
    assert set(run.evaluations) == {*run.result.evaluations, "guided"}
    assert (run.damaged_evaluations, run.damaged_lines, left_out) == (("torn.json",), 1, [])
    assert "evaluations/torn.json is damaged and left out" in table_of_left_out([], [run]).csv()


def test_a_foreign_folder_and_an_empty_root_are_listed(run_folder, tmp_path):
    run_folder("dit")
    foreign, empty = tmp_path / "runs" / "website", tmp_path / "empty"
    foreign.mkdir()
    empty.mkdir()
    (foreign / "config.yaml").write_text("title: holidays\n", encoding="utf-8")
    _, left_out = find_runs([tmp_path / "runs", empty])
    reasons = {item.path: item.reason for item in left_out}
    assert "not a run folder" in reasons[foreign]
    assert reasons[empty] == "holds no run"


@pytest.mark.parametrize(("last_bytes", "number"), [(20, 1), (21, 1), (45, 3), (1000, 71), (None, 100)])
def test_the_last_lines_of_a_log_are_read_whole_and_a_cut_one_is_none(last_bytes, number, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {step}}}\n' for step in range(100, 200)))  # 14 bytes each
    lines, damaged = read_lines(path, last_bytes=last_bytes)
    assert lines == [{"step": step} for step in range(200 - number, 200)]
    assert damaged == 0


def test_a_copy_of_a_run_is_no_second_seed(run_folder, tmp_path):
    folder = run_folder("dit")
    shutil.copytree(folder, tmp_path / "archive" / "dit-tiny" / folder.name)
    runs, left_out = find_runs([tmp_path])
    assert len(runs) == 1
    assert "same configuration, seed and machine" in left_out[0].reason


def test_no_finished_run_or_no_root_is_an_error_that_says_what_to_do(run_folder, tmp_path):
    folder = run_folder("dit", finished=False)
    for roots, says in (
        ([tmp_path], r"unfinished.*harness demo.*harness run dit-tiny"),
        ([folder, tmp_path / "elsewhere"], "does not exist"),
        ([folder / "config.yaml"], "is a file"),
    ):
        with pytest.raises(DataError, match=says):
            gather(roots)
