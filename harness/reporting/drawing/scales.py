"""Axes with few, plain ticks: numbers as people write them, on logarithmic axes too, and times in a fitting unit."""

import math
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

MOST_TICKS = 5
WIDE = 4.0  # values that span a larger factor are drawn on a logarithmic axis
MULTIPLES = (
    (1, 3),
    (1, 2, 5),
    (1, 2, 3, 5, 7),
    (1, 1.5, 2, 3, 4, 5, 6, 7, 8),
)  # times powers of ten
THOUSANDS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
TIMES = (("hours", 1.0), ("minutes", 60.0), ("seconds", 3600.0))  # names, and how many an hour has


def short(value: float) -> str:
    """400000 as "400k", 2400000 as "2.4M", 0.002 as "0.002"."""
    for size, letter in THOUSANDS:
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def unit_of_time(longest_hours: float) -> tuple[str, float]:
    """The largest unit of which `longest_hours` are at least two, and how many of it make an hour."""
    return next(((name, per_hour) for name, per_hour in TIMES if longest_hours * per_hour >= 2), TIMES[-1])


def fit(
    axes: Axes,
    side: Literal["x", "y"],
    values: Sequence[float],
    spreads: Iterable[float | None] = (),
    *,
    log: bool | None = None,
    most: int = MOST_TICKS,
    room: float = 0.1,
) -> None:
    """Scale one side of the axes to `values` and their `spreads`; logarithmic by itself where they span a lot.

    A spread that reaches to zero or below does not stretch a logarithmic axis: the bar runs out of the axes there.
    """
    if log is None:
        log = min(values) > 0 and max(values) / min(values) > WIDE
    reaches = [(value, sd or 0) for value, sd in zip_longest(values, spreads)]
    axis = axes.xaxis if side == "x" else axes.yaxis
    high = max(value + reach for value, reach in reaches)
    low = min(value - reach for value, reach in reaches)
    if log:
        low = max(low, min(values) / 2)
        factor = max(high / low, 1.1) ** room
        ends = (low / factor, high * factor)
        (axes.set_xscale if side == "x" else axes.set_yscale)("log")
        axis.set_major_locator(FixedLocator(log_ticks(*ends, most=most)))
        axis.set_minor_locator(NullLocator())
    else:
        margin = room * (high - low) if high > low else room * (abs(high) or 1)
        ends = (max(0.0, low - margin) if low >= 0 else low - margin, high + margin)
        axis.set_major_locator(MaxNLocator(most + 1, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    (axes.set_xlim if side == "x" else axes.set_ylim)(*ends)


def log_ticks(low: float, high: float, *, most: int = MOST_TICKS) -> list[float]:
    """Round numbers between the ends: as many as there can be up to `most`, and at least two where they lie close."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    choices = [[10.0**power for power in powers[start::every]] for every in (3, 2, 1) for start in range(every)]
    choices += [[m * 10.0**power for power in powers for m in multiples] for multiples in MULTIPLES]
    best: list[float] = []
    for choice in choices:
        ticks = [tick for tick in choice if low <= tick <= high]
        if len(best) < len(ticks) <= most:
            best = ticks
    if len(best) < 2:
        best = [tick for tick in MaxNLocator(most - 1).tick_values(low, high) if low <= tick <= high]
    return best
