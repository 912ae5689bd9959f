"""Lock files that somebody else put there, owns, or takes away, and what is said of whoever holds them."""

import errno
import json
import os
import threading
from pathlib import Path

import pytest
from test_locks import Pair, silent, trains

from harness.system import locks
from harness.system.errors import DataError


@pytest.mark.parametrize("there", ["file", "nothing", "folder", "pipe"])
def test_a_lock_that_is_no_file_is_refused_and_what_a_link_leads_to_is_left_alone(there, tmp_path):
    """Whoever may write beside a run could plant a link: what it leads to must not be emptied."""
    target, lock = tmp_path / "precious", tmp_path / ".run.use.lock"
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
        pytest.raises(DataError, match=r"\.run\.use\.lock is a link, a folder or a device, .* Remove it"),
        locks.in_use(tmp_path / "run", note=silent),
    ):
        pass
    assert os.path.samestat(os.lstat(lock), kept)
    assert target.exists() == (there == "file")
    assert there != "file" or target.read_text() == "years of work"


def test_a_lock_file_with_a_second_name_is_held_and_not_written_to(tmp_path):
    target = tmp_path / "precious"
    target.write_text("years of work")
    (tmp_path / ".run.use.lock").hardlink_to(target)
    with locks.in_use(tmp_path / "run", note=silent):
        assert locks.take(tmp_path / ".run.use.lock") is None
    assert target.read_text() == "years of work"


def test_a_lock_file_that_others_take_away_each_time_is_not_tried_for_ever(tmp_path, monkeypatch):
    def gone(path, flags, mode=0o777):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(locks.os, "open", gone)
    with pytest.raises(DataError, match="taken away again and again"):
        locks.take(tmp_path / "a.lock")


def refusing(monkeypatch, *refused):
    """As if files were another user's: opened so that all of `refused` is asked for, they are refused."""
    real = os.open

    def opened(path, flags, mode=0o777, **options):
        if str(path).endswith(".lock") and all(flags & flag == flag for flag in refused):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, flags, mode, **options)

    monkeypatch.setattr(locks.os, "open", opened)


def test_another_users_lock_file_that_can_only_be_read_keeps_commands_out_all_the_same(tmp_path, monkeypatch):
    with trains(tmp_path / "run") as holder:
        refusing(monkeypatch, os.O_RDWR)
        with (
            pytest.raises(DataError, match=f"another command works on .*: process {holder.pid}"),
            locks.run_folder(tmp_path / "run", "wait", note=silent),
        ):
            pass
        holder.kill()
    with locks.run_folder(tmp_path / "run", "wait", note=silent):  # the files that the kill left
        assert locks.take(tmp_path / ".run.run.lock") is None


def test_a_lock_file_that_cannot_be_opened_at_all_is_refused_in_every_process(tmp_path, monkeypatch):
    pair, words = Pair(), {}
    (tmp_path / ".run.run.lock").touch()
    (tmp_path / ".images.lock").touch()
    refusing(monkeypatch)
    ways = {
        "run": lambda world: locks.run_folder(tmp_path / "run", "wait", world=world, note=silent),
        "turn": lambda world: locks.turn(tmp_path / "images", "these images", world=world, note=silent),
    }

    def work(rank: int) -> None:
        for name, way in ways.items():
            try:
                with way(pair.process(rank)):
                    pass
            except DataError as error:
                words[name, rank] = str(error)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for name in ways:
        assert words[name, 0] == words[name, 1]
        assert "lock cannot be opened: Permission denied" in words[name, 0]


def test_a_process_is_named_on_its_own_machine_alone(tmp_path, monkeypatch):
    """On a file system of many machines, and in a container, the number is another process here, not to be ended."""
    with trains(tmp_path / "run") as holder:
        lock = tmp_path / ".run.run.lock"
        assert locks._holder(lock).startswith(f"process {holder.pid}, since 20")
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
    """The last to leave excludes the others while the file is removed."""
    (tmp_path / "run").mkdir()
    leaving = locks.take(tmp_path / ".run.use.lock")
    threading.Timer(0.2, leaving.release).start()
    with locks.in_use(tmp_path / "run", note=silent):
        assert locks.why_not_alone(tmp_path / "run", "stop it") is not None
