"""Draws a bench as bars: PNG, SVG and the CSV behind them. The same record always gives the same bytes."""

import pandas as pd
from matplotlib.axes import Axes

from harness.records.bench_record import Bench, Entry
from harness.records.looks import look
from harness.reporting.drawing.sheet import (
    FOREIGN_COLOUR,
    KEY_SIZE,
    TEXT_COLOUR,
    Drawing,
    Panel,
    Row,
    drawing,
    lines_of,
)

BAR = 0.36  # inches, the height of a bar and the space to the next
NAME = 28  # letters in a line of a contender's name


def make(bench: Bench) -> Drawing:
    """One bar for each contender, in the order of the bench, the floor of its arithmetic and bytes as a line."""
    note = f"Bars: median of {bench.rounds} windows in turns; whiskers: lowest and highest. x: ratio to the first."
    if any(entry.over_floor for entry in bench.entries):
        note += " Line: the fastest that this machine's measured rates allow."
    panel = Panel("", [_row(entry) for entry in bench.entries], _draw, (note,), height=BAR * len(bench.entries))
    title = f"Training steps on {bench.device.name}"
    return drawing("bench", title, "Bars of training steps a second, one for each contender", [panel])


def _row(entry: Entry) -> Row:
    speed, ratio = entry.steps_per_sec, entry.ratio
    return {
        "name": entry.name,
        "method": entry.conditions["method"] if entry.conditions["code"] == "harness" else None,
        "batch_size": entry.num_images,
        "steps_per_sec": speed.median,
        "steps_per_sec_lowest": speed.lowest,
        "steps_per_sec_highest": speed.highest,
        "ratio": ratio.median,
        "ratio_lowest": ratio.lowest,
        "ratio_highest": ratio.highest,
        "floor_steps_per_sec": 1 / entry.floors[0].seconds if entry.floors and entry.floors[0].seconds else None,
        "mfu": entry.mfu,
    }


def _draw(frame: pd.DataFrame, axes: Axes) -> None:
    for place, row in enumerate(frame.itertuples()):
        speed = row.steps_per_sec
        spread = [[speed - row.steps_per_sec_lowest], [row.steps_per_sec_highest - speed]]
        axes.barh(
            place,
            speed,
            height=0.6,
            color=look(row.method).colour if row.method else FOREIGN_COLOUR,
            xerr=spread,
            error_kw={"ecolor": TEXT_COLOUR, "elinewidth": 0.8},
            gid=row.name,
        )
        if row.floor_steps_per_sec:
            ends = [row.floor_steps_per_sec] * 2
            axes.plot(ends, [place - 0.4, place + 0.4], color=TEXT_COLOUR, linewidth=1.2)
    names = [
        lines_of(f"{row.name}: {row.steps_per_sec:.3g}{f', x {row.ratio:.2f}' if row.Index else ''}", NAME)
        for row in frame.itertuples()
    ]
    axes.set_yticks(range(len(frame)), names, size=KEY_SIZE)
    axes.tick_params(axis="y", length=0)
    axes.set(ylim=(len(frame) - 0.4, -0.6), xlabel="Training speed, steps/s (higher is better)")
    axes.grid(axis="y", visible=False)
