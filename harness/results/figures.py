"""Draws a comparison: PNG, SVG and the CSV behind it. The same comparison always gives the same bytes."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from io import StringIO
from pathlib import Path

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from harness.errors import DataError
from harness.results.compare import Comparison, Figure3, Panel, Point
from harness.results.labels import Anchor, Box, place
from harness.results.lettering import wrap
from harness.results.methods import look
from harness.results.schema import write_atomically

# Inches. One column of a two-column page is 3.3 inches wide, so the letters stay readable when it is scaled to that.
WIDTH = 4.0
LEFT, RIGHT = 0.62, 0.14
AXES_HEIGHT = 2.0
TITLE_GAP, LABEL_GAP, PANEL_GAP, EDGE = 0.07, 0.42, 0.26, 0.1
LINE = 1.32 / 72  # height of a line of text per point of its size
HEADING_SIZE, TITLE_SIZE, NOTE_SIZE = 9.5, 8.5, 7
NOTE_COLOUR, RULE_COLOUR = "#505050", "#b0b0b0"
LINE_CLEARANCE = 3  # pixels between a label and a line
MARGIN = 0.2  # of the data's range, left free around it for the labels

HEADING = "SD-DiT Fig. 3: training speed and sample quality"
SUBHEADING = "Percentages: the share of an image's patches that a training step reads."


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


@dataclass(frozen=True)
class Block:
    """One pair of axes with the text above and below it."""

    title: str
    notes: tuple[str, ...]
    x_label: str
    y_label: str
    marks: tuple[Mark, ...]
    relative: bool = False

    @property
    def title_lines(self) -> list[str]:
        return wrap(self.title, WIDTH - 2 * EDGE, size=TITLE_SIZE, weight="bold")

    @property
    def note_lines(self) -> list[str]:
        return [line for note in self.notes for line in wrap(note, WIDTH - 2 * EDGE, size=NOTE_SIZE)]

    @property
    def height(self) -> float:
        above = len(self.title_lines) * TITLE_SIZE * LINE + TITLE_GAP
        return above + AXES_HEIGHT + LABEL_GAP + len(self.note_lines) * NOTE_SIZE * LINE


def write(comparison: Comparison, out: Path) -> list[Path]:
    """Write figure<number>.png, .svg and .csv for each figure of the comparison into `out`, and return their paths."""
    return [
        path
        for number, data in comparison.figures.items()
        for path in save(draw(data), as_csv(data), out, f"figure{number}")
    ]


def save(figure: Figure, rows: str, out: Path, name: str) -> list[Path]:
    """Write <name>.png, .svg and, of `rows`, .csv into `out`, without dates or versions, and return their paths."""
    paths = [out / f"{name}.{kind}" for kind in ("png", "svg", "csv")]
    with writing(out), style():
        out.mkdir(parents=True, exist_ok=True)
        figure.savefig(paths[0], metadata={"Software": None})
        figure.savefig(paths[1], metadata={"Date": None, "Creator": None})
        write_atomically(paths[2], rows)
    return paths


def as_csv(data: Figure3) -> str:
    """Every drawn point as one line, the columns named in the first."""
    return csv_of(data.rows())


def csv_of(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as lines, the columns named in the first."""
    text = StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def draw(data: Figure3) -> Figure:
    """Published on top, then each group of measured runs under its own conditions, then the view relative to DiT."""
    with style():
        blocks = [_absolute(panel, letter) for letter, panel in data.lettered()]
        blocks[0] = _with_missing(blocks[0], data)
        blocks.append(_relative(data))
        below_heading = EDGE + HEADING_SIZE * LINE
        top = below_heading + NOTE_SIZE * LINE + PANEL_GAP / 2
        height = top + sum(block.height for block in blocks) + PANEL_GAP * (len(blocks) - 1) + EDGE
        figure = Figure(figsize=(WIDTH, height))
        FigureCanvasAgg(figure)
        text = _writer(figure, height)
        text(EDGE, EDGE, HEADING, HEADING_SIZE, weight="bold")
        text(EDGE, below_heading, SUBHEADING, NOTE_SIZE, color=NOTE_COLOUR)
        for block in blocks:
            _draw_block(figure, block, top, height, text)
            top += block.height + PANEL_GAP
    return figure


# What is drawn ---------------------------------------------------------------------------------------------------


def _absolute(panel: Panel, letter: str) -> Block:
    def mark(point: Point) -> Mark:
        speed, distance = point.speed, point.distance
        name = f"{panel.name}/{point.label}"
        where = (speed.mean, distance.mean, speed.sd, distance.sd)
        return Mark(*where, point.label, point.method, point.kind == "measured", name)

    return Block(
        title=f"{letter} {panel.title}",
        notes=panel.notes,
        x_label="Training speed, steps/s (higher is better)",
        y_label=f"{panel.metric_title} (lower is better)",
        marks=tuple(mark(point) for point in panel.points),
    )


