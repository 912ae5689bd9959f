"""What everything that keeps files needs: where the cache lies, a file's hash, and certainty that it is on the disk."""

import hashlib
import os
import stat
from pathlib import Path

from platformdirs import user_cache_dir


def cache_folder() -> Path:
    """Of what can be made or fetched again: $HARNESS_CACHE, or the user's cache folder."""
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


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
