"""`harness runs rm` as a user meets it: what it will and will not remove."""

import json
import shutil
from functools import partial
from pathlib import Path

import command_line
import pytest
from run_folders import quieted, unfinished, with_weights, write_run

from harness.records.folders import removal
from harness.records.folders.listing import entry_of
from harness.records.store import load_run
from harness.system.errors import DataError

ask = partial(command_line.invoke, "runs")
answer = partial(command_line.answer, "runs")


def states(root: Path) -> dict[str, str]:
    return {run["run"]: run["state"] for run in json.loads(answer("list", root, "--json"))["runs"]}


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}


def test_rm_without_yes_says_what_would_go_and_removes_nothing(runs):
    folder = unfinished(runs, seed=7)
    before = files(runs)
    done = ask("rm", folder, "--runs", runs)
    assert done.exit_code == 2
    assert f"maskdit-tiny/{folder.name} (unfinished): evaluations, features, samples, checkpoints," in " ".join(
        done.stdout.split()
    )
    assert "bytes) would be freed." in done.stdout
    assert "Add --yes" in done.stderr
    assert files(runs) == before


def test_rm_removes_the_run_and_says_how_many_bytes_were_freed(runs):
    folder = unfinished(runs, "mdt", seed=7)
    expected = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    others = files(runs) - {f"mdt-tiny/{folder.name}/{name}" for name in files(folder)}
    document = json.loads(answer("rm", f"mdt-tiny/{folder.name}", "--runs", runs, "--yes", "--json"))
    assert (document["removed"], document["bytes"]) == (True, expected)
    assert not folder.exists()
    assert files(runs) == others
    last = unfinished(runs / "alone", "sddit")
    answer("rm", last, "--runs", runs, "--yes")
    assert not (runs / "alone" / "sddit-tiny").exists()  # its recipe's folder held nothing else
    assert (runs / "alone").exists()


@pytest.mark.parametrize("yes", [[], ["--yes"]])
def test_rm_refuses_links_other_places_and_what_is_no_run(runs, tmp_path, yes):
    outside = quieted(write_run(tmp_path / "elsewhere", "dit"))
    (runs / "link").symlink_to(outside)
    (runs / "inside").symlink_to(tmp_path / "elsewhere")
    inside = next((runs / "dit-tiny").glob("seed1-*"))
    before = files(tmp_path)
    for target, says in (
        (outside, "does not lie below"),
        (runs / "link", "is a link"),
        (runs / "inside" / "dit-tiny" / outside.name, "does not lie below"),
        (runs / ".." / "elsewhere" / "dit-tiny" / outside.name, "does not lie below"),
        (runs / "notes", "not a run folder"),
        (runs / "other", "not a run folder"),
        (runs / "README.md", "is a file"),
        (runs, "not a run folder"),
        ("dit-tiny", "no run below"),  # a part of a name is not enough
        (inside.name[:-1], "no run below"),
        (runs / "gone", "no run below"),
    ):
        for with_another in ([], [inside]):  # nothing goes when one of several is refused
            done = ask("rm", *with_another, target, "--runs", runs, *yes)
            assert done.exit_code in (2, 4), (target, done.output)
            assert says in done.stderr
    assert files(tmp_path) == before
    assert "does not lie below" in ask("rm", inside, "--runs", inside, *yes).stderr
    assert ask("rm", *yes, "--runs", runs).exit_code == 2
    assert files(tmp_path) == before


def test_rm_keep_records_takes_weights_and_images_and_no_record(runs):
    folder = with_weights(next((runs / "dit-tiny").glob("seed0-*")))
    before, run = files(folder), load_run(folder)
    document = json.loads(answer("rm", folder, "--runs", runs, "--keep-records", "--yes", "--json"))
    gone = {"checkpoints/step-000000040/ema.safetensors", "samples/cfg1.5/samples.npz"}
    assert before - files(folder) == gone
    assert document["bytes"] == 30_000
    assert load_run(folder) == run


