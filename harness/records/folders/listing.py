"""Every run folder below some roots, whatever its state: finished, unfinished, damaged, imported, exported, or no run.

harness.records.store finds the finished runs for figures and tables. This module describes what is on the disk.
"""

import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from harness.records.export_record import RECORD as EXPORT_RECORD
from harness.records.export_record import Export
from harness.records.folders.departures import departures
from harness.records.looks import measured_title
from harness.records.panels import FINAL
from harness.records.schema import Import, Manifest, read_lines, read_record, record_or_none
from harness.records.store import MAKE_ONE, load_run, read_sections, reason_of
from harness.records.trials import distance_metric
from harness.system.errors import DataError, UsageError

State = Literal["finished", "unfinished", "damaged", "imported", "exported", "foreign"]
RECORDS = (
    "config.yaml", "manifest.json", "metrics.jsonl", "events.jsonl", "result.json", "import.json", EXPORT_RECORD,
)  # fmt: skip
FOLDERS = ("checkpoints", "evaluations", "samples", "features")
RUN_ID = re.compile(r"(seed\d+-[0-9a-f]{10}|imported-[0-9a-f]{10}-[0-9a-f]{6})")
NO_RUN, A_BENCH = "holds no run", "a bench, not a run"
DEEPEST = 32  # folders below a root that are searched
SHOWN_NAMES = 12


@dataclass(frozen=True)
class Entry:
    """One folder. What could not be read of it is None."""

    path: Path
    name: str  # below its root: "dit-tiny/seed0-9ac3130fa4"
    state: State
    reason: str = ""  # why it is damaged or foreign
    recipe: str | None = None
    method: str | None = None  # as figures call it: "MDT-lite"
    seed: int | None = None
    steps_done: int | None = None
    steps_asked: int | None = None
    steps_per_sec: float | None = None
    metric: str | None = None  # the distance's own name
    distance: float | None = None  # of the final evaluation
    last_active: datetime | None = None  # its last event; where none is recorded, its newest file
    settings: tuple[str, ...] = ()  # those that differ from its recipe: "mask_ratio 0.5"

    def as_json(self) -> dict[str, Any]:
        document = {"run": self.name, **vars(self), "path": str(self.path), "settings": list(self.settings)}
        del document["name"]
        document["last_active"] = self.last_active and self.last_active.isoformat(timespec="seconds")
        return document


def survey(roots: Iterable[Path]) -> list[Entry]:
    """Every run folder at or below `roots`, each once, and every folder that holds none; ordered by name.

    Raises DataError for a root that does not exist or is a file.
    """
    entries: dict[str, Entry] = {}
    for root in map(Path, roots):
        for folder, reason in found_below(root):
            place = os.path.abspath(folder) if reason else os.path.realpath(folder)  # a link is not its target
            if place not in entries:
                name = name_below(root, folder)
                entries[place] = Entry(folder, name, "foreign", reason) if reason else entry_of(folder, name)
    return sorted(entries.values(), key=lambda entry: (entry.name.rpartition("/")[0], entry.seed or 0, entry.name))


def entry_of(folder: Path, name: str = "") -> Entry:
    """One folder's line in the list. Never raises: what is wrong with the folder is the entry's reason."""
    name = name or "/".join(folder.absolute().parts[-2:])
    try:
        return _entry(folder, name)
    except OSError as error:
        return Entry(folder, name, "damaged", f"cannot be read: {error.strerror or error}")
    except (ValueError, RecursionError, TypeError, AttributeError, KeyError) as error:  # hostile content
        return Entry(folder, name, "damaged", f"cannot be read: {type(error).__name__}: {reason_of(error)}")


