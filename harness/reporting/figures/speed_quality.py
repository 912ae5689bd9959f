"""SD-DiT Fig. 3: training speed against sample quality, published, measured, and all relative to DiT."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from harness.records.evidence import Evidence
from harness.records.looks import look
from harness.reporting.drawing import sheet
from harness.reporting.drawing.scales import fit
from harness.reporting.drawing.sheet import DASHES, NOTE_COLOUR, RULE_COLOUR, Drawing
from harness.reporting.figures.figure3 import MOST_PANELS, Figure3, Panel, figure3, row_of

NAME = "figure3"
TITLE = "SD-DiT Fig. 3: training speed and sample quality"
SUBHEADING = "Percentages: the share of an image's patches that a training step reads."
ALTERNATIVE = "Training speed against sample quality: published, measured, and both relative to DiT"
NOT_MEASURED = "Nothing measured yet: `harness sweep figure3` trains the four methods."


def make(evidence: Evidence) -> Drawing:
    """Fig. 3 of everything that has a speed and a distance."""
    return drawing(figure3(evidence.runs)[0])


def drawing(data: Figure3) -> Drawing:
    """Published on top, then each group of measured runs under its own conditions, then all relative to DiT."""
    missing = [f"Not shown: {point.model}: {point.reason}." for point in data.missing]
    panels = []
    for letter, panel in data.drawn():
        rows = [row_of(panel, point) for point in panel.drawn_points]
        notes = (*panel.notes, *(missing if panel.kind == "published" else ()))
        y_label = f"{panel.metric_title} (lower is better)"
        panels.append(sheet.Panel(f"{letter} {panel.title}", rows, partial(_draw, y_label=y_label), notes))
    details = {"panels": [_as_json(panel) for panel in data.panels], "missing": [asdict(each) for each in data.missing]}
    return sheet.drawing(
        NAME,
        TITLE,
        ALTERNATIVE,
        [*panels, _relative(data)],
        notes=[SUBHEADING, *_aside(data)],
        details=details,
        rows=data.rows(),
    )


def _aside(data: Figure3) -> list[str]:
    """What the CSV contains and the figure does not."""
    left = sum(not panel.drawn for panel in data.panels)
    if not left:
        return [] if data.measured else [NOT_MEASURED]
    what = f"{left} more panel{'s' if left > 1 else ''}"
    why = "the same methods at other steps or another batch (Fig. 4 has the steps)"
    return [f"Not drawn but in the CSV: {what}: {why}, or beyond the first {MOST_PANELS}."]


def _relative(data: Figure3) -> sheet.Panel:
    """All panels on one pair of axes without a scale. Nothing joins points of different panels."""
    shown = data.drawn()
    rows = [row_of(panel, point) for _, panel in shown for point in panel.drawn_points if point.speed_ratio is not None]
    absent = [letter for letter, panel in shown if all(point.speed_ratio is None for point in panel.drawn_points)]
    notes = ["Hollow: published. Filled: measured. Letters: the panel; each is divided by its own DiT."]
    if absent:
        notes.append(f"Without {', '.join(absent)}: no single DiT run there to divide by.")
    draw = partial(_draw_relative, letters={panel.name: letter for letter, panel in shown})
    return sheet.Panel("All panels, relative to the DiT of the same panel", rows, draw, notes)


def _as_json(panel: Panel) -> dict[str, Any]:
    document = {
        "name": panel.name,
        "kind": panel.kind,
        "title": panel.title,
        "metric": panel.metric,
        "drawn": panel.drawn,
        "notes": list(panel.notes),
    }
    shared = {"panel", "panel_title", "kind", "metric"}
    points = [
        {key: value for key, value in row_of(panel, point).items() if key not in shared}
        | {
            "seeds": [run.result.seed for run in point.runs],
            "runs": [str(run.path) for run in point.runs],
            "drawn": panel.drawn and point.drawn,
            "comparable_with_paper": not point.differences,
            "differences_from_paper": list(point.differences.values()),
        }
        for point in panel.points
    ]
    return document | {"points": points}


# Drawing ---------------------------------------------------------------------------------------------------------


def _draw(grid: Sequence[Axes], frame: pd.DataFrame, *, y_label: str) -> None:
    (axes,) = grid
    axes.set(xlabel="Training speed, steps/s (higher is better)", ylabel=y_label)
    fit(axes, "x", list(zip(frame["steps_per_sec"], frame["steps_per_sec_sd"], strict=True)), log=False)
    fit(axes, "y", list(zip(frame["value"], frame["value_sd"], strict=True)), log=False)
    for row in frame.itertuples():
        x, y, colour = row.steps_per_sec, row.value, look(row.method).colour
        if row.value_sd is not None:
            axes.errorbar(x, y, row.value_sd, row.steps_per_sec_sd, fmt="none", ecolor=colour, elinewidth=1, zorder=2)
        _mark(axes, x, y, row, f"{row.panel}/{row.label}")


def _draw_relative(grid: Sequence[Axes], frame: pd.DataFrame, *, letters: dict[str, str]) -> None:
    (axes,) = grid
    axes.set(xlabel="Training speed / DiT's (higher is better)", ylabel="FID or FD / DiT's (lower is better)")
    fit(axes, "x", [(ratio, None) for ratio in frame["speed_relative_to_dit"]], log=False)
    fit(axes, "y", [(ratio, None) for ratio in frame["value_relative_to_dit"]], log=False)
    axes.axvline(1, color=RULE_COLOUR, linewidth=0.8, linestyle=DASHES, zorder=1)
    axes.axhline(1, color=RULE_COLOUR, linewidth=0.8, linestyle=DASHES, zorder=1)
    for row in frame.itertuples():
        x, y = row.speed_relative_to_dit, row.value_relative_to_dit
        _mark(axes, x, y, row, f"relative/{row.panel}/{row.label}")
        if (x, y) != (1, 1):  # every panel's DiT
            axes.annotate(letters[row.panel], (x, y), (5, 3), textcoords="offset points", color=NOTE_COLOUR)


def _mark(axes: Axes, x: float, y: float, row: Any, name: str) -> None:
    style = look(row.method)
    axes.plot(
        [x],
        [y],
        linestyle="none",
        marker=style.marker,
        markeredgecolor=style.colour,
        markerfacecolor=style.colour if row.kind == "measured" else "white",
        zorder=3,
        clip_on=False,
        label=row.label,
        gid=name,
    )
