"""What the runs behind a report took: hours, and energy where it was measured."""

from collections import defaultdict
from collections.abc import Sequence

from harness.records.evidence import Evidence
from harness.records.panels import device_title
from harness.records.store import Run
from harness.report.tables.table import Column, Table

HOUR = 3600.0
NOT_MEASURED = "not measured"


def spending(evidence: Evidence) -> Table:
    """A row for each recipe on each device, then their sum; then benches, which alone measure energy."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in evidence.runs:
        groups[run.result.recipe, device_title(run.result.device)].append(run)
    rows = [_row(recipe, device, runs) for (recipe, device), runs in sorted(groups.items())]
    if len(rows) > 1:
        rows.append(_row("all", "", evidence.runs))
    for bench in evidence.benches:
        for entry in bench.entries:
            if entry.joules_per_image is not None:
                rows.append(
                    {
                        "What": entry.name,
                        "Device": device_title(bench.device),
                        "Energy, J per trained image": entry.joules_per_image,
                    }
                )
    return Table(
        name="spending",
        title="Time and energy",
        columns=(
            Column("What"),
            Column("Device"),
            Column("Runs", "number"),
            Column("Training steps", "number"),
            Column("Hours", "number", decimals=2),
            Column("Of these evaluating, hours", "number", decimals=2),
            Column("Device-hours", "number", decimals=2),
            Column("Energy, J per trained image", "number"),
        ),
        rows=tuple(rows),
        caption="Hours are wall time from a run's start to its result, interruptions left out. Energy is measured by "
        "harness bench on GPUs that tell it; a run's own is not measured.",
    )


def _row(recipe: str, device: str, runs: Sequence[Run]) -> dict[str, str | int | float]:
    hours = [run.result.wall_seconds / HOUR for run in runs]
    evaluating = sum(e.seconds for run in runs for e in run.result.evaluations.values()) / HOUR
    devices = [max(run.result.device.count, 1) if run.result.device.kind == "cuda" else 1 for run in runs]
    return {
        "What": recipe,
        "Device": device,
        "Runs": len(runs),
        "Training steps": sum(run.result.steps for run in runs),
        "Hours": sum(hours),
        "Of these evaluating, hours": evaluating,
        "Device-hours": sum(h * n for h, n in zip(hours, devices, strict=True)),
        "Energy, J per trained image": NOT_MEASURED,
    }
