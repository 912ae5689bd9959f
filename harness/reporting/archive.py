"""The small records of a run, kept beside a report so that anyone can draw it again. Weights are not among them."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.records.evidence import COUNTS, Counts
from harness.records.schema import write_record
from harness.records.store import Run
from harness.system.errors import DataError

RECORDS = (
    "config.yaml", "manifest.json", "metrics.jsonl", "events.jsonl", "result.json", "evaluations", "samples/grid.png",
)  # fmt: skip
RUNS = "runs"


def keep(runs: Iterable[Run], counts: Sequence[Counts], out: Path) -> list[Path]:
    """Copy the records of `runs` to out/runs and `counts` beside them; returns what was written.

    Runs of one name, made on several machines, lie in out/runs, out/runs/2, out/runs/3, ...
    """
    kept: list[Path] = []
    for run in runs:
        archives = (out / RUNS / (str(i) if i > 1 else "") for i in range(1, len(kept) + 2))
        path = run.path.resolve()
        archive = next(a for a in archives if a / path.parent.name / path.name not in kept)
        kept.append(copy_records(path, archive))
    recipes = {name: count for each in counts for name, count in each.recipes.items()}
    if recipes:
        version = counts[0].harness_version
        write_record(out / COUNTS, Counts(harness_version=version, recipes=recipes))
        kept.append(out / COUNTS)
    return kept


def copy_records(run: Path, archive: Path) -> Path:
    """Copy the records of the run folder `run` to archive/<recipe>/<run-id>, in place of what lay there.

    Raises DataError for a record that is a link: what it leads to may be any file of the machine, and records are
    shown to others.
    """
    run = run.resolve()  # so that it has names: "." has none, and the archive itself would go
    target = archive / run.parent.name / run.name
    if target.resolve() == run:
        return target
    inside = [part for name in RECORDS for part in (run / name, *(run / name).rglob("*"))]
    for link in filter(Path.is_symlink, [run / "samples", *inside]):
        raise DataError(f"{link} is a link, and records are copied from the run folder alone. Put the file there.")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in RECORDS:
        source = run / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns(".*"))
        elif source.is_file():
            (target / name).parent.mkdir(exist_ok=True)
            shutil.copy2(source, target / name)
    return target
