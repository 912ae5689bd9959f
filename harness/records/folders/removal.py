"""Removing run folders, or their weights alone, so that nothing half removed looks like a finished run.

A run is finished while its result.json exists, so that goes first and the folder is synced. Its evaluations go before
its checkpoints: a run trained again must not find metrics of other weights. config.yaml goes last: until then the
folder is recognised as an unfinished run, which the same command removes, or the run's own command continues.
"""

import os
import re
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.records.finding import name_below
from harness.records.folders.inspection import files_below, size_of
from harness.records.folders.listing import Entry, entry_of
from harness.records.run_folder import RunFolder
from harness.system import locks
from harness.system.errors import DataError, UsageError
from harness.system.files import sync
from harness.system.progress import PlainProgress

ORDER = (
    "result.json", "import.json", "evaluations", "features", "samples", "checkpoints", "metrics.jsonl", "events.jsonl",
    "manifest.json", "config.yaml",
)  # fmt: skip
LEFTOVERS = re.compile(r"\.(write-probe|.+\.[0-9a-f]+\.tmp)")  # files that a crash cut short
INSTEAD = "stop it"  # what to do other than wait for a command that uses a run
QUIET_SECONDS = 60  # a run whose files are older than this is taken to have stopped
QUIET_INTERVALS = 3  # where its log intervals are long, so many of them count instead


@dataclass(frozen=True)
class Removal:
    """What goes of one run folder, or went."""

    entry: Entry
    paths: tuple[Path, ...]  # in the order in which they go
    bytes: int
    kept: tuple[str, ...]  # what stays in the folder
    keep_records: bool
    force: bool
    error: str | None = None  # why not all of it went

    @property
    def empties(self) -> bool:
        """Whether the folder goes too."""
        return not self.kept

    def as_json(self) -> dict[str, Any]:
        return {
            "run": self.entry.name,
            "path": str(self.entry.path),
            "state": self.entry.state,
            "files": [path.relative_to(self.entry.path).as_posix() for path in self.paths],
            "bytes": self.bytes,
            "kept": list(self.kept),
            "error": self.error,
        }


def plan(folder: Path, root: Path, *, keep_records: bool = False, force: bool = False) -> Removal:
    """What `remove` would take of the run in `folder`. `keep_records`: only checkpoints and samples.npz.

    The folder is locked for a moment, to see whether a command uses it; `remove` looks again. Raises UsageError for a
    link, for a folder outside `root` or that is no run's, for a run that a command uses, and, unless `force`, for one
    that may still be running, since some file systems have no locks.
    """
    if folder.is_symlink():
        raise UsageError(f"{folder} is a link to {os.readlink(folder)}; name the run folder itself.")
    if not folder.resolve().is_relative_to(root.resolve()) or folder.resolve() == root.resolve():
        raise UsageError(f"{folder} does not lie below {root}; say --runs with the folder of runs that holds it.")
    entry = entry_of(folder, name_below(root.resolve(), folder.resolve()))
    if entry.state == "foreign":
        raise UsageError(f"{folder} is not a run folder: {entry.reason}. Nothing of it is removed.")
    if entry.state == "exported":
        raise UsageError(f"{folder} is an exported network and not a run. Remove the folder itself, if you mean to.")
    try:
        with locks.run_folder(folder, INSTEAD, alone=True, note=lambda text: None):  # to see whether anybody uses it
            pass
    except DataError as error:
        raise UsageError(str(error)) from None
    return _planned(folder, entry, keep_records, force)


def remove(removal: Removal, root: Path) -> Removal:
    """Carry it out; the answer has the bytes that were freed. A folder left empty goes too, and so does its recipe's.

    The folder is locked and planned for again. Nothing goes of a run that has changed its state since it was planned.
    """
    folder = removal.entry.path.resolve()
    freed = 0
    try:
        with locks.run_folder(folder, INSTEAD, alone=True, note=PlainProgress("runs rm").note):
            entry, before = entry_of(folder, removal.entry.name), removal.entry.state
            if entry.state != before:
                raise DataError(
                    f"{entry.name} was {before} and is {entry.state} now: nothing of it was removed. Repeat the "
                    "command."
                )
            found = _planned(folder, entry, removal.keep_records, removal.force)
            try:
                _take_away(found, folder)
            finally:
                freed = found.bytes - _bytes(path for path in found.paths if os.path.lexists(path))
        if found.empties and folder.parent != root.resolve() and not any(folder.parent.iterdir()):
            folder.parent.rmdir()
    except (DataError, UsageError) as error:
        return replace(removal, bytes=freed, error=str(error).rstrip("."))
    except OSError as error:
        return replace(removal, bytes=freed, error=f"{error.strerror or error}")
    return replace(removal, bytes=freed)


def _planned(folder: Path, entry: Entry, keep_records: bool, force: bool) -> Removal:
    age, quiet = _seconds_quiet(folder), _quiet_seconds(folder)
    if entry.state in ("unfinished", "damaged") and not force and age < quiet:
        raise UsageError(
            f"{entry.name} is {entry.state} and was written to {age:.0f} s ago: it may be running. Stop it, or wait "
            f"until it has been quiet for {quiet:.0f} s, or say --force."
        )
    present = sorted(os.listdir(folder))
    if keep_records:
        images = sorted(path for path in files_below(folder / "samples") if path.name == "samples.npz")
        paths = [*images, folder / "checkpoints"]
    else:
        leftovers = [name for name in present if LEFTOVERS.fullmatch(name)]
        paths = [folder / name for name in (*ORDER[:-1], *leftovers, ORDER[-1])]
    paths = [path for path in paths if os.path.lexists(path)]
    kept = tuple(name for name in present if folder / name not in paths)
    return Removal(entry, tuple(paths), _bytes(paths), kept, keep_records, force)


def _bytes(paths: Iterable[Path]) -> int:
    return sum(size_of(file) for path in paths for file in files_below(path))


def _take_away(removal: Removal, folder: Path) -> None:
    for path in removal.paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if path.name in ORDER[:2]:
            sync(folder)  # before the rest: after a power cut the file must not be there without the others
    if removal.empties:
        folder.rmdir()


def _seconds_quiet(folder: Path) -> float:
    """Since anything in the folder was written."""
    times = [folder.lstat().st_mtime]
    for path in files_below(folder):
        try:
            times.append(path.lstat().st_mtime)
        except OSError:
            continue  # removed meanwhile: its folder's time shows that
    return max(time.time() - max(times), 0.0)


def _quiet_seconds(folder: Path) -> float:
    intervals = [line.get("timed_seconds") for line in RunFolder(folder).metrics[-1:]]
    longest = max((seconds for seconds in intervals if isinstance(seconds, int | float)), default=0)
    return max(QUIET_SECONDS, QUIET_INTERVALS * longest)
