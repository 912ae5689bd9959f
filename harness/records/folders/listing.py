"""Every run folder below some roots, in whatever state it is: finished, unfinished, damaged, imported, or not a run.
An exported network is one that can be sampled and is no run.

harness.records.store finds the finished ones for figures and tables; this is what a person sees of the disk.
"""

import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar

from harness.records.export_record import RECORD as EXPORT_RECORD
from harness.records.export_record import Export
from harness.records.folders.departures import departures
from harness.records.looks import measured_title
from harness.records.panels import FINAL
from harness.records.schema import Import, Manifest, Record, Result, read_lines, read_record
from harness.records.store import MAKE_ONE, Run, load_run, read_sections, reason_of
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
R = TypeVar("R", bound=Record)


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
    settings: tuple[str, ...] = field(default=())  # those that differ from its recipe: "mask_ratio 0.5"

    def as_json(self) -> dict[str, Any]:
        document = {**vars(self), "run": self.name, "path": str(self.path), "settings": list(self.settings)}
        del document["name"]
        document["last_active"] = self.last_active and self.last_active.isoformat(timespec="seconds")
        return {"run": document.pop("run"), **document}


def survey(roots: Iterable[Path]) -> list[Entry]:
    """Every run folder at or below `roots`, each once, and every folder that holds none; ordered by name.

    Raises DataError for a root that does not exist or is a file.
    """
    entries, seen = [], set()
    for root in map(Path, roots):
        for folder, reason in found_below(root):
            place = os.path.abspath(folder) if reason else os.path.realpath(folder)  # a link is not what it leads to
            if place not in seen:
                seen.add(place)
                name = name_below(root, folder)
                entries.append(Entry(folder, name, "foreign", reason) if reason else entry_of(folder, name))
    return sorted(entries, key=lambda entry: (entry.name.rpartition("/")[0], entry.seed or 0, entry.name))


def entry_of(folder: Path, name: str = "") -> Entry:
    """What there is to say of one folder in a line. Never raises: what is wrong with it is its reason."""
    name = name or "/".join(folder.absolute().parts[-2:])
    try:
        return _entry(folder, name)
    except OSError as error:
        return Entry(folder, name, "damaged", f"cannot be read: {error.strerror or error}")
    except (ValueError, RecursionError, TypeError, AttributeError, KeyError) as error:  # a document nobody foresaw
        return Entry(folder, name, "damaged", f"cannot be read: {type(error).__name__}: {reason_of(error)}")


def _entry(folder: Path, name: str) -> Entry:
    irregular = _irregular(folder)
    if irregular:
        return Entry(folder, name, "damaged" if RUN_ID.fullmatch(folder.name) else "foreign", irregular)
    config = config_in(folder)
    if (folder / "import.json").exists():
        return _imported(folder, name, config)
    if (folder / EXPORT_RECORD).exists():
        return _exported(folder, name, config)
    try:
        return _finished(load_run(folder), name)
    except DataError as error:
        reason = reason_of(error)
    manifest = manifest_in(folder)
    if config is None and manifest is None and not is_of_a_run(folder):
        return Entry(folder, name, "foreign", reason.removeprefix("damaged: ").removeprefix("not a run folder: "))
    state: State = "unfinished" if reason.startswith("unfinished") else "damaged"
    lines = lines_in(folder, "metrics.jsonl")
    return Entry(
        folder,
        name,
        state,
        "" if state == "unfinished" else reason.removeprefix("damaged: ").removeprefix("not a run folder: "),
        steps_done=last_step(lines) or 0,
        steps_per_sec=mean_speed(lines),
        last_active=_last_active(folder),
        **_of_the_config(config, manifest.command if manifest else ""),
    )


def _finished(run: Run, name: str) -> Entry:
    final = run.result.evaluations.get(FINAL)
    metric = distance_metric(final.metrics) if final else None
    known = _of_the_config(run.config, run.manifest.command)
    speed = run.result.steps_per_sec
    return Entry(
        run.path,
        name,
        "finished",
        **{**known, "seed": run.result.seed, "steps_asked": run.result.steps},
        steps_done=run.result.steps,
        steps_per_sec=speed if speed is not None and math.isfinite(speed) else None,
        metric=metric,
        distance=final.metrics[metric] if final and metric and math.isfinite(final.metrics[metric]) else None,
        last_active=_last_active(run.path),
    )


