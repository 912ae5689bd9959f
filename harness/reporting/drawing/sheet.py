"""How a figure is made: panels one below another, each drawn from its rows of the figure's one data frame.

The frame is the CSV too, so every number of the picture is in it. Matplotlib's constrained layout places everything.
The same content always gives the same bytes.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from textwrap import TextWrapper
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.gridspec import GridSpec
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.transforms import Bbox

from harness.records.schema import write_atomically
from harness.reporting.tables.table import count, frame_of, writing

WIDTH = 4.0  # inches. One column of a two-column page is 3.3 inches wide: the letters stay readable at that width.
MOST_PANELS = 8  # in one figure: a reader can take in no more
LINE = 0.138  # inches, height of a line of text
UNDER_AXES = 0.42  # inches, for the ticks and the label of an x-axis
HEADING, TITLE, KEY, NOTE = 50, 54, 56, 70  # letters in a line of each kind of text
HEADING_SIZE, TITLE_SIZE, KEY_SIZE, NOTE_SIZE = 9.5, 8.5, 7.5, 7.2  # points
NOTE_COLOUR, RULE_COLOUR, TEXT_COLOUR = "#505050", "#b0b0b0", "#202020"
BOUND = "\u00a0"  # a space at which no line ends
TOGETHER = re.compile(
    r"(?<=\bbatch) (?=\d)|(?<=\bseed) (?=\d)|(?<=\bsize) (?=\w)|(?<=\bratio) (?=\d)"
    r"|(?<=\d) (?=(?:steps|threads|seeds|pixels|images|GB)\b)|(?<=\d) (?=x \w)|(?<=\d x) (?=\w)"
)
DASHES = (0, (4, 3))
DOTS = (0, (1, 1.5))
FOREIGN_COLOUR = "#9a9a9a"  # for code that is not this harness's

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Panel:
    """A titled part of a figure: its rows, how they are drawn on a grid of axes, and what a reader must know of them.

    `draw` gets the rows as a frame, then each of the axes, row by row. The key above them shows every artist with a
    label, once.
    """

    title: str
    rows: Sequence[Row]
    draw: Callable[..., None]
    notes: Sequence[str] = ()
    grid: tuple[int, int] = (1, 1)  # rows and columns of axes
    height: float = 2.0  # inches, of each row of axes


@dataclass(frozen=True)
class Drawing:
    """A figure, the data frame that it draws, and what a reader must know of it."""

    name: str  # its files have this name: "figure4", "losses"
    title: str
    alternative: str  # what it shows, for those who cannot see it
    figure: Figure
    frame: pd.DataFrame  # the CSV: every number that is drawn
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)  # what its JSON contains besides

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.frame.to_dict("records")

    def as_json(self) -> dict[str, Any]:
        """Plain texts, numbers and lists, without the picture. Nothing in it is infinite or NaN."""
        document = {"title": self.title, "alternative": self.alternative, "notes": list(self.notes)}
        return {**document, "rows": self.rows, **self.details}


def lines_of(text: str, letters: int) -> str:
    """The text in lines of at most so many letters; "SD-DiT", "batch 64" and "600 steps" stay whole."""
    return TextWrapper(letters, break_on_hyphens=False).fill(TOGETHER.sub(BOUND, text)).replace(BOUND, " ")


def title_of(text: str, letters: int) -> str:
    """As `lines_of`, the lines about equally long: no word stands alone in the last."""
    lines = lines_of(text, letters).count("\n")
    return next(filled for n in range(1, letters + 1) if (filled := lines_of(text, n)).count("\n") <= lines)


def drawing(
    name: str,
    title: str,
    alternative: str,
    panels: Sequence[Panel],
    *,
    notes: Sequence[str] = (),
    details: Mapping[str, Any] | None = None,
    rows: Sequence[Row] | None = None,
) -> Drawing:
    """The first panels one below another under the title; `notes` concern all of them.

    The CSV has the rows of all panels, or `rows` where it should have others too.
    """
    rows = [row for panel in panels for row in panel.rows] if rows is None else rows
    more, panels = len(panels) - MOST_PANELS, panels[:MOST_PANELS]
    if more > 0:
        these = count(more, "more panel")
        notes = [*notes, f"Not drawn but in the CSV: {these}. Name fewer runs to see others."]
    with style():
        layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.05, rect=(0, 0, 0.98, 0.995))
        figure = Figure(figsize=(WIDTH, 1), layout=layout)
        FigureCanvasAgg(figure)
        heading = title_of(title, HEADING)
        figure.suptitle(heading, x=0.02, ha="left", size=HEADING_SIZE, weight="bold")
        height = LINE * 1.6 * len(heading.splitlines()) + _note(figure, notes)
        if panels:
            grid = GridSpec(len(panels), 1, figure=figure)
            heights = [_draw(figure.add_subfigure(grid[i, 0]), panel) for i, panel in enumerate(panels)]
            grid.set_height_ratios(heights)
            height += sum(heights)
        figure.set_size_inches(WIDTH, height)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # every file shows the same layout
        for part in figure.subfigs:  # rounded, since the layout's last digits differ from time to time
            part.bbox_relative.set_points(np.round(part.bbox_relative.get_points(), 6))
        for axes in figure.axes:
            axes.set_position(Bbox(np.round(axes.get_position(original=True).get_points(), 6)))
    alternative = alternative if panels else "Nothing measured yet"
    every_note = dict.fromkeys([*(note for panel in panels for note in panel.notes), *notes])
    return Drawing(name, title, alternative, figure, frame_of(rows), tuple(every_note), details or {})


def _draw(part: SubFigure, panel: Panel) -> float:
    """Draw a panel, and return the inches that it takes."""
    rows, columns = panel.grid
    grid = list(part.subplots(rows, columns, squeeze=False).flat)
    panel.draw(frame_of(panel.rows), *grid)
    artists: dict[str, Any] = {}
    for axes in grid:
        for artist, label in zip(*axes.get_legend_handles_labels(), strict=True):
            artists.setdefault(lines_of(label, KEY), artist)
    keys_a_line = max(1, KEY // (max(map(len, artists), default=KEY) + 6))
    title = title_of(panel.title, TITLE)
    part.legend(
        list(artists.values()),
        list(artists),
        loc="outside upper left",
        ncols=keys_a_line,
        fontsize=KEY_SIZE,
        title=title,
        title_fontproperties={"weight": "bold", "size": TITLE_SIZE},
        alignment="left",
        frameon=False,
        borderpad=0,
        borderaxespad=0.9,
        handletextpad=0.6,
        labelspacing=0.3,
    )
    lines = 1.3 * len(title.splitlines()) + 1.1 * math.ceil(len("\n".join(artists).splitlines()) / keys_a_line) + 1
    return LINE * lines + rows * (panel.height + UNDER_AXES) + _note(part, panel.notes)


def _note(part: Figure | SubFigure, notes: Sequence[str]) -> float:
    """Write the notes below the axes, and return the inches that they take."""
    if not notes:
        return 0.0
    text = "\n".join(lines_of(note, NOTE) for note in notes)
    part.supxlabel(text, x=0.02, ha="left", size=NOTE_SIZE, color=NOTE_COLOUR)
    return LINE * (len(text.splitlines()) + 1)


# Files -----------------------------------------------------------------------------------------------------------


def save(drawing: Drawing, out: Path) -> list[Path]:
    """Write <name>.png, .svg and .csv into `out`, without dates or versions, and return their paths."""
    paths = [out / f"{drawing.name}.{kind}" for kind in ("png", "svg", "csv")]
    with writing(out), style():
        drawing.figure.savefig(paths[0], metadata={"Software": None})
        drawing.figure.savefig(paths[1], metadata={"Date": None, "Creator": None})
        write_atomically(paths[2], csv_of(drawing.frame))
    return paths


def csv_of(frame: pd.DataFrame) -> str:
    """The rows as lines, all their columns named in the first; without rows it is empty."""
    return "" if frame.empty else frame.to_csv(index=False, lineterminator="\n")


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's defaults with our changes. A user's own matplotlibrc does not change the figures."""
    with (
        as_file(files("harness.reporting") / "drawing" / "harness.mplstyle") as path,
        matplotlib.style.context(["default", path]),
    ):
        yield
