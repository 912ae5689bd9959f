"""Finding run folders: all below a root, or those that a part of a name means."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from harness.records.run_folder import RECORDS
from harness.system.errors import DataError, UsageError

RUN_ID = re.compile(r"(seed\d+-[0-9a-f]{10}|imported-[0-9a-f]{10}-[0-9a-f]{6})")
MAKE_ONE = "`harness demo` or `harness run dit-tiny` makes one."
NO_RUN, A_BENCH = "holds no run", "a bench, not a run"
DEEPEST = 32  # folders below a root that are searched
SHOWN_NAMES = 12


def found_below(root: Path) -> list[tuple[Path, str]]:
    """Folders at or below `root`: those that may be runs, with "", and the others that hold none, each with why.

    Raises DataError for a root that does not exist or is a file.
    """
    try:
        if not root.is_dir():
            what = f"{root} is a file" if root.exists() else f"{root} does not exist"
            raise DataError(f"{what}. Give a run folder or a folder of runs; {MAKE_ONE}")
    except OSError as error:
        raise DataError(f"{root} cannot be read: {error.strerror or error}. Give a folder of runs.") from None
    found = list(_search(root, DEEPEST))
    return [] if found == [(root, NO_RUN)] else found


def found_in(roots: Iterable[Path]) -> list[tuple[Path, str, str]]:
    """What found_below finds in each of `roots`, each folder once: the folder, its name below its root, and why not."""
    found: dict[str, tuple[Path, str, str]] = {}
    for root in map(Path, roots):
        for folder, reason in found_below(root):
            place = os.path.abspath(folder) if reason else os.path.realpath(folder)  # a link is not its target
            found.setdefault(place, (folder, name_below(root, folder), reason))
    return list(found.values())


def _search(folder: Path, deepest: int) -> Iterator[tuple[Path, str]]:
    try:
        inside = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield folder, f"cannot be read: {error.strerror or error}"
        return
    names = {entry.name for entry in inside}
    if names & {*RECORDS, "checkpoints"} or RUN_ID.fullmatch(folder.name):
        yield folder, ""
        return
    if names and all(name.startswith(".") for name in names):
        return  # only the lock of a command that is about to make a run here
    if not deepest:
        yield folder, f"lies more than {DEEPEST} folders deep"
        return
    found: list[tuple[Path, str]] = []
    for entry in inside:
        path = Path(entry.path)
        if entry.name.startswith("."):
            continue
        if entry.is_symlink() and not os.path.isfile(path):
            found.append(
                (path, "a link" + (", which is not followed" if os.path.exists(path) else " that leads nowhere"))
            )
        elif entry.is_dir(follow_symlinks=False):
            found += _search(path, deepest - 1)
    empty = all(reason == NO_RUN for _, reason in found)
    yield from [(folder, A_BENCH if "bench.json" in names else NO_RUN)] if empty else found


def name_below(root: Path, folder: Path) -> str:
    """What a folder found below `root` is called: its path from there, or its last two parts where it is the root."""
    name = folder.relative_to(root).as_posix() if folder.is_relative_to(root) else "."
    return "/".join(folder.absolute().parts[-2:]) if name == "." else name


def find_run(text: str, root: Path, *, exactly: bool = False) -> Path:
    """The run folder that `text` means: its path, or a part of the name of just one run below `root`.

    `exactly`: a whole id, or a whole name, and not a part of one. Raises UsageError when no run is meant, with the
    nearest names, or when several are; DataError when `text` is a folder but no run's.
    """
    path = Path(text)
    if text and path.is_dir() and (path, "") in found_below(path):
        return path
    runs = _runs_below(root)
    matches = _matches(text, list(runs), exactly)
    if len(matches) == 1:
        return runs[matches[0]]
    if matches:
        raise UsageError(f"{text!r} may be {_one_of(matches)}. Write more of the name, or the path.")
    if text and os.path.lexists(path):
        inside = sum(not reason for _, reason in found_below(path))
        raise DataError(f"{text} is not a run folder" + (f"; {inside} lie below it: name one." if inside else "."))
    raise UsageError(f"no run below {root} is called {text!r}. {_nearest(text, list(runs))}")


def find_runs(text: str, root: Path) -> list[Path]:
    """Every run that `text` means: its path, those below that folder, or all below `root` whose names it fits best.

    Raises as find_run where it means none.
    """
    inside = list(_runs_below(Path(text)).values()) if text and Path(text).is_dir() else []
    runs = _runs_below(root)
    return inside or [runs[name] for name in _matches(text, list(runs), False)] or [find_run(text, root)]


def _runs_below(root: Path) -> dict[str, Path]:
    return {name_below(root, folder): folder for folder, reason in found_below(root) if not reason}


def _matches(text: str, names: Sequence[str], exactly: bool) -> list[str]:
    """The names that `text` fits best: whole, else whole folders of it, else the beginning of a folder, else any part.

    "dit-tiny" is a folder of "dit-tiny/seed0-9ac3130fa4" and only a part of "maskdit-tiny/seed0-9ac3130fa4".
    """
    part = re.escape(text.strip("/"))
    exact = [part, f"(.*/)?{part}"]
    patterns = exact if exactly else [*exact, f"(.*/)?{part}/.*", f"(.*/)?{part}.*", f".*{part}.*"]
    ways = ([name for name in names if re.fullmatch(pattern, name, re.DOTALL)] for pattern in patterns if part)
    return next(filter(None, ways), [])


def _nearest(text: str, names: Sequence[str]) -> str:
    if not names:
        return f"There is no run; {MAKE_ONE}"
    by_part = {part: name for name in names for part in (name, *name.split("/"))}
    near = list(dict.fromkeys(by_part[part] for part in get_close_matches(text, by_part, n=3, cutoff=0.5)))
    return (f"Did you mean {_one_of(near)}? " if near else "") + "`harness runs list` names all of them."


def _one_of(names: Sequence[str]) -> str:
    if len(names) > SHOWN_NAMES:
        return f"{', '.join(names[:SHOWN_NAMES])} or one of {len(names) - SHOWN_NAMES} more"
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
