"""The one style sheet: sizes, colours, titled blocks of axes one below another, and how a figure becomes files.

A figure is one column wide. It is made of blocks: a bold title, a key, a grid of axes and the notes that belong to
them, wrapped to the width. The same content always gives the same bytes.
"""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from harness.records.schema import write_atomically
from harness.report.drawing.lettering import text_width, wrap
from harness.system.errors import DataError

# Inches. One column of a two-column page is 3.3 inches wide, so the letters stay readable when it is scaled to that.
WIDTH = 4.0
LEFT, RIGHT = 0.62, 0.14
AXES_HEIGHT = 2.0
TITLE_GAP, LABEL_GAP, PANEL_GAP, EDGE = 0.07, 0.42, 0.26, 0.1
KEY_HANDLE, KEY_GAP = 0.2, 0.14  # of a key: its sample, and the space before the next one
LINE = 1.32 / 72  # height of a line of text per point of its size
KEY_LINE = 1.5 / 72  # and of a key, whose markers are taller
HEADING_SIZE, TITLE_SIZE, KEY_SIZE, NOTE_SIZE = 9.5, 8.5, 7.5, 7.2
NOTE_COLOUR, RULE_COLOUR, TEXT_COLOUR = "#505050", "#b0b0b0", "#202020"
DASHES = (0, (4, 3))
ROOM = 0.2  # of the data's range, left free around it for labels

Row = Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True)
class Drawing:
    """A figure with the numbers it draws and what a reader must know of them."""

    name: str  # of its files: "figure4", "losses"
    title: str
    alternative: str  # what it shows, for those who cannot see it
    figure: Figure
    rows: Sequence[Row]  # the CSV: every number that is drawn, one flat row each
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)  # what its JSON holds besides

    def as_json(self) -> dict[str, Any]:
        """Plain texts, numbers and lists, without the picture. Nothing in it is infinite or NaN."""
        document = {"title": self.title, "alternative": self.alternative, "notes": list(self.notes)}
        return {**document, "rows": [dict(row) for row in self.rows], **self.details}


@dataclass(frozen=True)
class Key:
    """One entry of a block's key: a sample of the line, marker or area, and what it stands for."""

    label: str
    colour: str
    marker: str | None = None
    filled: bool = True
    line: str | tuple | None = None  # a matplotlib line style; None: no line
    thin: bool = False
    area: bool = False  # a filled rectangle instead

    @property
    def width(self) -> float:
        return KEY_HANDLE + 0.05 + text_width(self.label, size=KEY_SIZE) + KEY_GAP


@dataclass(frozen=True)
class Block:
    """A grid of axes with the text above and below it.

    `draw` gets the axes row by row, at their final place and size, so that it may measure texts in them.
    """

    title: str
    draw: Callable[[Sequence[Axes]], None]
    notes: tuple[str, ...] = ()
    keys: tuple[Key, ...] = ()
    columns: int = 1
    rows: int = 1
    axes_height: float = AXES_HEIGHT  # inches, of each row
    left: float = LEFT  # inches before each axes, for its label and ticks
    between_rows: float = LABEL_GAP + 0.12  # inches
    below: float = LABEL_GAP  # inches under the last row, for ticks and label

    @property
    def title_lines(self) -> list[str]:
        return wrap(self.title, WIDTH - 2 * EDGE, size=TITLE_SIZE, weight="bold")

    @property
    def key_lines(self) -> list[list[Key]]:
        lines: list[list[Key]] = []
        reached = 0.0
        for key in self.keys:
            if lines and reached + key.width - KEY_GAP <= WIDTH - 2 * EDGE:
                lines[-1].append(key)
                reached += key.width
            else:
                lines.append([key])
                reached = key.width
        return lines

    @property
    def note_lines(self) -> list[str]:
        return [line for note in self.notes for line in wrap(note, WIDTH - 2 * EDGE, size=NOTE_SIZE)]

    @property
    def height(self) -> float:
        above = len(self.title_lines) * TITLE_SIZE * LINE + len(self.key_lines) * KEY_SIZE * KEY_LINE + TITLE_GAP
        grid = self.rows * self.axes_height + (self.rows - 1) * self.between_rows if self.rows else 0.0
        below = self.below if self.rows else 0.0
        return above + grid + below + len(self.note_lines) * NOTE_SIZE * LINE


def compose(heading: str, blocks: Sequence[Block], *, subheading: str = "", notes: Sequence[str] = ()) -> Figure:
    """The blocks one below another under the heading, as high as they need; `notes` concern all and come last."""
    with style():
        heads = wrap(heading, WIDTH - 2 * EDGE, size=HEADING_SIZE, weight="bold")
        subs = wrap(subheading, WIDTH - 2 * EDGE, size=NOTE_SIZE)
        last = [line for note in notes for line in wrap(note, WIDTH - 2 * EDGE, size=NOTE_SIZE)]
        top = EDGE + len(heads) * HEADING_SIZE * LINE + len(subs) * NOTE_SIZE * LINE + PANEL_GAP / 2
        height = top + sum(block.height for block in blocks) + PANEL_GAP * (len(blocks) - 1) + EDGE
        height += PANEL_GAP / 2 + len(last) * NOTE_SIZE * LINE if last else 0.0
        figure = Figure(figsize=(WIDTH, height))
        FigureCanvasAgg(figure)
        page = _Page(figure, height)
        below = page.write(EDGE, heads, HEADING_SIZE, weight="bold")
        page.write(below, subs, NOTE_SIZE, color=NOTE_COLOUR)
        for block in blocks:
            _draw_block(page, block, top)
            top += block.height + PANEL_GAP
        page.write(top - PANEL_GAP / 2, last, NOTE_SIZE, color=NOTE_COLOUR)
    return figure


