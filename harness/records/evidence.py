"""Everything measured that a root holds: finished runs, benches of the step, and counts of the recipes."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.records.bench_record import Bench
from harness.records.finding import NO_RUN
from harness.records.run_folder import reason_of
from harness.records.schema import SCHEMA_VERSION, Record, read_record
from harness.records.store import LeftOut, Run, find_runs, nothing_finished
from harness.records.trials import Setting, settings
from harness.system.errors import DataError


class Count(Record):
    """A recipe's parameters and arithmetic, from the shapes of its network alone: nothing was trained."""

    params: int  # the sampled network's that are trained
    gmacs_forward: float  # 1e9 multiply-accumulates: per image, one forward of that network with all tokens
    gmacs_step: float  # per image, one training step: the method's forward and backward


class Counts(Record):
    """counts.json, as `harness recipes count --out` writes it."""

    schema_version: int = SCHEMA_VERSION
    harness_version: str
    recipes: dict[str, Count]


BENCH, COUNTS = "bench.json", "counts.json"
KINDS: dict[str, type[Bench] | type[Counts]] = {BENCH: Bench, COUNTS: Counts}


@dataclass(frozen=True)
class Evidence:
    runs: tuple[Run, ...] = ()
    settings: tuple[Setting, ...] = ()  # the runs with a distance, in groups that may be compared
    benches: tuple[Bench, ...] = ()
    counts: tuple[Counts, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    def count(self, recipe: str) -> Count | None:
        return next((counts.recipes[recipe] for counts in self.counts if recipe in counts.recipes), None)


def gather(roots: Iterable[Path], yardstick: str | None = None) -> Evidence:
    """What lies at or below `roots`; `yardstick` is what its runs are compared by, in place of the Fréchet distance.

    Raises DataError for a root that does not exist, and where there is nothing; UsageError as distance_metric.
    """
    roots = [Path(root) for root in roots]
    runs, left_out = find_runs(roots)
    documents: dict[Path, Bench | Counts | LeftOut] = {}
    holders = set()
    for root in roots:
        for path in _documents_below(root):
            holders.add(root)
            if path.resolve() not in documents:
                documents[path.resolve()] = _read(path)
    left_out = [item for item in left_out if item.reason != NO_RUN or item.path not in holders]
    left_out += [document for document in documents.values() if isinstance(document, LeftOut)]
    benches = tuple(document for document in documents.values() if isinstance(document, Bench))
    counts = tuple(document for document in documents.values() if isinstance(document, Counts))
    if not (runs or benches or counts):
        raise DataError(nothing_finished(roots, left_out))
    groups, without_distance = settings(runs, yardstick)
    return Evidence(tuple(runs), tuple(groups), benches, counts, (*left_out, *without_distance))


def _documents_below(root: Path) -> Iterator[Path]:
    """Every bench.json and counts.json that lies in no run."""
    for parent, folders, names in os.walk(root):
        is_run = "result.json" in names or "config.yaml" in names
        folders[:] = [] if is_run else sorted(folder for folder in folders if not folder.startswith("."))
        yield from (Path(parent) / name for name in KINDS if name in names and not is_run)


def _read(path: Path) -> Bench | Counts | LeftOut:
    """The document, or why it is left out: it is damaged, or a bench that was stopped."""
    try:
        record = read_record(path, KINDS[path.name])
        if isinstance(record, Bench) and record.incomplete:
            raise DataError(f"unfinished: {record.incomplete}; the same bench again measures the rest")
        return record
    except DataError as error:
        return LeftOut(path, reason_of(error).replace(f"{path.parent}{os.sep}", ""))
