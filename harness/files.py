"""What everything that keeps files needs: where the cache lies, a file's hash, and certainty that it is on the disk."""

import hashlib
import os
from pathlib import Path

from platformdirs import user_cache_dir


def cache_folder() -> Path:
    """Of what can be made or fetched again: $HARNESS_CACHE, or the user's cache folder."""
    return Path(os.environ.get("HARNESS_CACHE") or user_cache_dir("dit-harness"))


def sha256_of(path: Path) -> str:
    """The file's sha256. OSError when it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
