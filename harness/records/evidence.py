"""Everything measured that a root holds: finished runs, benches of the step, and counts of the recipes."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from harness.records.bench_record import Bench
from harness.records.finding import NO_RUN
from harness.records.run_folder import reason_of
from harness.records.schema import SCHEMA_VERSION, Record, read_record
from harness.records.store import LeftOut, Run, find_runs, nothing_finished
from harness.records.trials import Setting, settings
from harness.system.errors import DataError

BENCH, COUNTS = "bench.json", "counts.json"
R = TypeVar("R", bound=Record)


class Count(Record):
    """Of one recipe, from the shapes of its network alone: nothing was trained."""

    params: int  # of the network that is sampled
    gmacs_forward: float  # 1e9 multiply-accumulates: per image, one forward of it
    gmacs_step: float  # per image, one training step of the method


class Counts(Record):
    """counts.json, as `harness recipes count --out` writes it."""

    schema_version: int = SCHEMA_VERSION
    harness_version: str
    recipes: dict[str, Count]


@dataclass(frozen=True)
class Evidence:
    runs: tuple[Run, ...] = ()
    settings: tuple[Setting, ...] = ()  # the runs with a distance, in groups that may be compared
    benches: tuple[Bench, ...] = ()
    counts: tuple[Counts, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    def count(self, recipe: str) -> Count | None:
        return next((counts.recipes[recipe] for counts in self.counts if recipe in counts.recipes), None)


def gather(roots: Iterable[Path]) -> Evidence:
    """What lies at or below `roots`. Raises DataError for a root that does not exist, and where there is nothing."""
    roots = [Path(root) for root in roots]
    runs, left_out = find_runs(roots)
    benches, bad_benches = _read_all(roots, BENCH, Bench)
    counts, bad_counts = _read_all(roots, COUNTS, Counts)
    left_out = [item for item in left_out if item.reason != NO_RUN or not _holds(item.path, (BENCH, COUNTS))]
    left_out += bad_benches + bad_counts
    if not (runs or benches or counts):
        raise DataError(nothing_finished(roots, left_out))
    groups, without_distance = settings(runs)
    return Evidence(tuple(runs), tuple(groups), tuple(benches), tuple(counts), (*left_out, *without_distance))


def _read_all(roots: Iterable[Path], name: str, kind: type[R]) -> tuple[list[R], list[LeftOut]]:
    """Every good document called `name` below the roots, in order, each once, and the damaged ones."""
    found, bad, seen = [], [], set()
    for path in _files(roots, name):
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        try:
            record = read_record(path, kind)
            if isinstance(record, Bench) and record.incomplete:
                raise DataError(f"unfinished: {record.incomplete}; the same bench again measures the rest")
            found.append(record)
        except DataError as error:
            bad.append(LeftOut(path, reason_of(error).replace(f"{path.parent}{os.sep}", "")))
    return found, bad


def _files(roots: Iterable[Path], name: str) -> Iterator[Path]:
    for root in roots:
        for parent, folders, names in os.walk(root):
            is_run = "result.json" in names or "config.yaml" in names
            folders[:] = [] if is_run else sorted(folder for folder in folders if not folder.startswith("."))
            if name in names and not is_run:
                yield Path(parent) / name


def _holds(root: Path, names: Iterable[str]) -> bool:
    return any(next(_files([root], name), None) for name in names)
