"""Every run folder below some roots, whatever its state: finished, unfinished, damaged, imported, exported, or no run.

harness.records.store finds the finished runs for figures and tables. This module describes what is on the disk.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from harness.records.finding import RUN_ID, found_in
from harness.records.looks import FINAL, measured_title
from harness.records.run_folder import DANGLING, NO_FILE, RECORDS, RunFolder, as_time, reason_of
from harness.records.schema import EXPORT_RECORD, Export, Import
from harness.records.store import finished
from harness.records.trials import distance_metric
from harness.system.errors import DataError

State = Literal["finished", "unfinished", "damaged", "imported", "exported", "foreign"]
FOLDERS = ("checkpoints", "evaluations", "samples", "features")


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
    distance: float | None = None  # the final evaluation's
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
    entries = [
        Entry(folder, name, "foreign", reason) if reason else entry_of(folder, name)
        for folder, name, reason in found_in(roots)
    ]
    return sorted(entries, key=lambda entry: (entry.name.rpartition("/")[0], entry.seed or 0, entry.name))


def entry_of(folder: Path, name: str = "") -> Entry:
    """The entry of one folder; `name` is what it is called below its root."""
    return entry(RunFolder(folder, name))


def entry(run: RunFolder) -> Entry:
    """One folder's line in the list. Never raises: what is wrong with the folder is the entry's reason."""
    try:
        return _entry(run)
    except OSError as error:
        return Entry(run.folder, run.name, "damaged", f"cannot be read: {error.strerror or error}")
    except (ValueError, RecursionError, TypeError, AttributeError, KeyError) as error:  # hostile content
        return Entry(run.folder, run.name, "damaged", f"cannot be read: {type(error).__name__}: {reason_of(error)}")


def _entry(run: RunFolder) -> Entry:
    folder = run.folder
    made_here = RUN_ID.fullmatch(folder.name) and any((folder / file).exists() for file in (*RECORDS, *FOLDERS))
    no_run: State = "damaged" if made_here or run.config is not None or run.manifest else "foreign"
    for name, why in run.damaged.items():
        if why in (NO_FILE, DANGLING):
            return Entry(folder, run.name, no_run, f"{name} {why}")
    known = _of_the_config(run) | {"last_active": run.last_active}
    networks: tuple[tuple[State, str, Import | Export | None], ...] = (
        ("imported", "import.json", run.imported),
        ("exported", EXPORT_RECORD, run.exported),
    )
    for state, file, record in networks:  # weights without a training
        if not (folder / file).exists():
            continue
        for name, document in (("config.yaml", run.config), (file, record)):
            if document is None:
                reason = f"{name} {run.damaged.get(name, 'is missing')}"
                return Entry(folder, run.name, "damaged", reason, **known)
        if isinstance(record, Import):
            known |= {"seed": None, "steps_asked": None}  # the training was not here
            known["last_active"] = as_time(record.imported_at) or run.last_active
        elif isinstance(record, Export):
            known["steps_done"] = record.step
        return Entry(folder, run.name, state, **known)
    try:
        result = finished(run).result
    except DataError as error:
        reason = reason_of(error).removeprefix("damaged: ").removeprefix("not a run folder: ")
        if no_run == "foreign":
            return Entry(folder, run.name, "foreign", reason)
        known |= {"steps_done": run.last_step or 0, "steps_per_sec": run.logged_speed}
        if reason.startswith("unfinished"):
            return Entry(folder, run.name, "unfinished", **known)
        return Entry(folder, run.name, "damaged", reason, **known)
    final = result.evaluations.get(FINAL)
    metric = distance_metric(final.metrics) if final else None
    return Entry(
        folder,
        run.name,
        "finished",
        **known | {"seed": result.seed, "steps_asked": result.steps, "steps_done": result.steps},
        steps_per_sec=_finite(result.steps_per_sec),
        metric=metric,
        distance=_finite(final.metrics[metric]) if final and metric else None,
    )


def _of_the_config(run: RunFolder) -> dict[str, Any]:
    if run.config is None:
        return {}
    steps = run.setting("protocol.steps")
    return {
        "recipe": str(run.config.get("recipe")),
        "method": measured_title(str(run.config["method"]), run.config["knobs"]),
        "seed": run.config["seed"],
        "steps_asked": steps if isinstance(steps, int) else None,
        "settings": tuple(d.short for d in run.departures.differing if not d.setting.startswith("execution.")),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
