"""What everything that keeps files needs: the cache folder, hashes, and files that are whole or not there."""

import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from platformdirs import user_cache_dir

from harness.system.errors import DataError


def cache_folder() -> Path:
    """The folder of what can be made or fetched again: $HARNESS_CACHE, or the user's cache folder."""
    return Path(os.environ.get("HARNESS_CACHE") or user_cache_dir("dit-harness"))


def sha256_of(path: Path) -> str:
    """The file's sha256. OSError when it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_limited(path: Path, most: int) -> bytes:
    """The content of a plain file of up to `most` bytes, judged before it is read.

    ValueError for a larger one and for what is no file: a pipe would be waited for, a device would never end. OSError
    when it cannot be read.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a file")
        if status.st_size > most:
            raise ValueError(f"it has {status.st_size:,} bytes, more than the {most:,} that it may have")
        return file.read(status.st_size)


def in_words(size: int | float) -> str:
    """A number of bytes as a person reads it: "64.0 MB"."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size:.0f} B"


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What a full or failing disk raises inside, as a DataError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or f"the disk took a part of it ({error})"  # numpy's own error has no reason
        raise DataError(f"{path} cannot be written: {reason}. Correct that and repeat the command.") from None


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`. What is written there gets the name `path`, on the disk for certain, or nothing.

    Raises OSError when the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    finally:
        with suppress(OSError):  # half a file would keep the room that is missing
            temporary.unlink(missing_ok=True)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """As whole_file, and makes the folder. Raises DataError when the disk refuses."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            yield temporary
