"""Remembers files that were hashed and have not changed, so that a run does not read 21 GB again at its start."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from harness.records.schema import read_json, write_atomically
from harness.system import files


def damaged(folder: Path, expected: Mapping[str, str], advance: Callable[[int], None] = lambda done: None) -> list[str]:
    """Those of the files `expected`, name -> sha256, that have another hash. `advance` gets the number of files done.

    A file of the size and times of change it had when it last had that hash is not read again, be it of its content or,
    which nobody can set back, of its entry on the disk. That is remembered in the harness cache; `harness data verify`
    does not rely on it.
    """
    path = _record(folder)
    known, found, wrong = _read(path), {}, []
    for done, (name, sha256) in enumerate(expected.items(), start=1):
        status = (folder / name).stat()
        now = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, sha256]
        if known.get(name) == now or files.sha256_of(folder / name) == sha256:
            found[name] = now
        else:
            wrong.append(name)
        advance(done)
    if found != known:
        _write(path, found)
    return wrong


def _record(folder: Path) -> Path:
    return files.cache_folder() / "verified" / f"{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]}.json"


def _read(path: Path) -> dict[str, list]:
    try:
        document = read_json(path)
    except (OSError, ValueError, RecursionError):
        return {}  # then everything is hashed
    return document if isinstance(document, dict) else {}


def _write(path: Path, found: dict[str, list]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(found))
    except OSError:
        return  # without this cache the next start hashes everything again, which is slower but safe
