"""Locks beside run folders and other outputs, so that two commands do not overwrite each other's work.

A lock is filelock's: flock(2) on a small file. The kernel releases it when its process ends, however it ends, so no
folder stays locked. The holder removes the file; a file that a killed process left behind locks nothing.

  <recipe>/.<run>.run.lock      the one command that trains, imports, exports or removes the run
  <recipe>/.<run>.alone.lock    held besides while the folder is being cleared
  <recipe>/.<run>.use-*.lock    one for each command that reads the run and adds images or measurements to it
  .<name>.lock                  beside samples/<name> or a set of features: the one command that makes them
  <latents>/.encode.lock        the one command that encodes into the folder

Only the main process of a world takes locks; the others learn from it whether they may go on. Where a file system has
no locks, a note says so and the command goes on.
"""

import glob
import hashlib
import json
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from harness.system.errors import DataError, one_line
from harness.system.files import read_limited
from harness.system.processes.world import World

Note = Callable[[str], None]

RETRY_SECONDS = 1.0  # before a refusal: a process that is just releasing the lock still holds it for a moment
RETRY_EVERY_SECONDS = 0.01
TEXT_BYTES = 1000  # read at most this much of a lock file: other users may have written it
COMMAND_LETTERS = 100
UNKNOWN = "a process that did not write who it is"


class Hold:
    """A lock that this process holds, or, without a FileLock, one that it need not or cannot hold."""

    def __init__(self, lock: FileLock | None = None, made: tuple[Path, ...] = ()):
        self._lock, self._made = lock, made

    def release(self) -> None:
        """Release the lock. Its file goes, and so do the folders that were made for it and stayed empty."""
        if self._lock is None:
            return
        with suppress(OSError):  # somebody has removed it, or its folder
            os.unlink(self._lock.lock_file)  # before the release: FileLock tries again where it locked a removed file
        self._lock.release()
        self._lock = None
        with suppress(OSError):  # not empty
            for folder in self._made:
                folder.rmdir()


def take(path: Path) -> Hold | None:
    """Lock the file `path`, which is made where it is not; None while another process holds it.

    Raises DataError where something else than a file of this user lies there, and OSError where its folder cannot be
    made or the file system has no locks.
    """
    made = tuple(folder for folder in path.parents if not folder.exists())
    path.parent.mkdir(parents=True, exist_ok=True)
    if not _may_be_locked(path):
        raise DataError(f"{path} is a link, a folder or a device, and no lock file; it is left as it is. Remove it.")
    lock = FileLock(path, thread_local=False, fallback_to_soft=False, on_acquired=_sign)
    try:
        lock.acquire(blocking=False)
    except (Timeout, FileNotFoundError):  # a command that removes a run may have removed the folder at this moment
        return None
    except PermissionError as error:
        if not os.path.lexists(path):
            raise
        raise DataError(
            f"{path} cannot be opened: {error.strerror}. It keeps two commands from each other's work: have its owner "
            f"remove it, or get the right to write to it."
        ) from None
    return Hold(lock, made)


