"""SD-DiT Fig. 3: training speed against sample quality, published, measured, and all relative to DiT."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from harness.records.evidence import Evidence
from harness.records.looks import look
from harness.report.drawing.labels import Anchor, Box, place, renderer_of
from harness.report.drawing.sheet import DASHES, NOTE_COLOUR, RULE_COLOUR, Block, Drawing, compose, limits
from harness.report.figures.figure3 import MOST_PANELS, Figure3, Panel, Point, figure3, row_of

NAME = "figure3"
TITLE = "SD-DiT Fig. 3: training speed and sample quality"
SUBHEADING = "Percentages: the share of an image's patches that a training step reads."
ALTERNATIVE = "Training speed against sample quality: published, measured, and both relative to DiT"
NOT_MEASURED = "Nothing measured yet: `harness sweep figure3` trains the four methods."
LINE_CLEARANCE = 3  # pixels between a label and a line


@dataclass(frozen=True)
class Mark:
    """A marker as it is drawn: where, with what spread, as whose."""

    x: float
    y: float
    x_sd: float | None
    y_sd: float | None
    label: str
    method: str
    filled: bool
    name: str  # "<panel>/<label>", kept in the SVG


def make(evidence: Evidence) -> Drawing:
    """Fig. 3 of everything that has a speed and a distance."""
    return drawing(figure3(evidence.runs)[0])


def drawing(data: Figure3) -> Drawing:
    details = {
        "panels": [_panel_as_json(panel) for panel in data.panels],
        "missing": [asdict(point) for point in data.missing],
    }
    notes = (*_missing(data), *_aside(data))
    return Drawing(NAME, TITLE, ALTERNATIVE, draw(data), data.rows(), notes, details)


def draw(data: Figure3) -> Figure:
    """Published on top, then each group of measured runs under its own conditions, then the view relative to DiT."""
    blocks = [_absolute(panel, letter, data) for letter, panel in data.drawn()]
    return compose(TITLE, [*blocks, _relative(data)], subheading=SUBHEADING, notes=_aside(data))


# What is drawn ---------------------------------------------------------------------------------------------------


def _absolute(panel: Panel, letter: str, data: Figure3) -> Block:
    def mark(point: Point) -> Mark:
        speed, distance = point.speed, point.distance
        name = f"{panel.name}/{point.label}"
        where = (speed.mean, distance.mean, speed.sd, distance.sd)
        return Mark(*where, point.label, point.method, point.kind == "measured", name)

    marks = [mark(point) for point in panel.drawn_points]
    x_label = "Training speed, steps/s (higher is better)"
    y_label = f"{panel.metric_title} (lower is better)"
    notes = panel.notes + (tuple(_missing(data)) if panel.kind == "published" else ())
    draw_it = partial(_scatter, marks=marks, x_label=x_label, y_label=y_label)
    return Block(f"{letter} {panel.title}", draw_it, notes)


def _missing(data: Figure3) -> list[str]:
    return [f"Not shown: {point.model}: {point.reason}." for point in data.missing]


def _aside(data: Figure3) -> list[str]:
    """What the CSV holds and the figure does not."""
    left = sum(not panel.drawn for panel in data.panels)
    if not left:
        return [] if data.measured else [NOT_MEASURED]
    what = f"{left} more panel{'s' if left > 1 else ''}"
    why = "the same methods at other steps or another batch (Fig. 4 has the steps)"
    return [f"Not drawn but in the CSV: {what}: {why}, or beyond the first {MOST_PANELS}."]


def _relative(data: Figure3) -> Block:
    """All panels on one pair of axes without a scale. Nothing joins points of different panels."""
    marks = [
        Mark(
            point.speed_ratio,
            point.distance_ratio,
            None,
            None,
            f"{point.label} {letter}",
            point.method,
            point.kind == "measured",
            f"relative/{panel.name}/{point.label}",
        )
        for letter, panel in data.drawn()
        for point in panel.drawn_points
        if point.speed_ratio is not None and point.distance_ratio is not None
    ]
    absent = [letter for letter, panel in data.drawn() if all(p.speed_ratio is None for p in panel.drawn_points)]
    notes = ["Hollow: published. Filled: measured. Each panel is divided by its own DiT."]
    if absent:
        notes.append(f"Without {', '.join(absent)}: no single DiT run there to divide by.")
    x_label, y_label = "Training speed / DiT's (higher is better)", "FID or FD / DiT's (lower is better)"
    draw_it = partial(_scatter, marks=marks, x_label=x_label, y_label=y_label, relative=True)
    return Block("All panels, relative to the DiT of the same panel", draw_it, tuple(notes))


def _panel_as_json(panel: Panel) -> dict[str, Any]:
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


def _scatter(
    grid: Sequence[Axes], *, marks: Sequence[Mark], x_label: str, y_label: str, relative: bool = False
) -> None:
    (axes,) = grid
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.set_xlim(*limits([(mark.x, mark.x_sd) for mark in marks]))
    axes.set_ylim(*limits([(mark.y, mark.y_sd) for mark in marks]))
    if relative:
        axes.axvline(1, color=RULE_COLOUR, linewidth=0.8, linestyle=DASHES, zorder=1)
        axes.axhline(1, color=RULE_COLOUR, linewidth=0.8, linestyle=DASHES, zorder=1)
    for mark in marks:
        style = look(mark.method)
        if mark.x_sd is not None or mark.y_sd is not None:
            axes.errorbar(mark.x, mark.y, mark.y_sd, mark.x_sd, fmt="none", ecolor=style.colour, elinewidth=1, zorder=2)
        axes.plot(
            [mark.x],
            [mark.y],
            linestyle="none",
            marker=style.marker,
            markeredgecolor=style.colour,
            markerfacecolor=style.colour if mark.filled else "white",
            zorder=3,
            clip_on=False,
            gid=mark.name,
        )
    hint = axes.text(0.99, 0.03, "better ↘", transform=axes.transAxes, ha="right", color=NOTE_COLOUR, style="italic")
    renderer = renderer_of(axes)
    hint_box = Box(*hint.get_window_extent(renderer).extents)
    lines = _lines(axes, marks, relative)
    place(axes, renderer, anchors=_anchors(marks, relative), blocked=[hint_box], lines=lines)


def _lines(axes: Axes, marks: Sequence[Mark], relative: bool) -> list[Box]:
    """Where lines are drawn, in pixels: labels keep off the error bars and off the rules through 1, 1."""
    ends = [((x - (sd or 0), y), (x + (sd or 0), y)) for x, y, sd in ((m.x, m.y, m.x_sd) for m in marks) if sd]
    ends += [((x, y - (sd or 0)), (x, y + (sd or 0))) for x, y, sd in ((m.x, m.y, m.y_sd) for m in marks) if sd]
    if relative:
        ends += [((axes.get_xlim()[0], 1), (axes.get_xlim()[1], 1)), ((1, axes.get_ylim()[0]), (1, axes.get_ylim()[1]))]
    return [Box(*Bbox(axes.transData.transform(pair)).padded(LINE_CLEARANCE).extents) for pair in ends]


def _anchors(marks: Sequence[Mark], relative: bool) -> list[Anchor]:
    """One label per marker; in the relative view the DiTs share a place by construction, and one label."""
    if not relative:
        return [_anchor(mark) for mark in marks]
    reference = [mark for mark in marks if (mark.x, mark.y) == (1.0, 1.0)]
    shared = [_anchor(mark)._replace(text=mark.label.rpartition(" ")[0]) for mark in reference[:1]]
    return shared + [_anchor(mark) for mark in marks if mark not in reference]


def _anchor(mark: Mark) -> Anchor:
    return Anchor(mark.x, mark.y, mark.label, look(mark.method).colour)