@dataclass(frozen=True)
class _Page:
    """A figure addressed in inches from its upper left corner."""

    figure: Figure
    height: float

    def write(self, top: float, lines: Sequence[str], size: float, left: float = EDGE, **options: str) -> float:
        """Write the lines one below another; returns where the next would begin."""
        for line in lines:
            where = (left / WIDTH, 1 - top / self.height)
            self.figure.text(*where, line, {"fontsize": size, "va": "top", "ha": "left", **options})
            top += size * LINE
        return top

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        bottom = self.height - top - height
        where = (left / WIDTH, bottom / self.height, width / WIDTH, height / self.height)
        return self.figure.add_axes(where)


def _draw_block(page: _Page, block: Block, top: float) -> None:
    """Draw a block whose upper edge is `top` inches below the figure's."""
    top = page.write(top, block.title_lines, TITLE_SIZE, weight="bold")
    for line in block.key_lines:
        _draw_keys(page, line, top)
        top += KEY_SIZE * KEY_LINE
    top += TITLE_GAP
    width = (WIDTH - RIGHT) / block.columns - block.left if block.columns else 0.0
    grid = []
    for row in range(block.rows):
        for column in range(block.columns):
            left = block.left + column * (block.left + width)
            grid.append(page.axes(left, top, width, block.axes_height))
        top += block.axes_height + (block.between_rows if row < block.rows - 1 else block.below)
    block.draw(grid)
    page.write(top, block.note_lines, NOTE_SIZE, color=NOTE_COLOUR)


def _draw_keys(page: _Page, keys: Sequence[Key], top: float) -> None:
    left, middle = EDGE, 1 - (top + KEY_SIZE * KEY_LINE / 2) / page.height
    for key in keys:
        ends = (left / WIDTH, (left + KEY_HANDLE) / WIDTH)
        if key.area:
            tall = 0.7 * KEY_SIZE / 72 / page.height
            where = (ends[0], middle - tall / 2)
            sample: Rectangle | Line2D = Rectangle(
                where, ends[1] - ends[0], tall, color=key.colour, linewidth=0, transform=page.figure.transFigure
            )
        else:
            sample = Line2D(
                (ends[0], sum(ends) / 2, ends[1]),
                (middle, middle, middle),
                color=key.colour,
                linestyle=key.line or "none",
                linewidth=0.7 if key.thin else 1.4,
                marker=key.marker,
                markevery=[1],
                markersize=3.5 if key.thin else 5.5,
                markeredgewidth=0.8 if key.thin else 1.2,
                markeredgecolor=key.colour,
                markerfacecolor=key.colour if key.filled else "white",
                transform=page.figure.transFigure,
            )
        page.figure.add_artist(sample)
        page.write(top, [key.label], KEY_SIZE, left + KEY_HANDLE + 0.05, color=TEXT_COLOUR)
        left += key.width


def limits(values: Sequence[tuple[float, float | None]], room: float = ROOM) -> tuple[float, float]:
    """Ends of an axis that shows each value with its spread, and room around them; never below zero."""
    low = min(value - (sd or 0) for value, sd in values)
    high = max(value + (sd or 0) for value, sd in values)
    margin = room * (high - low) if high > low else room * (abs(high) or 1)
    # A speed and a distance are never negative, and an axis that shows negative ones puzzles.
    return (max(0.0, low - margin), high + margin)


# Files -----------------------------------------------------------------------------------------------------------


def save(figure: Figure, rows: str, out: Path, name: str) -> list[Path]:
    """Write <name>.png, .svg and, of `rows`, .csv into `out`, without dates or versions, and return their paths."""
    paths = [out / f"{name}.{kind}" for kind in ("png", "svg", "csv")]
    with writing(out), style():
        out.mkdir(parents=True, exist_ok=True)
        figure.savefig(paths[0], metadata={"Software": None})
        figure.savefig(paths[1], metadata={"Date": None, "Creator": None})
        write_atomically(paths[2], rows)
    return paths


def csv_of(rows: Sequence[Row]) -> str:
    """Rows as lines, all their columns named in the first; without rows it is empty."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if not columns:
        return ""
    text = StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's defaults and ours; the settings a person keeps at home do not change the figures."""
    with (
        as_file(files("harness.report") / "drawing" / "harness.mplstyle") as path,
        matplotlib.style.context(["default", path]),
    ):
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
