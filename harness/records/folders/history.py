"""What a run logged and measured, by training step: its history, for programs that draw such things."""

import bisect
import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.recipes.config import leaves
from harness.records.folders.inspection import in_order
from harness.records.folders.listing import entry as entry_in_list
from harness.records.looks import FINAL
from harness.records.run_folder import RunFolder, as_time
from harness.records.schema import Evaluation, Manifest, write_atomically
from harness.records.store import LeftOut
from harness.system.errors import DataError, UsageError

BEFORE_TRAINING = "untrained"
EVALUATION = "evaluation"  # how the series of metrics begin
SHORT = 12  # characters of a hash in a name
Scalar = bool | int | float | str


@dataclass(frozen=True)
class Point:
    """Values after one training step, by name."""

    step: int
    time: float | None  # seconds since 1970 at which the step was done
    known: bool  # whether an event recorded that time; otherwise it is interpolated
    values: dict[str, float]


@dataclass(frozen=True)
class History:
    """One run's. Finished or not: what there is so far."""

    name: str  # "dit-tiny/seed0-9ac3130fa4"
    folder: Path
    state: str  # as `harness runs list` says it: "finished"
    config: dict[str, Any]
    manifest: Manifest | None
    lines: tuple[dict[str, Any], ...]  # what metrics.jsonl holds, by step
    evaluations: tuple[tuple[str, Evaluation], ...]  # each with the name of its series, by step
    times: tuple[tuple[int, float], ...]  # steps with the seconds since 1970 that events recorded, by step
    seconds_per_step: float  # after the last of them

    @property
    def recipe(self) -> str:
        return self.name.partition("/")[0]

    @property
    def finished(self) -> bool:
        return self.state == "finished"

    @property
    def step(self) -> int:
        """The last step at which something was logged or measured; 0 before there is one."""
        return self.points[-1].step if self.points else 0

    def time_of(self, step: int) -> tuple[float | None, bool]:
        """When a step was done, in seconds since 1970, and whether an event recorded it; else it is interpolated.

        (None, False) where no event has a time.
        """
        if not self.times:
            return None, False
        i = bisect.bisect_left(self.times, (step, -math.inf))
        if i < len(self.times) and self.times[i][0] == step:
            return self.times[i][1], True
        if i == 0:
            return self.times[0][1], False
        before, time = self.times[i - 1]
        if i == len(self.times):
            return time + (step - before) * self.seconds_per_step, False
        after, end = self.times[i]
        return time + (end - time) * (step - before) / (after - before), False

    @cached_property
    def settings(self) -> dict[str, Scalar]:
        """config.yaml, flat: "protocol.steps" -> 600. Lists and null as JSON texts."""
        found = leaves(self.config)
        return {path: value if isinstance(value, Scalar) else json.dumps(value, default=str) for path, value in found}

    @cached_property
    def points(self) -> list[Point]:
        """Every step at which something was logged or measured, in order.

        Of two evaluations under equal conditions after one step, the first by name is taken, but the run's own
        before any added later.
        """
        found: dict[int, dict[str, float]] = {}
        for line in self.lines:
            values = {str(key): value for key, value in line.items() if key != "step" and _is_number(value)}
            found.setdefault(line["step"], {}).update(values)
        for series, evaluation in self.evaluations:
            values = found.setdefault(evaluation.step or 0, {})
            for metric, value in evaluation.metrics.items():
                values.setdefault(f"{series}/{metric}", value)
        return [Point(step, *self.time_of(step), values) for step, values in sorted(found.items()) if values]


def read_all(folders: Iterable[Path]) -> tuple[list[History], list[LeftOut]]:
    """The histories of these run folders, each once, and those that have none, with why.

    Raises DataError when none has, UsageError when two have the same name and would be written to the same place.
    """
    histories: dict[str, History] = {}
    left_out = []
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        try:
            history = read(folder)
        except DataError as error:
            left_out.append(LeftOut(folder, str(error).rstrip(".")))
            continue
        if other := histories.get(history.name):
            raise UsageError(
                f"{other.folder} and {folder} are both called {history.name} and would be written to the same place. "
                "Export them one at a time, each to another --out."
            )
        histories[history.name] = history
    if not histories:
        reasons = "; ".join(f"{item.name}: {item.reason}" for item in left_out[:3])
        raise DataError(f"there is no history to export. {reasons or 'No run was found'}.")
    return list(histories.values()), left_out


