"""Fig. 5 and 6: a method's distances along an axis, and results without a place on the axis as horizontal lines.

The column `lowest` is empty in the row of a line.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from harness.records.looks import look
from harness.records.trials import Trial, metric_title
from harness.reporting.drawing.scales import fit
from harness.reporting.drawing.sheet import DASHES, TEXT_COLOUR
from harness.reporting.figures import measured as shared

SUBHEADING = "Lower is better. Hollow: published. Filled: measured. A ring marks the lowest point."


def published_point(method: str, label: str, row: Any, *, lowest: bool | None = None) -> dict[str, Any]:
    return {"kind": "published", "method": method, "label": label, **shared.of_paper(row), "lowest": lowest}


def measured_point(label: str, trials: Sequence[Trial], *, lowest: bool | None = None) -> dict[str, Any]:
    values = shared.of_runs(trials, [trial.distance for trial in trials])
    return {"kind": "measured", "method": trials[0].method, "label": label, **values, "lowest": lowest}


def lowest_of(found: Mapping[float, Sequence[Trial]]) -> float | None:
    """The place of the lowest mean over the seeds that all places have; None where they have none in common."""
    values = {x: {trial.seed: trial.distance for trial in trials} for x, trials in found.items()}
    shared_seeds = set.intersection(*map(set, values.values()))
    return min(values, key=lambda x: sum(values[x][seed] for seed in shared_seeds)) if shared_seeds else None


def counted(rows: Sequence[Mapping[str, Any]], x: str) -> str:
    """The note on the seeds behind the rows: a point is called by its place, a line by its label."""
    return shared.counted(
        {row["label"] if row["lowest"] is None else f"{row[x]:g}": row["n"] for row in rows},
    )


def ends(frame: pd.DataFrame) -> Iterator[tuple[float, float | None]]:
    yield from zip(frame["value"], frame["value_sd"], strict=True)


def draw(axes: Axes, frame: pd.DataFrame, x: str, line: str | tuple = DASHES) -> None:
    """The points along column `x`, joined where all were measured alike, and the lines with a band of one deviation."""
    axes.set_ylabel(f"{metric_title(frame['metric'].iloc[0])} (lower is better)")
    fit(axes, "y", list(ends(frame)))
    points, lines = frame[frame["lowest"].notna()], frame[frame["lowest"].isna()]
    first = points.iloc[0]
    style, measured = look(first["method"]), first["kind"] == "measured"
    for row in lines.itertuples():
        colour = look(row.method).colour
        if row.value_sd is not None:
            low, high = row.value - row.value_sd, row.value + row.value_sd
            axes.axhspan(low, high, color=colour, alpha=0.12, linewidth=0)
        label = f"{row.label}: {row.value:.4g}"
        axes.axhline(
            row.value, color=colour, linewidth=1.2, linestyle=line, label=label, gid=f"{row.panel}/{row.label}"
        )
    if points["value_sd"].notna().any():
        sd = [value or 0 for value in points["value_sd"]]
        axes.errorbar(points[x], points["value"], sd, fmt="none", ecolor=style.colour, elinewidth=1, zorder=3)
    axes.plot(
        points[x],
        points["value"],
        color=style.colour,
        linestyle="-" if measured else "none",
        linewidth=1,
        marker=style.marker,
        markersize=5.5,
        markeredgewidth=1.2,
        markerfacecolor=style.colour if measured else "white",
        label=first["label"],
        gid=f"{first['panel']}/{first['label']}",
        clip_on=False,
        zorder=4,
    )
    ringed = points[points["lowest"] == True]  # noqa: E712, the column is of objects
    axes.plot(
        ringed[x],
        ringed["value"],
        linestyle="none",
        marker="o",
        markersize=11,
        markerfacecolor="none",
        markeredgecolor=TEXT_COLOUR,
        markeredgewidth=0.8,
        clip_on=False,
        zorder=5,
    )
