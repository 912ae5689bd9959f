"""Holds on run folders and on what commands write, so that two commands at once do not spoil each other's work.

A hold is flock(2) on a small file beside what is held: the kernel lets go of it when its process ends, however it ends,
so that no folder stays locked. The files go when nobody holds them; one that a kill left behind holds nothing.

  <recipe>/.<run>.run.lock   of `harness run` alone, from its first look into the folder to its end
  <recipe>/.<run>.use.lock   of everybody who works in the folder, together; of whoever removes it, alone
  .<name>.lock               beside samples/<name> or a set of features: of the one command that makes them

Only the main process of a world holds; the others hear of it. Where a file system has no locks, a note says so.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import DataError
from harness.world import World

Note = Callable[[str], None]

POLL_SECONDS = 0.5  # of a command that waits for its turn
TEXT_BYTES = 1000  # of a lock file that are read: it is not trusted
UNKNOWN = "a process that has left no word of itself"


class Hold:
    """A lock file that this process holds; with no file, nothing at all."""

    def __init__(self, path: Path, file: int | None = None, made: tuple[Path, ...] = ()):
        self._path, self._file, self._made = path, file, made

    def share(self) -> None:
        """Hold it together with others from now on."""
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def release(self) -> None:
        """Let go. The last to do so removes the file, and the folders made for it that nobody used."""
        if self._file is None:
            return
        with suppress(OSError):  # BlockingIOError: others share it
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _lies_at(self._path, self._file):
                os.unlink(self._path)
        os.close(self._file)
        self._file = None
        with suppress(OSError):  # not empty
            for folder in self._made:
                folder.rmdir()


def take(path: Path, *, shared: bool = False) -> Hold | None:
    """The hold on the lock file `path`, made where it is not; None while another excludes it.

    Raises OSError where the file cannot be made or the file system has no locks.
    """
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
    made = tuple(folder for folder in path.parents if not folder.exists())
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            continue  # whoever removed the run took its folder along at this moment
        try:
            fcntl.flock(file, how)
            if _lies_at(path, file):
                _sign(file)
                return Hold(path, file, made)
        except BlockingIOError:
            os.close(file)
            return None
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # the one who held it has removed it: the next try makes another


@contextmanager
def run_folder(
    folder: Path, otherwise: str, *, alone: bool = False, world: World = World(), note: Note
) -> Iterator[Hold]:
    """The hold of a command that makes, changes or removes the run in `folder`; `alone`, nobody may even read there.

    Yields the hold on its use, for the caller of an `alone` to share once it has removed what it meant to. Raises
    DataError, at once and in every process of `world`, while another command holds the folder; `otherwise` says what
    else can be done then but wait.
    """
    with ExitStack() as holds:
        _enter(
            holds, _lock_of(folder, "run"), False, world, note,
            lambda holder: f"another command works on {folder}: {holder}. Two would overwrite each other's work. "
            f"Wait until it has ended, or {otherwise}.",
        )  # fmt: skip
        yield _enter(
            holds, _lock_of(folder, "use"), not alone, world, note,
            lambda holder: f"images are drawn or measured in {folder}: {holder}. Nothing of it is removed meanwhile. "
            "Wait until they are, or stop it.",
        )  # fmt: skip


@contextmanager
def in_use(folder: Path, *, world: World = World(), note: Note) -> Iterator[None]:
    """The hold of a command that reads the run in `folder` and adds to it, whether it is being trained or not.

    Raises DataError in every process of `world` while the folder is being removed.
    """
    with ExitStack() as holds:
        _enter(
            holds, _lock_of(folder, "use"), True, world, note,
            lambda holder: f"{folder} is being removed or started over: {holder}. Repeat the command afterwards.",
        )  # fmt: skip
        yield


@contextmanager
def turn(path: Path, what: str, *, world: World = World(), note: Note) -> Iterator[None]:
    """The hold of the one command that makes `path`, `what` in words. Another that makes the same waits for its turn.

    The folders that `path` lies in are made.
    """
    lock = path.with_name(f".{path.name}.lock")
    told = False
    while True:
        hold = _try(lock, False, world, note)
        if world.agreed(hold is not None):
            break
        if not told:
            note(f"another command makes {what} at this moment: {_holder(lock)}. Waiting for it.")
            told = True
        time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        if hold:
            hold.release()


def _enter(holds: ExitStack, lock: Path, shared: bool, world: World, note: Note, refusal: Callable[[str], str]) -> Hold:
    hold = _try(lock, shared, world, note)
    if hold is not None:
        holds.callback(hold.release)
    refused = world.agreed(refusal(_holder(lock)) if hold is None else None)
    if hold is None or refused:
        raise DataError(refused)
    return hold


def _try(lock: Path, shared: bool, world: World, note: Note) -> Hold | None:
    """The main process's hold, and nothing's in the others; None while another command's excludes it."""
    if not world.is_main:
        return Hold(lock)
    try:
        return take(lock, shared=shared)
    except OSError as error:
        note(f"{lock.parent} takes no locks ({error.strerror or error}): a second command there would not be noticed.")
        return Hold(lock)


def _lock_of(folder: Path, kind: str) -> Path:
    folder = folder.resolve()  # one folder, whatever way leads to it
    return folder.with_name(f".{folder.name}.{kind}.lock")


def _lies_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False


def _sign(file: int) -> None:
    """Say who holds it, for others to read. Of those who share it, the last."""
    words = {"process": os.getpid(), "since": datetime.now(UTC).isoformat(timespec="seconds")}
    with suppress(OSError):  # a full disk: the hold is good without a name
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(words).encode(), 0)


def _holder(lock: Path) -> str:
    """ "process 4242, since 2026-01-01T00:00:00+00:00", or less where less is known."""
    try:
        with open(lock, "rb") as file:
            words = json.loads(file.read(TEXT_BYTES))
        process, since = int(words["process"]), datetime.fromisoformat(words["since"])
    except (OSError, ValueError, KeyError, TypeError):
        return UNKNOWN
    return f"process {process}, since {since.isoformat()}" if _runs(process) else UNKNOWN


def _runs(process: int) -> bool:
    """Whether it is there: the word of one that was killed says nothing of who holds the file now."""
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return process > 0