def read(folder: Path) -> History:
    """The history in a run folder. Raises DataError when the folder is no run's, or nothing was logged or measured."""
    found = RunFolder(folder)
    entry = entry_in_list(found)
    if entry.state == "foreign":
        raise DataError(f"not a run folder: {entry.reason}.")
    by_step = {line["step"]: line for line in found.metrics if _is_step(line.get("step"))}
    lines = [by_step[step] for step in sorted(by_step)]  # the later one where two are about one step
    evaluations = list(_series(in_order(found)))
    if not lines and not evaluations:
        raise DataError("nothing was logged or measured yet.")
    return History(
        name=found.name,
        folder=folder,
        state=entry.state,
        config=found.config or {},
        manifest=found.manifest,
        lines=tuple(lines),
        evaluations=tuple(evaluations),
        times=_times(found.events, found.manifest),
        seconds_per_step=1 / found.logged_speed if found.logged_speed else 0.0,
    )


def _times(events: Sequence[Mapping[str, Any]], manifest: Manifest | None) -> tuple[tuple[int, float], ...]:
    """As History.times. A resumption repeats the steps after its checkpoint, and the second time counts."""
    known: list[tuple[int, float]] = []
    for event in events:
        time, step = as_time(event.get("time")), event.get("step")
        if time is None or not isinstance(step, int) or not _is_step(step) or event.get("event") == "divergence":
            continue
        if event.get("event") in ("start", "resume"):
            known = [(earlier, seconds) for earlier, seconds in known if earlier <= step]
        known.append((step, time.timestamp()))
    if not known and manifest and (started := as_time(manifest.started_at)):
        known = [(0, started.timestamp())]
    known.sort(key=lambda event: event[0])  # stable: of one step, the first time it was done
    return tuple(known)


def _series(evaluations: Iterable[Evaluation]) -> Iterator[tuple[str, Evaluation]]:
    """Evaluations under equal conditions are one series, "evaluation"; others say in their name what they differ in.

    The untrained network is step 0 of its series whatever its weights are called: no average has moved yet.
    """
    measured = [e for e in evaluations if e.step is not None]
    own = (FINAL, BEFORE_TRAINING)
    measured.sort(key=lambda e: (e.step, e.name not in own and not e.name.startswith("step-"), e.name))
    main = next((e for e in measured if e.name == FINAL), measured[0] if measured else None)
    for evaluation in measured:
        differences = _differences(evaluation, main or evaluation)
        yield f"{EVALUATION} ({', '.join(differences)})" if differences else EVALUATION, evaluation


def _differences(evaluation: Evaluation, main: Evaluation) -> list[str]:
    ours, theirs = evaluation.protocol.model_dump(mode="json"), main.protocol.model_dump(mode="json")
    found = [f"{key} {_short(key, ours[key])}" for key in ours if ours[key] != theirs.get(key)]
    if evaluation.step and evaluation.weights != main.weights:
        found.append(f"weights {evaluation.weights}")
    return found


def _short(key: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:SHORT] if key.endswith("sha256") else text


# As tables --------------------------------------------------------------------------------------------------------


def write_csv(history: History, out: Path) -> Path:
    """history.csv, evaluations.csv and config.csv in a folder of the run's name below `out`, which is returned.

    history.csv has a row a step. `time` is in UTC; `time_is` says whether an event recorded it or it is interpolated.
    """
    folder = out / history.name
    folder.mkdir(parents=True, exist_ok=True)
    logged_first = dict.fromkeys(name for point in history.points for name in point.values)
    names = sorted(logged_first, key=lambda name: name.startswith(EVALUATION))  # stable: then what was measured
    rows = [{"step": p.step, **_time_cells(p), **p.values} for p in history.points]
    write_atomically(folder / "history.csv", _csv(["step", "time", "time_is", *names], rows))
    measured = [
        {
            "evaluation": e.name,
            "series": series,
            "step": e.step,
            "weights": e.weights,
            "metric": metric,
            "value": value,
            "standard_error": e.standard_errors.get(metric),
            **{f"protocol.{key}": inner for key, inner in e.protocol.model_dump(mode="json").items()},
        }
        for series, e in history.evaluations
        for metric, value in e.metrics.items()
    ]
    write_atomically(folder / "evaluations.csv", _csv(list(measured[0]) if measured else ["evaluation"], measured))
    settings = [{"setting": path, "value": value} for path, value in history.settings.items()]
    write_atomically(folder / "config.csv", _csv(["setting", "value"], settings))
    return folder


def _csv(names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _time_cells(point: Point) -> dict[str, str]:
    if point.time is None:
        return {"time": "", "time_is": ""}
    time = datetime.fromtimestamp(point.time, UTC).isoformat(timespec="milliseconds")
    return {"time": time, "time_is": "recorded" if point.known else "between events"}


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)  # a bool is an int too


def _is_step(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63