def _entry(folder: Path, name: str) -> Entry:
    made_here = RUN_ID.fullmatch(folder.name) and any((folder / file).exists() for file in (*RECORDS, *FOLDERS))
    if irregular := _irregular(folder):
        return Entry(folder, name, "damaged" if RUN_ID.fullmatch(folder.name) else "foreign", irregular)
    try:
        config = read_sections(folder)
    except DataError:
        config = None
    manifest = record_or_none(folder / "manifest.json", Manifest)
    known = _of_the_config(config, manifest.command if manifest else "")
    if (folder / "import.json").exists():
        known |= {"steps_asked": None, "seed": None}  # of a training that was not here
        return _of_a_network(folder, name, "imported", "import.json", Import, known)
    if (folder / EXPORT_RECORD).exists():
        return _of_a_network(folder, name, "exported", EXPORT_RECORD, Export, known)
    try:
        run = load_run(folder)
    except DataError as error:
        reason = reason_of(error).removeprefix("damaged: ").removeprefix("not a run folder: ")
        if config is None and manifest is None and not made_here:
            return Entry(folder, name, "foreign", reason)
        lines = lines_in(folder, "metrics.jsonl")
        known |= {"steps_done": last_step(lines) or 0, "steps_per_sec": mean_speed(lines)}
        known |= {"last_active": _last_active(folder)}
        if reason.startswith("unfinished"):
            return Entry(folder, name, "unfinished", **known)
        return Entry(folder, name, "damaged", reason, **known)
    known |= {"seed": run.result.seed, "steps_asked": run.result.steps, "steps_done": run.result.steps}
    final = run.result.evaluations.get(FINAL)
    metric = distance_metric(final.metrics) if final else None
    return Entry(
        folder,
        name,
        "finished",
        **known,
        steps_per_sec=_finite(run.result.steps_per_sec),
        metric=metric,
        distance=_finite(final.metrics[metric]) if final and metric else None,
        last_active=_last_active(folder),
    )


def _of_a_network(
    folder: Path, name: str, state: State, file: str, kind: type[Import] | type[Export], known: dict[str, Any]
) -> Entry:
    """The entry of weights without a training: an imported checkpoint or an export."""
    if "recipe" not in known:
        return Entry(folder, name, "damaged", "config.yaml is missing or not a run's configuration")
    try:
        record = read_record(folder / file, kind)
    except DataError as error:
        return Entry(folder, name, "damaged", reason_of(error).replace(f"{folder}{os.sep}", ""), **known)
    if isinstance(record, Export):
        return Entry(folder, name, state, **known, steps_done=record.step, last_active=_last_active(folder))
    return Entry(folder, name, state, **known, last_active=as_time(record.imported_at) or _last_active(folder))


def _of_the_config(config: dict[str, Any] | None, command: str) -> dict[str, Any]:
    if config is None:
        return {}
    steps = config["protocol"].get("steps")
    return {
        "recipe": str(config.get("recipe")),
        "method": measured_title(str(config["method"]), config["knobs"]),
        "seed": config["seed"],
        "steps_asked": steps if isinstance(steps, int) else None,
        "settings": tuple(
            departure.short
            for departure in departures(config, command).differing
            if not departure.setting.startswith("execution.")
        ),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


# Reading: each of these gives nothing where a document is missing or damaged ------------------------------------------


def lines_in(folder: Path, name: str) -> list[dict[str, Any]]:
    """The objects of metrics.jsonl or events.jsonl."""
    try:
        return read_lines(folder / name)[0] if (folder / name).is_file() else []
    except (OSError, ValueError, RecursionError):
        return []


def last_step(lines: Iterable[dict[str, Any]]) -> int | None:
    """The last step that was logged."""
    steps = (line.get("step") for line in lines)
    return max((step for step in steps if type(step) is int and step >= 0), default=None)


def mean_speed(lines: Sequence[dict[str, Any]]) -> float | None:
    """Steps per second over the timed steps of a run that has no result yet."""
    logged = [(line.get("timed_steps"), line.get("timed_seconds")) for line in lines]
    timed = [(n, s) for n, s in logged if isinstance(n, int) and isinstance(s, int | float) and n > 0 < s < math.inf]
    return sum(n for n, _ in timed) / sum(s for _, s in timed) if timed else None


def as_time(text: object) -> datetime | None:
    """A recorded time, in UTC; None for anything else."""
    try:
        time = datetime.fromisoformat(str(text))
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _irregular(folder: Path) -> str:
    """Documents that are no plain files: opening a pipe would wait forever."""
    for name in RECORDS:
        try:
            if not stat.S_ISREG((folder / name).stat().st_mode):
                return f"{name} is not a file"
        except FileNotFoundError:
            if (folder / name).is_symlink():
                return f"{name} is a link that leads nowhere"
    return ""


def _last_active(folder: Path) -> datetime | None:
    times = [time for event in lines_in(folder, "events.jsonl") if (time := as_time(event.get("time")))]
    ages = [(folder / name).stat().st_mtime for name in RECORDS if (folder / name).is_file()]
    return max(times) if times else datetime.fromtimestamp(max(ages), UTC) if ages else None


# Finding --------------------------------------------------------------------------------------------------------------


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
    if "bench.json" in names or not deepest:
        yield folder, A_BENCH if deepest else f"lies more than {DEEPEST} folders deep"
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
    yield from [(folder, NO_RUN)] if all(reason == NO_RUN for _, reason in found) else found


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