def test_rm_refuses_a_run_that_may_be_running_unless_forced(runs):
    running = unfinished(runs, "mdt", quiet=False, seed=3)
    said = command_line.refused("runs", "rm", running, "--runs", runs, "--yes", exit_code=2, says="may be running")
    assert "--force" in said
    assert running.exists()
    quieted(running)
    (running / "checkpoints/step-000000040/state.json").write_text("{}")  # anything in it that was just written
    assert ask("rm", running, "--runs", runs, "--yes").exit_code == 2
    answer("rm", running, "--runs", runs, "--yes", "--force")
    assert not running.exists()
    (unfinished(runs, "mdt", seed=3) / "metrics.jsonl").write_text('{"timed_steps": 20, "timed_seconds": 3000}\n')
    quieted(running)  # a run that logs rarely has to be quiet for longer
    assert "quiet for 9000 s" in ask("rm", running, "--runs", runs, "--yes").stderr
    finished = write_run(runs, "mdt", seed=4)  # written a moment ago, and done
    answer("rm", finished, "--runs", runs, "--yes")
    assert not finished.exists()


def test_rm_unfinished_takes_those_alone(runs):
    stopped = list((runs / "maskdit-tiny").iterdir())
    running = unfinished(runs, "mdt", quiet=False, seed=5)
    kept = {name for name, state in states(runs).items() if state != "unfinished"}
    assert ask("rm", "--unfinished", "--runs", runs).exit_code == 2
    assert f"mdt-tiny/{running.name} is unfinished" in answer("rm", "--unfinished", "--runs", runs, "--yes")
    assert [path.exists() for path in stopped] == [False]
    assert set(states(runs)) == kept | {f"mdt-tiny/{running.name}"}
    assert "nothing to remove" in answer("rm", "--unfinished", "--runs", runs, "--yes")


def test_files_that_the_harness_did_not_write_stay(runs):
    folder = next((runs / "dit-tiny").glob("seed0-*"))
    (folder / "notes.txt").write_text("mine")
    (folder / ".result.json.123.tmp").write_text("torn")
    assert "stay: notes.txt" in ask("rm", folder, "--runs", runs).stdout
    answer("rm", folder, "--runs", runs, "--yes")
    assert files(folder) == {"notes.txt"}
    assert entry_of(folder).state == "foreign"


def test_a_link_inside_a_run_goes_and_what_it_leads_to_stays(runs, tmp_path):
    folder = next((runs / "dit-tiny").glob("seed0-*"))
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "weights").write_bytes(b"0" * 1000)
    (folder / "checkpoints").symlink_to(disk)
    answer("rm", folder, "--runs", runs, "--yes")
    assert not folder.exists()
    assert files(disk) == {"weights"}


class Crash(BaseException):
    """As a kill: nothing catches it."""


@pytest.mark.parametrize("operations", range(12))
def test_a_removal_cut_short_leaves_no_finished_run_and_can_be_repeated(operations, runs, monkeypatch):
    folder = quieted(with_weights(next((runs / "dit-tiny").glob("seed0-*"))))
    left = [operations]

    def counted(real):
        def wrapped(*arguments, **options):
            if left[0] == 0:
                raise Crash
            left[0] -= 1
            return real(*arguments, **options)

        return wrapped

    plan = removal.plan(folder, runs)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
        patch.setattr(Path, "unlink", counted(Path.unlink))
        patch.setattr(Path, "rmdir", counted(Path.rmdir))
        try:
            removal.remove(plan, runs)
        except Crash:
            assert folder.exists()
    if not folder.exists():
        return
    assert (load_run(folder).path == folder) if operations == 0 else entry_of(folder).state != "finished"
    if operations:
        with pytest.raises(DataError):
            load_run(folder)
        if (folder / "checkpoints").exists() and operations > 1:
            assert not (folder / "evaluations").exists()  # metrics do not outlive the weights they are of
    if files(folder):
        assert entry_of(folder).state == ("unfinished" if operations else "finished")
        answer("rm", folder, "--runs", runs, "--yes", "--force")
        assert not folder.exists()


def test_what_cannot_be_removed_is_told_with_what_was_freed(runs, monkeypatch):
    folder = with_weights(next((runs / "dit-tiny").glob("seed0-*")))

    def refusing(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refusing)
    result = (folder / "result.json").stat().st_size
    done = ask("rm", folder, "--runs", runs, "--yes", "--json")
    assert done.exit_code == 4
    assert json.loads(done.stdout)["bytes"] == result
    assert "Permission denied" in done.stderr
