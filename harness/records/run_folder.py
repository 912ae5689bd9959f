"""One run folder and its documents. Everything that lists, shows, checks, compares or removes runs reads them here."""

import math
import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from harness.recipes.config import read_config
from harness.recipes.naming import SECTIONS_ADDED_LATER
from harness.records.folders.departures import Departures, departures
from harness.records.schema import (
    EXPORT_RECORD,
    SELF,
    Evaluation,
    Export,
    Import,
    Manifest,
    Record,
    Result,
    read_json,
    read_lines,
    read_record,
)
from harness.system.errors import DataError, one_line

RECORDS = (
    "config.yaml", "manifest.json", "metrics.jsonl", "events.jsonl", "result.json", "import.json", EXPORT_RECORD,
)  # fmt: skip
SECTIONS = {"network": dict, "knobs": dict, "protocol": dict, "sampling": dict, "formulation": str, "seed": int}
NO_FILE, DANGLING = "is not a file", "is a link that leads nowhere"
R = TypeVar("R", bound=Record)
T = TypeVar("T")


class RunFolder:
    """A run folder, finished or not. Each document is read once, when it is first asked for, and reading never raises.

    A document that is absent is None or empty. One that cannot be read is so too, and `damaged` says why.
    """

    def __init__(self, folder: Path, name: str = ""):
        self.folder = folder
        self.name = name or "/".join(folder.absolute().parts[-2:])  # "dit-tiny/seed0-9ac3130fa4"
        self.damaged_lines = 0  # how many of metrics.jsonl are left out of `metrics`
        self._damaged: dict[str, str] = {}
        self._records: list[str] = []  # names of the records that were read

    @cached_property
    def config(self) -> dict[str, Any] | None:
        return self._read("config.yaml", lambda path: read_sections(path.parent))

    @cached_property
    def manifest(self) -> Manifest | None:
        return self._record("manifest.json", Manifest)

    @cached_property
    def result(self) -> Result | None:
        return self._record("result.json", Result)

    @cached_property
    def imported(self) -> Import | None:
        """Where a published checkpoint comes from; it was trained elsewhere."""
        return self._record("import.json", Import)

    @cached_property
    def exported(self) -> Export | None:
        return self._record(EXPORT_RECORD, Export)

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        lines, self.damaged_lines = self._lines("metrics.jsonl")
        return lines

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        return self._lines("events.jsonl")[0]

    @cached_property
    def evaluations(self) -> dict[str, Evaluation]:
        """Those of evaluations/*.json, by file name."""
        paths = sorted((self.folder / "evaluations").glob("*.json"))
        found = {path.stem: self._record(f"evaluations/{path.name}", Evaluation) for path in paths}
        return {name: evaluation for name, evaluation in found.items() if evaluation}

    @property
    def all_evaluations(self) -> dict[str, Evaluation]:
        """Those of result.json and of evaluations/, by name."""
        return {**(self.result.evaluations if self.result else {}), **self.evaluations}

    @property
    def damaged(self) -> dict[str, str]:
        """Why each document that cannot be read cannot: {"result.json": "was changed or damaged: ..."}."""
        self._read_all()
        return self._damaged

    @property
    def unsealed(self) -> tuple[str, ...]:
        """Records without a hash of themselves: written by older versions, or edited."""
        self._read_all()
        return tuple(name for name in self._records if SELF not in read_json(self.folder / name))

    @property
    def sections(self) -> dict[str, Any]:
        return self.config or {}

    def setting(self, path: str) -> Any:
        """A setting of the configuration by its path, like "protocol.steps"; None where it has none."""
        node: Any = self.config
        for part in path.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return node

    @cached_property
    def departures(self) -> Departures:
        """Where the configuration differs from today's recipe."""
        return departures(self.sections, self.manifest.command if self.manifest else "")

    @property
    def last_step(self) -> int | None:
        """The last step that was logged."""
        steps = (line.get("step") for line in self.metrics)
        return max((step for step in steps if type(step) is int and step >= 0), default=None)

    @property
    def logged_speed(self) -> float | None:
        """Steps per second over the timed steps of metrics.jsonl."""
        logged = [(line.get("timed_steps"), line.get("timed_seconds")) for line in self.metrics]
        timed = [
            (n, s) for n, s in logged if isinstance(n, int) and isinstance(s, int | float) and n > 0 < s < math.inf
        ]
        return sum(n for n, _ in timed) / sum(s for _, s in timed) if timed else None

    @property
    def last_active(self) -> datetime | None:
        """The time of the last event; where none is recorded, of the newest document."""
        times = [time for event in self.events if (time := as_time(event.get("time")))]
        ages = [(self.folder / name).stat().st_mtime for name in RECORDS if (self.folder / name).is_file()]
        return max(times) if times else datetime.fromtimestamp(max(ages), UTC) if ages else None

    def _read_all(self) -> None:
        for document in ("config", "manifest", "result", "imported", "exported", "metrics", "events", "evaluations"):
            getattr(self, document)

    def _read(self, name: str, read: Callable[[Path], T]) -> T | None:
        """What `read` makes of a document; None where it is absent or, which is noted in `damaged`, cannot be read."""
        path = self.folder / name
        if not os.path.lexists(path):
            return None
        try:
            if os.path.isfile(path):
                return read(path)
            self._damaged[name] = NO_FILE if os.path.exists(path) else DANGLING
        except DataError as error:
            self._damaged[name] = self._reason(error).removeprefix(f"{name} ")
        except (OSError, ValueError) as error:
            self._damaged[name] = f"cannot be read: {self._reason(error)}"
        return None

    def _reason(self, error: Exception) -> str:
        """What the error says, without the folders above this one: they would name a person."""
        return one_line(str(error).replace(f"{self.folder}{os.sep}", "")).rstrip(".")

    def _record(self, name: str, kind: type[R]) -> R | None:
        record = self._read(name, lambda path: read_record(path, kind))
        if record is not None:
            self._records.append(name)
        return record

    def _lines(self, name: str) -> tuple[list[dict[str, Any]], int]:
        lines, damaged = self._read(name, read_lines) or ([], 0)
        if damaged:
            self._damaged[name] = f"has {damaged} damaged line(s)"
        return lines, damaged


def read_sections(folder: Path) -> dict[str, Any]:
    """config.yaml, where it is a run's. Raises DataError otherwise."""
    path = folder / "config.yaml"
    try:
        config = read_config(path)
    except DataError:
        raise DataError(f"{path} is missing or not a run's configuration") from None
    wrong = [name for name, kind in SECTIONS.items() if not isinstance(config.get(name), kind)]
    wrong += sorted(name for name in SECTIONS_ADDED_LATER if not isinstance(config.get(name, {}), dict))
    if wrong:
        raise DataError(f"{path} has no valid {', '.join(wrong)}")
    return config


def as_time(text: object) -> datetime | None:
    """A recorded time, in UTC; None for anything else."""
    try:
        time = datetime.fromisoformat(str(text))
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def reason_of(error: Exception) -> str:
    """What an error says, on one line and without its full stop."""
    return one_line(error).rstrip(".")