def _with_missing(block: Block, data: Figure3) -> Block:
    notes = tuple(f"Not shown: {point.model}: {point.reason}." for point in data.missing)
    return Block(block.title, block.notes + notes, block.x_label, block.y_label, block.marks)


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
        for letter, panel in data.lettered()
        for point in panel.points
        if point.speed_ratio is not None and point.distance_ratio is not None
    ]
    absent = [letter for letter, panel in data.lettered() if all(point.speed_ratio is None for point in panel.points)]
    notes = ["Hollow: published. Filled: measured. Each panel is divided by its own DiT."]
    if absent:
        notes.append(f"Without {', '.join(absent)}: no single DiT run there to divide by.")
    return Block(
        title="All panels, relative to the DiT of the same panel",
        notes=tuple(notes),
        x_label="Training speed / DiT's (higher is better)",
        y_label="FID or FD / DiT's (lower is better)",
        marks=tuple(marks),
        relative=True,
    )


# Drawing ---------------------------------------------------------------------------------------------------------


def _draw_block(figure: Figure, block: Block, top: float, height: float, text: Callable[..., None]) -> None:
    """Draw a block whose upper edge is `top` inches below the figure's."""
    for line in block.title_lines:
        text(EDGE, top, line, TITLE_SIZE, weight="bold")
        top += TITLE_SIZE * LINE
    top += TITLE_GAP
    bottom = height - top - AXES_HEIGHT
    place_at = (LEFT / WIDTH, bottom / height, (WIDTH - LEFT - RIGHT) / WIDTH, AXES_HEIGHT / height)
    _scatter(figure.add_axes(place_at), figure, block)
    top += AXES_HEIGHT + LABEL_GAP
    for line in block.note_lines:
        text(EDGE, top, line, NOTE_SIZE, color=NOTE_COLOUR)
        top += NOTE_SIZE * LINE


def _scatter(axes: Axes, figure: Figure, block: Block) -> None:
    axes.set(xlabel=block.x_label, ylabel=block.y_label)
    axes.set_xlim(*_limits([(mark.x, mark.x_sd) for mark in block.marks]))
    axes.set_ylim(*_limits([(mark.y, mark.y_sd) for mark in block.marks]))
    if block.relative:
        axes.axvline(1, color=RULE_COLOUR, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        axes.axhline(1, color=RULE_COLOUR, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    for mark in block.marks:
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
    renderer = figure.canvas.get_renderer()
    hint_box = Box(*hint.get_window_extent(renderer).extents)
    place(axes, renderer, anchors=_anchors(block), blocked=[hint_box], lines=_lines(axes, block))


def _lines(axes: Axes, block: Block) -> list[Box]:
    """Where lines are drawn, in pixels: labels keep off the error bars and off the rules through 1, 1."""
    ends = [((x - (sd or 0), y), (x + (sd or 0), y)) for x, y, sd in ((m.x, m.y, m.x_sd) for m in block.marks) if sd]
    ends += [((x, y - (sd or 0)), (x, y + (sd or 0))) for x, y, sd in ((m.x, m.y, m.y_sd) for m in block.marks) if sd]
    if block.relative:
        ends += [((axes.get_xlim()[0], 1), (axes.get_xlim()[1], 1)), ((1, axes.get_ylim()[0]), (1, axes.get_ylim()[1]))]
    return [Box(*Bbox(axes.transData.transform(pair)).padded(LINE_CLEARANCE).extents) for pair in ends]


def _anchors(block: Block) -> list[Anchor]:
    """One label per marker; in the relative view the DiTs share a place by construction, and one label."""
    if not block.relative:
        return [_anchor(mark) for mark in block.marks]
    reference = [mark for mark in block.marks if (mark.x, mark.y) == (1.0, 1.0)]
    shared = [_anchor(mark)._replace(text=mark.label.rpartition(" ")[0]) for mark in reference[:1]]
    return shared + [_anchor(mark) for mark in block.marks if mark not in reference]


def _anchor(mark: Mark) -> Anchor:
    return Anchor(mark.x, mark.y, mark.label, look(mark.method).colour)


def _limits(values: Sequence[tuple[float, float | None]]) -> tuple[float, float]:
    low = min(value - (sd or 0) for value, sd in values)
    high = max(value + (sd or 0) for value, sd in values)
    margin = MARGIN * (high - low) if high > low else MARGIN * (abs(high) or 1)
    # A speed and a distance are never negative, and an axis that shows negative ones puzzles.
    return (max(0.0, low - margin), high + margin)


def _writer(figure: Figure, height: float) -> Callable[..., None]:
    def text(x: float, y: float, line: str, size: float, **options: str) -> None:
        figure.text(x / WIDTH, 1 - y / height, line, fontsize=size, va="top", ha="left", **options)

    return text


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's defaults and ours; the settings a person keeps at home do not change the figures."""
    with as_file(files("harness.results") / "harness.mplstyle") as path, matplotlib.style.context(["default", path]):
        yield


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turns a full or forbidden disk into an error that can be mended."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write to {out}: {error.strerror or error}. Choose another folder with --out."
        ) from None
