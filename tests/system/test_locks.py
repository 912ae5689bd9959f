"""Two commands on one run folder, in real processes: who is refused, who waits, what a kill leaves behind, and lock
files that somebody else put there or owns."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from run_folders import write_run
from tiny_run import EVALUATED, Silent, run

from harness.records.folders import removal
from harness.records.folders.listing import survey
from harness.records.schema import Result, read_record
from harness.records.store import find_runs
from harness.runs import measuring, sampling
from harness.system import locks
from harness.system.errors import DataError, UsageError
from harness.system.processes.world import World

HOLDS = """
import sys, time
from pathlib import Path
from harness.system import locks
with locks.{hold}:
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process(hold: str):
    """A process that holds `locks.<hold>`, until the end of the block or its death."""
    code = HOLDS.format(hold=hold)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()
        process.wait()


def trains(folder, alone=False):
    return another_process(f"run_folder(Path({str(folder)!r}), 'wait', alone={alone}, note=print)")


def draws(folder):
    return another_process(f"in_use(Path({str(folder)!r}), note=print)")


def silent(text):
    raise AssertionError(f"nothing was to be said: {text}")


def lock_files(folder):
    return sorted(path.name for path in folder.rglob(".*.lock"))


def sampled(folder, progress=None, num_images=4):
    return sampling.sample(
        folder, num_images, seed=0, label_rule="balanced", npz=True, progress=progress or Silent(), world=World()
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The root and the folder of a trained and evaluated run. Tests leave it as it is but for its images."""
    root = tmp_path_factory.mktemp("locked")
    return root, run(root, *EVALUATED, with_evaluation=True)[1]


# The hold itself -----------------------------------------------------------------------------------------------------


def test_a_killed_process_leaves_nothing_locked_and_is_not_named_as_the_holder(tmp_path):
    folder, lock = tmp_path / "dit-tiny" / "seed0-1", tmp_path / "dit-tiny" / ".seed0-1.run.lock"
    with trains(folder) as holder:
        with (
            pytest.raises(DataError, match=rf"works on .*: process {holder.pid}, since 20.* \(/.*\). Two would"),
            locks.run_folder(folder, "wait", note=silent),
        ):
            pass
        holder.kill()
        holder.wait()
    assert json.loads(lock.read_text())["process"] == holder.pid
    assert locks._holder(lock) == locks.UNKNOWN
    for damaged in ("", "[1]", '{"process": "1e999"}', '{"process": -1, "since": "2026-01-01"}', "\0" * 5000):
        lock.write_text(damaged)
        assert locks._holder(lock) == locks.UNKNOWN
    with locks.run_folder(folder, "wait", note=silent):
        pass
    assert lock_files(tmp_path) == []


def test_readers_keep_out_whoever_wants_the_folder_alone_until_the_last_has_gone(tmp_path):
    folder = tmp_path / "runs" / "run"

    def alone():
        return locks.run_folder(folder, "wait", alone=True, note=silent)

    with locks.in_use(folder, note=silent):
        with locks.in_use(folder, note=silent):
            pass
        with pytest.raises(DataError, match="images are drawn or measured"), alone():
            pass
    with draws(folder) as dead:
        dead.kill()
        dead.wait()
    assert len(lock_files(tmp_path)) == 1
    with alone() as hold:
        assert lock_files(tmp_path) == [".run.alone.lock", ".run.run.lock"]
        with pytest.raises(DataError, match="is being removed or started over"), locks.in_use(folder, note=silent):
            pass
        hold.release()
        with locks.in_use(folder, note=silent):
            pass
    assert lock_files(tmp_path) == []


def test_a_lock_file_that_goes_with_its_holder_never_lets_two_in(tmp_path):
    """Each holder removes the file while others are about to lock it: they must find out that it has gone."""
    lock, inside, met, taken = tmp_path / "a.lock", [], [], []
    ends = time.monotonic() + 1

    def again_and_again(name: int) -> None:
        while time.monotonic() < ends:
            hold = locks.take(lock)
            if hold:
                inside.append(name)
                time.sleep(0)
                met.append(len(inside))
                inside.remove(name)
                hold.release()
                taken.append(name)

    threads = [threading.Thread(target=again_and_again, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(met) == {1}
    assert len(set(taken)) > 1


class Pair:
    """Two processes of a world as two threads: what the main one says, both hear."""

    def __init__(self):
        self.meet, self.said = threading.Barrier(2), None

    def process(self, rank: int):
        pair = self

        class Process:
            is_main = rank == 0

            def agreed(self, value):
                if self.is_main:
                    pair.said = value
                pair.meet.wait(10)
                said = pair.said
                pair.meet.wait(10)
                return said

        return Process()


def refused_in_two_processes(way) -> list[str | None]:
    """What each of two processes is refused with; `way` enters a lock for its world."""
    pair, words = Pair(), [None, None]

    def work(rank: int) -> None:
        try:
            with way(pair.process(rank)):
                pass
        except DataError as error:
            words[rank] = str(error)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return words


@pytest.mark.parametrize("alone", [False, True])
def test_a_refusal_ends_every_process_of_a_world_with_the_same_words(alone, tmp_path):
    with draws(tmp_path / "run") if alone else trains(tmp_path / "run"):
        words = refused_in_two_processes(
            lambda world: locks.run_folder(tmp_path / "run", "wait", alone=alone, world=world, note=silent)
        )
    assert words[0] == words[1] is not None
    assert ("images are drawn" if alone else "another command works on") in words[0]


def test_a_file_system_without_locks_is_said_and_the_run_goes_on(tmp_path, monkeypatch):
    def refuses(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuses)
    result, _, notes = run(tmp_path)
    assert result.complete
    assert any("takes no locks (No locks available)" in note for note in notes)


# Files of others -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", ["file", "nothing", "folder", "pipe"])
def test_a_lock_that_is_no_file_is_refused_and_what_a_link_leads_to_is_left_alone(there, tmp_path):
    """Whoever may write beside a run could plant a link: what it leads to must not be emptied."""
    target, lock = tmp_path / "precious", tmp_path / ".run.run.lock"
    if there == "file":
        target.write_text("years of work")
    if there in ("file", "nothing"):
        lock.symlink_to(target)
    elif there == "folder":
        lock.mkdir()
    else:
        os.mkfifo(lock)
    kept = os.lstat(lock)
    assert locks._holder(lock) == locks.UNKNOWN
    with (
        pytest.raises(DataError, match=r"\.run\.run\.lock is a link, a folder or a device, .* Remove it"),
        locks.run_folder(tmp_path / "run", "wait", note=silent),
    ):
        pass
    assert os.path.samestat(os.lstat(lock), kept)
    assert target.exists() == (there == "file")
    assert there != "file" or target.read_text() == "years of work"


def test_a_lock_file_with_a_second_name_is_held_and_not_written_to(tmp_path):
    target = tmp_path / "precious"
    target.write_text("years of work")
    (tmp_path / ".run.run.lock").hardlink_to(target)
    with locks.run_folder(tmp_path / "run", "wait", note=silent):
        assert locks.take(tmp_path / ".run.run.lock") is None
    assert target.read_text() == "years of work"


@pytest.mark.parametrize("way", ["run", "turn"])
def test_a_lock_file_that_cannot_be_opened_is_refused_in_every_process(way, tmp_path, monkeypatch):
    """The file behaves as another user's would."""
    real = os.open

    def opened(path, flags, *more, **options):
        if str(path).endswith(".lock"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, flags, *more, **options)

    for name in (".run.run.lock", ".images.lock"):
        (tmp_path / name).touch()
    monkeypatch.setattr(os, "open", opened)
    ways = {
        "run": lambda world: locks.run_folder(tmp_path / "run", "wait", world=world, note=silent),
        "turn": lambda world: locks.turn(tmp_path / "images", "these images", world=world, note=silent),
    }
    words = refused_in_two_processes(ways[way])
    assert words[0] == words[1]
    assert "lock cannot be opened: Permission denied" in words[0]


def test_a_process_is_named_on_its_own_machine_alone(tmp_path, monkeypatch):
    """On a file system of many machines, and in a container, the number is another process here, not to be ended."""
    with trains(tmp_path / "run") as holder:
        lock = tmp_path / ".run.run.lock"
        words = json.loads(lock.read_text())
        assert Path("/proc/sys/kernel/random/boot_id").read_text().strip() not in lock.read_text()
        monkeypatch.setattr(locks, "_machine", lambda: "another")
        with (
            pytest.raises(DataError, match=r"works on .*: a process on another machine or in .*, since 20") as error,
            locks.run_folder(tmp_path / "run", "wait", note=silent),
        ):
            pass
        assert str(holder.pid) not in str(error.value).replace(str(tmp_path), "")
    lock.write_text(json.dumps({**words, "machine": "", "process": os.getpid()}))
    assert locks._holder(lock).startswith("a process, since 20")  # where nobody can tell


def test_whoever_lets_go_at_this_moment_is_waited_for(tmp_path):
    leaving = locks.take(tmp_path / ".run.run.lock")
    threading.Timer(0.2, leaving.release).start()
    with locks.run_folder(tmp_path / "run", "wait", note=silent):
        pass


# Commands ------------------------------------------------------------------------------------------------------------


def test_a_second_run_of_a_folder_is_refused_at_once_and_touches_nothing(tmp_path):
    _, folder, _ = run(tmp_path)
    (folder / "result.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with trains(folder) as holder, pytest.raises(DataError) as refused:
        run(tmp_path)
    assert f"process {holder.pid}, since " in str(refused.value)
    assert "another --seed or --out" in str(refused.value)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    (folder / "checkpoints" / ".step-000000003.tmp").mkdir()  # what a kill left half written
    (folder / ".manifest.json.123.tmp").write_text("{")
    result, _, _ = run(tmp_path)
    assert result.complete
    assert list(folder.rglob(".*")) == []
    assert lock_files(tmp_path) == []


def test_a_finished_run_is_reported_whoever_uses_it(finished):
    root, folder = finished
    with draws(folder):
        result, _, notes = run(root, *EVALUATED, with_evaluation=True)
    assert result == read_record(folder / "result.json", Result)
    assert "is finished; nothing to do" in notes[0]


def test_a_run_that_is_trained_can_be_sampled_and_measured(finished):
    _, folder = finished
    with trains(folder):
        sampled(folder)
        evaluation = measuring.evaluate_run(folder, ["evaluation.seed=3"], progress=Silent(), world=World())
    assert evaluation.metrics
    assert lock_files(folder.parent) == []


def test_nothing_is_removed_of_a_run_that_is_trained_or_read(finished):
    root, folder = finished
    plan = removal.plan(folder, root)
    for hold, says in ((draws, "images are drawn or measured in"), (trains, "another command works on")):
        with hold(folder) as holder:
            with pytest.raises(UsageError, match=f"{says} .*: process {holder.pid}"):
                removal.plan(folder, root, force=True)
            outcome = removal.remove(plan, root)  # planned before
            assert outcome.bytes == 0
            assert f"process {holder.pid}" in outcome.error
            with pytest.raises(DataError, match=says):
                run(root, *EVALUATED, force=True)
    assert (folder / "result.json").exists()
    assert list(folder.glob("checkpoints/*/ema.safetensors"))


def test_a_run_that_finishes_between_the_look_and_the_removal_stays_whole(tmp_path):
    _, folder, _ = run(tmp_path)
    result = (folder / "result.json").read_bytes()
    (folder / "result.json").unlink()
    plan = removal.plan(folder, tmp_path, force=True)
    (folder / "result.json").write_bytes(result)
    before = sorted(folder.rglob("*"))
    outcome = removal.remove(plan, tmp_path)
    assert (outcome.bytes, sorted(folder.rglob("*"))) == (0, before)
    assert "was unfinished and is finished now: nothing of it was removed" in outcome.error


def test_what_came_between_the_look_and_the_removal_goes_too_and_so_do_the_locks_of_the_dead(tmp_path):
    folder = write_run(tmp_path, "dit")
    for hold in (trains, draws):
        with hold(folder) as holder:
            holder.kill()
    assert len(lock_files(tmp_path)) == 2
    plan = removal.plan(folder, tmp_path)
    (folder / "samples" / "late").mkdir(parents=True)
    (folder / "samples" / "late" / "samples.npz").write_bytes(b"12345")
    outcome = removal.remove(plan, tmp_path)
    assert (outcome.error, outcome.bytes) == (None, plan.bytes + 5)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_being_removed_is_neither_sampled_nor_measured(finished):
    _, folder = finished
    with trains(folder, alone=True) as holder:
        for command in (sampled, lambda run: measuring.evaluate_run(run, [], progress=Silent(), world=World())):
            with pytest.raises(DataError, match=f"is being removed or started over: process {holder.pid}"):
                command(folder)


def test_a_run_that_was_started_over_may_be_sampled_while_it_trains(tmp_path, monkeypatch):
    """--force needs the folder alone to clear it, and must not keep it so for the weeks that follow."""
    _, folder, _ = run(tmp_path)
    seen = []

    def metrics(self, line):
        with locks.in_use(folder, note=silent):
            seen.append(line["step"])
        with pytest.raises(DataError), locks.run_folder(folder, "wait", note=silent):
            pass

    monkeypatch.setattr(Silent, "metrics", metrics)
    run(tmp_path, force=True)
    assert seen == [2, 4]


def test_two_that_draw_the_same_images_do_the_work_once(finished):
    _, folder = finished
    told = [Silent(), Silent()]
    answers = [None, None]

    def draw(number: int) -> None:
        answers[number] = sampled(folder, told[number], num_images=30)

    threads = [threading.Thread(target=draw, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers[0] == answers[1]
    assert sorted("drawing images" in progress.notes for progress in told) == [False, True]
    assert sum("holds these images; nothing to do" in note for progress in told for note in progress.notes) == 1


def test_one_that_waits_for_anothers_images_says_so(finished):
    _, folder = finished
    answer = sampled(folder, num_images=5)
    place = str(Path(answer["files"][0]).parent)
    progress = Silent()
    with another_process(f"turn(Path({place!r}), 'these images', note=print)") as holder:
        threading.Timer(1, holder.stdin.close).start()
        assert sampled(folder, progress, num_images=5) == answer
    assert f"another command makes these images at this moment: process {holder.pid}" in progress.notes[0]


def test_images_that_were_damaged_or_taken_away_are_drawn_again(finished):
    _, folder = finished
    first = sampled(folder, num_images=6)
    npz = Path(first["files"][2])
    content = npz.read_bytes()
    for damage in (npz.unlink, lambda: npz.write_bytes(content[:-1] + b"?")):
        damage()
        assert sampled(folder, num_images=6) == first
        assert npz.read_bytes() == content


def test_locks_make_nothing_look_like_a_run_and_leave_no_folder_that_nobody_used(tmp_path):
    write_run(tmp_path, "dit")
    with locks.run_folder(tmp_path / "sddit-tiny" / "seed7-0123456789", "wait", note=silent):
        assert lock_files(tmp_path)
        runs, left_out = find_runs([tmp_path])
        assert (len(runs), left_out) == (1, [])
        assert [entry.state for entry in survey([tmp_path])] == ["finished"]
    assert [path.name for path in tmp_path.iterdir()] == ["dit-tiny"]
