"""The small records of a run, kept beside a report so that anyone can draw it again. Weights are not among them."""

import shutil
from pathlib import Path

RECORDS = ("config.yaml", "manifest.json", "metrics.jsonl", "events.jsonl", "result.json", "evaluations", "samples")


def copy_records(run: Path, archive: Path) -> Path:
    """Copy the records of the run folder `run` to archive/<recipe>/<run-id>, in place of other runs of that recipe."""
    target = archive / run.parent.name / run.name
    shutil.rmtree(target.parent, ignore_errors=True)
    target.mkdir(parents=True)
    for name in RECORDS:
        source = run / name
        if source.is_dir():
            shutil.copytree(source, target / name)
        elif source.exists():
            shutil.copy2(source, target / name)
    return target
