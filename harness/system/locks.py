"""Holds on run folders and on what commands write, so that two commands at once do not spoil each other's work.

A hold is flock(2) on a small file beside what is held: the kernel lets go of it when its process ends, however it ends,
so that no folder stays locked. The files go when nobody holds them; one that a kill left behind holds nothing.

  <recipe>/.<run>.run.lock   of `harness run` alone, from its first look into the folder to its end
  <recipe>/.<run>.use.lock   of everybody who works in the folder, together; of whoever removes it, alone
  .<name>.lock               beside samples/<name> or a set of features: of the one command that makes them
  <latents>/.encode.lock     of the one command that encodes into the folder

Only the main process of a world holds; the others hear of it. Where a file system has no locks, a note says so. A lock
file lies where others may write, so it is opened as no link and written only where it has no second name.
"""

import errno
import fcntl
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from harness.system.errors import DataError
from harness.system.processes.world import World

Note = Callable[[str], None]

POLL_SECONDS = 0.5  # of a command that waits for its turn
LEAVING_SECONDS = 1.0  # that are waited before a refusal: whoever lets go excludes others for an instant
LOOKING_AGAIN_SECONDS = 0.01
TRIES = 1000  # at a lock file that others take away each time
CAREFUL = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # of a link or a pipe that somebody planted
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

    Raises DataError where something else than a file lies there, or one that this user may not open; OSError where its
    folder cannot be made or the file system has no locks.
    """
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
    made = tuple(folder for folder in path.parents if not folder.exists())
    for _ in range(TRIES):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = _opened(path)
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
    raise DataError(f"{path} is taken away again and again by other commands. Repeat the command when they have ended.")


def _opened(path: Path) -> int:
    """The lock file, made where it is not, for reading alone where it is another user's: it can be held all the same.

    Raises FileNotFoundError where its folder has gone, and DataError and OSError as `take` does.
    """
    try:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | CAREFUL, 0o666)
        except PermissionError as refused:
            try:
                file = os.open(path, os.O_RDONLY | CAREFUL)
            except FileNotFoundError:  # nobody holds it, and in that folder this user makes nothing
                raise refused from None
            except PermissionError:
                raise DataError(
                    f"{path} cannot be opened: {refused.strerror}. It keeps two commands from each other's work: have "
                    f"its owner remove it, or get the right to write to {path.parent}."
                ) from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise _no_file(path) from None
        raise
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise _no_file(path)
    return file


def _no_file(path: Path) -> DataError:
    return DataError(f"{path} is a link, a folder or a device, and no lock file; it is left as it is. Remove it.")


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
            lambda holder: _works_on(folder, holder, otherwise),
        )  # fmt: skip
        yield _enter(
            holds, _lock_of(folder, "use"), not alone, world, note, lambda holder: _draws_in(folder, holder),
        )  # fmt: skip


def why_not_alone(folder: Path, otherwise: str) -> str | None:
    """Why `run_folder(folder, otherwise, alone=True)` would be refused at this moment; None where it would not.

    Nothing is made, kept or changed.
    """
    words = (("run", lambda holder: _works_on(folder, holder, otherwise)), ("use", lambda h: _draws_in(folder, h)))
    return next((say(_holder(lock)) for kind, say in words if _is_held(lock := _lock_of(folder, kind))), None)


def _is_held(lock: Path) -> bool:
    """Whether anybody holds it. A file without a holder is tried for an instant, which others wait out."""
    try:
        file = os.open(lock, os.O_RDONLY | CAREFUL)
    except OSError:
        return False  # it is not there, or whoever goes on to take it is told what is wrong
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return False


def _works_on(folder: Path, holder: str, otherwise: str) -> str:
    return (
        f"another command works on {folder}: {holder}. Two would overwrite each other's work. Wait until it has ended, "
        f"or {otherwise}."
    )


def _draws_in(folder: Path, holder: str) -> str:
    return (
        f"images are drawn or measured in {folder}: {holder}. Nothing of it is removed meanwhile. Wait until they are, "
        "or stop it."
    )


@contextmanager
def encoding(folder: Path, *, note: Note) -> Iterator[None]:
    """The hold of the one command that encodes into `folder`. Raises DataError while another does."""
    with ExitStack() as holds:
        _enter(
            holds, folder / ".encode.lock", False, World(), note,
            lambda holder: f"another command encodes into {folder}: {holder}. Two would overwrite each other's work. "
            "Wait until it has ended, or choose another --out.",
        )  # fmt: skip
        yield


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

    The folders that `path` lies in are made. Raises DataError in every process of `world` as `take` does.
    """
    lock = path.with_name(f".{path.name}.lock")
    told = False
    while True:
        hold, refused = _tried(lock, False, world, note)
        held, refused = world.agreed((hold is not None, refused))
        if refused:
            raise DataError(refused)
        if held:
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
    ends = time.monotonic() + LEAVING_SECONDS
    while True:
        hold, refused = _tried(lock, shared, world, note)
        if hold is not None or refused or time.monotonic() > ends:
            break
        time.sleep(LOOKING_AGAIN_SECONDS)
    if hold is not None:
        holds.callback(hold.release)
    refused = world.agreed(refused or (refusal(_holder(lock)) if hold is None else None))
    if hold is None or refused:
        raise DataError(refused)
    return hold


def _tried(lock: Path, shared: bool, world: World, note: Note) -> tuple[Hold | None, str | None]:
    """The main process's hold, and nothing's in the others; None while another command's excludes it, or for good.

    Then with the reason, which is not raised here: the other processes must hear it.
    """
    if not world.is_main:
        return Hold(lock), None
    try:
        return take(lock, shared=shared), None
    except DataError as error:
        return None, str(error)
    except OSError as error:
        note(f"{lock.parent} takes no locks ({error.strerror or error}): a second command there would not be noticed.")
        return Hold(lock), None


def _lock_of(folder: Path, kind: str) -> Path:
    folder = folder.resolve()  # one folder, whatever way leads to it
    return folder.with_name(f".{folder.name}.{kind}.lock")


def _lies_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(file))
    except FileNotFoundError:
        return False


def _sign(file: int) -> None:
    """Say who holds it, for others to read. Of those who share it, the last."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    words = {"process": os.getpid(), "machine": _machine(), "since": since}
    if os.fstat(file).st_nlink > 1:
        return  # it is another file too, which is not written to
    with suppress(OSError):  # a full disk, another user's file: the hold is good without a name
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(words).encode(), 0)


def _holder(lock: Path) -> str:
    """ "process 4242, since 2026-01-01T00:00:00+00:00", or less where less is known."""
    try:
        with open(os.open(lock, os.O_RDONLY | CAREFUL), "rb") as file:
            words = json.loads(file.read(TEXT_BYTES))
        process, machine = int(words["process"]), str(words["machine"])
        since = datetime.fromisoformat(words["since"]).isoformat()
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return UNKNOWN
    if not machine:
        return f"a process, since {since}"
    if machine != _machine():
        return f"a process on another machine or in another container, since {since}"
    return f"process {process}, since {since}" if _runs(process) else UNKNOWN


def _machine() -> str:
    """Where this process's number means it: one boot of one machine, and one container of it. "" where none can tell.

    As a hash, for lock files are passed on with the folders they lie in.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        container = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return ""
    return hashlib.sha256(f"{boot} {container}".encode()).hexdigest()[:16]


def _runs(process: int) -> bool:
    """Whether it is there: the word of one that was killed says nothing of who holds the file now."""
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return process > 0