def _may_be_locked(path: Path) -> bool:
    """Whether a plain file lies there, or nothing: another user who may write there could plant a link."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return True


# What commands lock ------------------------------------------------------------------------------------------------


@contextmanager
def run_folder(
    folder: Path, otherwise: str, *, alone: bool = False, world: World = World(), note: Note
) -> Iterator[Hold]:
    """Lock the run in `folder` for a command that makes, changes or removes it. With `alone`, others may not read it.

    Yields the lock that keeps readers out, for the caller to release once it has removed what it meant to. Raises
    DataError, at once and in every process of `world`, while another command holds the folder; `otherwise` says what
    the user can do then besides waiting.
    """

    worked_on = (
        f"another command works on {folder}",
        f"Two would overwrite each other's work. Wait until it has ended, or {otherwise}.",
    )
    with _locked(_beside(folder, "run"), world, note, worked_on):
        if not alone:
            yield Hold()
            return
        with _locked(_beside(folder, "alone"), world, note, _cleared(folder)) as hold:
            if used := world.agreed(_readers(folder, note) if world.is_main else []):
                raise DataError(used[0])
            yield hold


@contextmanager
def in_use(folder: Path, *, world: World = World(), note: Note) -> Iterator[None]:
    """Lock the run in `folder` for a command that reads it and adds to it, whether it is being trained or not.

    Raises DataError in every process of `world` while the folder is being cleared.
    """
    # First its own lock, then a look at the lock of whoever clears the folder. That one does it the other way round, so
    # at least one of the two notices the other.
    with _locked(_beside(folder, f"use-{secrets.token_hex(4)}"), world, note, _cleared(folder)):
        if world.is_main:
            _readers(folder, note)  # removes the lock files of killed ones
        if world.agreed(world.is_main and _beside(folder, "alone").exists()):
            with _locked(_beside(folder, "alone"), world, note, _cleared(folder)):
                pass
        yield


@contextmanager
def encoding(folder: Path, *, world: World = World(), note: Note) -> Iterator[None]:
    """Lock `folder` for the one command that encodes into it. DataError in every process while another does."""
    otherwise = "Two would overwrite each other's work. Wait until it has ended, or choose another --out."
    with _locked(folder / ".encode.lock", world, note, (f"another command encodes into {folder}", otherwise)):
        yield


@contextmanager
def turn(path: Path, what: str, *, world: World = World(), note: Note) -> Iterator[None]:
    """Lock `path` for the one command that makes it; `what` it is in words. Another that makes the same waits.

    The folders that `path` lies in are made. Raises DataError in every process of `world` as `take` does.
    """
    made = f"another command makes {what} at this moment", "Waiting for it."
    with _locked(path.with_name(f".{path.name}.lock"), world, note, made, waits=True):
        yield


@contextmanager
def _locked(lock: Path, world: World, note: Note, words: tuple[str, str], *, waits: bool = False) -> Iterator[Hold]:
    """Lock `lock` for the block. While another command holds it, raise DataError in every process of `world`, or wait.

    `words` are what the error says before and after who holds the lock; a command that `waits` notes them.
    """
    ends, noted = time.monotonic() + RETRY_SECONDS, False
    while True:
        hold, refused = _tried(lock, world, note)
        if hold is None and not refused and not waits and time.monotonic() > ends:
            refused = _held(lock, words)
        taken, refused = world.agreed((hold is not None, refused))
        if refused:
            raise DataError(refused)
        if taken:
            break
        if waits and not noted:
            note(_held(lock, words))
            noted = True
        time.sleep(RETRY_SECONDS / 2 if waits else RETRY_EVERY_SECONDS)
    assert hold is not None
    try:
        yield hold
    finally:
        hold.release()


def _tried(lock: Path, world: World, note: Note) -> tuple[Hold | None, str | None]:
    """The main process's lock, or None and why it never gets it. The reason is not raised: all processes must know it.

    The other processes get a Hold of nothing.
    """
    if not world.is_main:
        return Hold(), None
    try:
        return take(lock), None
    except DataError as error:
        return None, str(error)
    except OSError as error:
        note(f"{lock.parent} takes no locks ({error.strerror or error}): a second command there would not be noticed.")
        return Hold(), None


def _beside(folder: Path, kind: str) -> Path:
    folder = folder.resolve()  # one folder, whatever way leads to it
    return folder.with_name(f".{folder.name}.{kind}.lock")


def _readers(folder: Path, note: Note) -> list[str]:
    """Why the run cannot be cleared, for each command that reads it. Files that killed ones left behind are removed."""
    folder, why = folder.resolve(), []
    words = (
        f"images are drawn or measured in {folder}",
        "Nothing of it is removed meanwhile. Wait until they are, or stop it.",
    )
    for lock in sorted(folder.parent.glob(f".{glob.escape(folder.name)}.use-*.lock")):
        hold, refused = _tried(lock, World(), note)
        if hold is None:
            why.append(refused or _held(lock, words))
        else:
            hold.release()
    return why


def _cleared(folder: Path) -> tuple[str, str]:
    return f"{folder} is being removed or started over", "Repeat the command afterwards."


# Who holds a lock --------------------------------------------------------------------------------------------------


def _held(lock: Path, words: tuple[str, str]) -> str:
    before, after = words
    return f"{before}: {_holder(lock)}. {after}"


def _sign(file: int) -> None:
    """Write our process id and start time into the lock file, so that others can see who holds it."""
    if os.fstat(file).st_nlink > 1:
        return  # the file has a second name and may be somebody's work
    since = datetime.now(UTC).isoformat(timespec="seconds")
    with suppress(OSError):  # a full disk: the lock is good without it
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps({"process": os.getpid(), "machine": _machine(), "since": since}).encode(), 0)


def _holder(lock: Path) -> str:
    """ "process 4242, since 2026-01-01T00:00:00+00:00 (python -m harness run dit-s)", or less where less is known."""
    try:
        if lock.is_symlink():
            return UNKNOWN
        words = json.loads(read_limited(lock, TEXT_BYTES))
        process, machine = int(words["process"]), str(words["machine"])
        since = datetime.fromisoformat(words["since"]).isoformat()
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return UNKNOWN
    if not machine:
        return f"a process, since {since}"
    if machine != _machine():
        return f"a process on another machine or in another container, since {since}"
    try:
        command = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
    except OSError:  # the process was killed, so what it wrote does not name the present holder
        return UNKNOWN
    return f"process {process}, since {since} ({one_line(command, COMMAND_LETTERS)})"


def _machine() -> str:
    """Identifies one boot of one machine, and one container of it, in which a process id is unique; "" if unknown.

    It is a hash, since lock files are passed on with the folders that they lie in.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        container = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return ""
    return hashlib.sha256(f"{boot} {container}".encode()).hexdigest()[:16]