def _imported(folder: Path, name: str, config: dict[str, Any] | None) -> Entry:
    known = _of_the_config(config, "")
    try:
        record = read_record(folder / "import.json", Import)
    except DataError as error:
        return Entry(folder, name, "damaged", reason_of(error).replace(f"{folder}{os.sep}", ""), **known)
    if config is None:
        return Entry(folder, name, "damaged", "config.yaml is missing or not a run's configuration")
    known |= {"steps_asked": None, "seed": None}  # of a training that was not here
    return Entry(folder, name, "imported", **known, last_active=as_time(record.imported_at) or _last_active(folder))


def _exported(folder: Path, name: str, config: dict[str, Any] | None) -> Entry:
    """What `harness export` wrote: a network that was trained for `steps_done`, and none that goes on."""
    known = _of_the_config(config, "")
    try:
        record = read_record(folder / EXPORT_RECORD, Export)
    except DataError as error:
        return Entry(folder, name, "damaged", reason_of(error).replace(f"{folder}{os.sep}", ""), **known)
    if config is None:
        return Entry(folder, name, "damaged", "config.yaml is missing or not a run's configuration")
    return Entry(folder, name, "exported", **known, steps_done=record.step, last_active=_last_active(folder))


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


# What a folder holds: each of these gives nothing where the document is missing or damaged ----------------------------


def config_in(folder: Path) -> dict[str, Any] | None:
    """config.yaml, where it is a run's."""
    if not (folder / "config.yaml").is_file():
        return None
    try:
        return read_sections(folder)
    except DataError:
        return None


def manifest_in(folder: Path) -> Manifest | None:
    return _record_in(folder, "manifest.json", Manifest)


def _record_in(folder: Path, name: str, kind: type[R]) -> R | None:
    try:
        return read_record(folder / name, kind) if (folder / name).is_file() else None
    except (DataError, ValueError, RecursionError):
        return None


def lines_in(folder: Path, name: str) -> list[dict[str, Any]]:
    """The objects of metrics.jsonl or events.jsonl."""
    try:
        return read_lines(folder / name)[0] if (folder / name).is_file() else []
    except (OSError, ValueError, RecursionError):
        return []


def last_step(lines: Iterable[dict[str, Any]]) -> int | None:
    steps = (line.get("step") for line in lines)
    return max((step for step in steps if type(step) is int and step >= 0), default=None)


def mean_speed(lines: Sequence[dict[str, Any]]) -> float | None:
    """Steps per second over the timed steps of a run that has no result yet."""
    logged = [(line.get("timed_steps"), line.get("timed_seconds")) for line in lines]
    timed = [(n, s) for n, s in logged if isinstance(n, int) and isinstance(s, int | float) and n > 0 < s < math.inf]
    return sum(n for n, _ in timed) / sum(s for _, s in timed) if timed else None


def is_of_a_run(folder: Path) -> bool:
    """Whether the harness made this folder, whatever is damaged in it: by its name, or by a document of its own."""
    if RUN_ID.fullmatch(folder.name) and any((folder / name).exists() for name in (*RECORDS, *FOLDERS)):
        return True
    kinds: dict[str, type[Record]] = {"manifest.json": Manifest, "result.json": Result, "import.json": Import}
    return bool(config_in(folder)) or any(_record_in(folder, name, kind) for name, kind in kinds.items())


def _irregular(folder: Path) -> str:
    """Documents that are no plain files: opening a pipe would wait for ever."""
    for name in RECORDS:
        try:
            mode = (folder / name).lstat().st_mode
            if stat.S_ISLNK(mode):
                mode = (folder / name).stat().st_mode
        except FileNotFoundError:
            if (folder / name).is_symlink():
                return f"{name} is a link that leads nowhere"
            continue
        if not stat.S_ISREG(mode):
            return f"{name} is not a file"
    return ""


