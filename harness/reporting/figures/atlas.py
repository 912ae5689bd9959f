"""Forest plot of one recipe's published numbers: a panel for each length of training, in it the groups by protocol.

The recipe is asked for by `harness published atlas`, so that this figure belongs to no report.
"""

from collections import defaultdict
from collections.abc import Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.transforms import blended_transform_factory

from harness.papers.atlas import Atlas, Group, Number, Spread, Training
from harness.reporting.drawing.sheet import (
    BOUND,
    KEY_SIZE,
    MOST_PANELS,
    NOTE_COLOUR,
    TEXT_COLOUR,
    Drawing,
    Panel,
    Row,
    drawing,
    lines_of,
)
from harness.reporting.tables.table import count

LINE = 0.19  # inches, of a number or of the name of a protocol
OWN, QUOTED = "printed by those who trained it", "quoted, not counted"
ONLY_QUOTED = "known from a quote alone"
DIFFERS = "quoted otherwise than its origin prints it, not counted"
SECOND_HAND = "second hand"
LONGEST_NAME = 27  # letters
HEADING = 47  # letters in a line of a protocol
LEAST_SPAN = 0.1  # of an axis, in parts of its values: numbers that differ by their rounding alone lie together
BAND = "#e4e4e4"  # from the lowest to the highest number of a protocol
BETTER = defaultdict(lambda: "lower is better", dict.fromkeys(("IS", "Precision", "Recall"), "higher is better"))


def make(atlas: Atlas) -> Drawing:
    """The trainings of an atlas: those that most trained first, then the shortest."""
    trainings = sorted(atlas.trainings, key=lambda training: -training.spread.trainings)
    panels = [_panel(training, atlas.metric) for training in trainings]
    numbers = [number for training in atlas.trainings for number in training.numbers]
    notes = [
        "n: those who trained, each once. %: how far the highest of a protocol lies above the lowest. "
        "A number that several papers print counts once."
    ]
    if atlas.left_out:
        numbers_left = count(atlas.left_out, "number")
        notes.append(f"Not drawn: {numbers_left} of changed settings. `harness published list` has them.")
    if (more := len(panels) - MOST_PANELS) > 0:
        notes.append(f"Not drawn but in the CSV: {count(more, 'more training')}. Choose with --steps.")
    if any(number.quality == SECOND_HAND for number in numbers):
        notes.append("* second hand: known from notes about the paper, not seen in it.")
    if any("not noted" in number.sampler for number in numbers):
        notes.append("Not noted: what was read of the source does not tell. Such numbers may differ in more.")
    title = f"{atlas.metric} of {atlas.title}, as published"
    alternative = f"{count(len(numbers), 'published number')} of {atlas.title} in {count(len(panels), 'panel')}"
    rows = [row for panel in panels for row in panel.rows]
    return drawing(atlas.name, title, alternative, panels[:MOST_PANELS], notes=notes, rows=rows)


def status(number: Number) -> str:
    """How a number is known, in the words of the key and of the CSV."""
    if not number.quote:
        return OWN
    return DIFFERS if number.differs else ONLY_QUOTED if number.counted else QUOTED


def spread_text(spread: Spread) -> str:
    """ "n = 2, 18.1 to 19.47 (7.6%)"; of one training the value alone."""
    if spread.low == spread.high:
        return f"n = {spread.trainings}, {spread.low:g}"
    percent = "" if spread.relative is None else f" ({spread.relative:.1%})"
    return f"n = {spread.trainings}, {spread.low:g} to {spread.high:g}{percent}"


def _panel(training: Training, metric: str) -> Panel:
    lines = sum(len(group.numbers) + len(_wrapped(_heading(group))) for group in training.groups)
    several = len(training.groups) > 1
    notes = [f"Over all protocols: {spread_text(training.spread)}."] if several else []
    return Panel(training.title, list(_rows(training, metric)), _draw, notes, height=LINE * lines + 0.1)


def _heading(group: Group) -> str:
    spread = group.spread
    percent = "" if spread.relative is None else f", {spread.relative:.1%}"
    return f"{group.titled}: n = {spread.trainings}{percent}"


def _wrapped(heading: str) -> list[str]:
    return lines_of(heading.replace(" = ", f"{BOUND}={BOUND}"), HEADING).splitlines()


def _rows(training: Training, metric: str) -> Iterator[Row]:
    for group in training.groups:
        for number in group.numbers:
            yield {
                "training": training.title,
                "protocol": group.protocol,
                "heading": _heading(group),
                "metric": metric,
                "value": number.value,
                "printed": number.text,
                "printed by": number.by,
                "trained by": number.of,
                "status": status(number),
                "guidance": number.guidance,
                "sampler": number.sampler,
                "NFE": number.evaluations,
                "reference": number.reference,
                "quality": number.quality,
                "source": "; ".join(number.sources),
            }


def _draw(frame: pd.DataFrame, axes: Axes) -> None:
    beside = blended_transform_factory(axes.transAxes, axes.transData)  # x across the axes, y as the data
    names: dict[int, str] = {}
    place = 0
    for heading, group in frame.groupby("heading", sort=False):
        for line in _wrapped(str(heading)):
            axes.text(0.01, place, line, transform=beside, size=KEY_SIZE - 0.5, color=NOTE_COLOUR, va="center")
            place += 1
        place -= 1
        counted = group[~group["status"].isin((QUOTED, DIFFERS))]["value"]
        axes.fill_betweenx([place + 0.5, place + len(group) + 0.5], counted.min(), counted.max(), color=BAND)
        for row in group.to_dict("records"):
            place += 1
            names[place] = _name(row)
            _point(axes, place, row)
        place += 1
    axes.set_yticks(list(names), list(names.values()), size=KEY_SIZE)
    axes.tick_params(axis="y", length=0)
    axes.set(ylim=(place - 0.4, -0.6), xlabel=f"{frame['metric'].iloc[0]}, {BETTER[frame['metric'].iloc[0]]}")
    low, high = frame["value"].min(), frame["value"].max()
    middle, half = (low + high) / 2, max(high - low, LEAST_SPAN * high) / 2
    axes.set_xlim(middle - 1.15 * half, middle + 1.5 * half)  # at the right there is room for the values
    axes.grid(axis="y", visible=False)


def _point(axes: Axes, place: int, row: Row) -> None:
    said = str(row["status"])
    face = TEXT_COLOUR if said in (OWN, ONLY_QUOTED) else "white"
    shape = "o" if said in (OWN, QUOTED) else "D"
    axes.plot(
        row["value"],
        place,
        shape,
        color=TEXT_COLOUR,
        markerfacecolor=face,
        markersize=4.5,
        markeredgewidth=1,
        label=said,
    )
    text = f"{row['printed']}{'*' if row['quality'] == SECOND_HAND else ''}"
    axes.annotate(text, (row["value"], place), (5, 0), textcoords="offset points", va="center", size=KEY_SIZE - 0.5)


def _name(row: Row) -> str:
    by = str(row["printed by"])
    return by if len(by) <= LONGEST_NAME else by[: LONGEST_NAME - 1] + "…"