def _last_active(folder: Path) -> datetime | None:
    times = [as_time(event.get("time")) for event in lines_in(folder, "events.jsonl")]
    known = [time for time in times if time]
    if known:
        return max(known)
    ages = [(folder / name).stat().st_mtime for name in RECORDS if (folder / name).is_file()]
    return datetime.fromtimestamp(max(ages), UTC) if ages else None


def as_time(text: object) -> datetime | None:
    """A recorded time, in UTC; None for anything else."""
    try:
        time = datetime.fromisoformat(str(text))
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


# Finding ---------------------------------------------------------------------------------------------------------


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
        is_run = any(entry.name in (*RECORDS, "checkpoints") for entry in inside) or RUN_ID.fullmatch(folder.name)
        if is_run:
            yield folder, ""
            return
        if any(entry.name == "bench.json" for entry in inside):
            yield folder, A_BENCH
            return
        if not deepest:
            yield folder, f"lies more than {DEEPEST} folders deep"
            return
        found = []
        for entry in inside:
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                if not os.path.exists(entry.path):
                    found.append((Path(entry.path), "a link that leads nowhere"))
                elif entry.is_dir():
                    found.append((Path(entry.path), "a link, which is not followed"))
            elif entry.is_dir():
                found += _search(Path(entry.path), deepest - 1)
    except OSError as error:
        yield folder, f"cannot be read: {error.strerror or error}"
        return
    yield from [(folder, NO_RUN)] if all(reason == NO_RUN for _, reason in found) else found


def name_below(root: Path, folder: Path) -> str:
    """How a folder found below `root` is called: its path from there, or its last two parts where it is the root."""
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
    runs = {name_below(root, folder): folder for folder, reason in found_below(root) if not reason}
    matches = _matches(text.strip("/"), list(runs), exactly)
    if len(matches) == 1:
        return runs[matches[0]]
    if matches:
        raise UsageError(f"{text!r} may be {_named(matches, 'or')}. Write more of the name, or the path.")
    if text and os.path.lexists(path):
        inside = sum(not reason for _, reason in found_below(path))
        raise DataError(f"{text} is not a run folder" + (f"; {inside} lie below it: name one." if inside else "."))
    raise UsageError(f"no run below {root} is called {text!r}. {_nearest(text, list(runs))}")


def find_runs(text: str, root: Path) -> list[Path]:
    """Every run that `text` means: its path, those below that folder, or all below `root` whose names it fits best.

    Raises as find_run where it means none.
    """
    path = Path(text)
    inside = [folder for folder, reason in found_below(path) if not reason] if text and path.is_dir() else []
    runs = {name_below(root, folder): folder for folder, reason in found_below(root) if not reason}
    return inside or [runs[name] for name in _matches(text.strip("/"), list(runs), False)] or [find_run(text, root)]


def _matches(text: str, names: Sequence[str], exactly: bool) -> list[str]:
    """The names that `text` fits best: whole, else whole folders of it, else the beginnings of them, else any part."""
    wanted = text.split("/")

    def fits(name: str, fit) -> bool:
        parts = name.split("/")
        starts = [parts[-len(wanted) :]] if exactly else [parts[i:] for i in range(len(parts) - len(wanted) + 1)]
        return any(len(s) >= len(wanted) and all(map(fit, s, wanted)) for s in starts)

    ways = [
        lambda name: name == text,
        lambda name: fits(name, str.__eq__),
        *([] if exactly else [lambda name: fits(name, str.startswith), lambda name: text in name]),
    ]
    return next((found for way in ways if text and (found := [name for name in names if way(name)])), [])


def _nearest(text: str, names: Sequence[str]) -> str:
    if not names:
        return f"There is no run; {MAKE_ONE}"
    by_part = {part: name for name in names for part in (name, *name.split("/"))}
    near = list(dict.fromkeys(by_part[part] for part in get_close_matches(text, by_part, n=3, cutoff=0.5)))
    return (f"Did you mean {_named(near, 'or')}? " if near else "") + "`harness runs list` names all of them."


def _named(names: Sequence[str], word: str) -> str:
    if len(names) > SHOWN_NAMES:
        return f"{', '.join(names[:SHOWN_NAMES])} or one of {len(names) - SHOWN_NAMES} more"
    return f" {word} ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
