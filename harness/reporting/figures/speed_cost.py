"""Training speed against arithmetic: images a second against the multiply-accumulates of one image's training step.

On such axes, both logarithmic, code that computes at one rate lies on a falling line, whatever its network. How far a
point lies under the line of the rate that its device reached for a large matrix product is what is left to gain.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from harness.records.bench_record import Bench
from harness.records.evidence import Evidence
from harness.records.looks import REFERENCE, device_title, look, order
from harness.records.schema import Device
from harness.reporting.drawing.scales import fit, log_ticks, short
from harness.reporting.drawing.sheet import DASHES, NOTE_SIZE, RULE_COLOUR, TEXT_COLOUR, Drawing, Panel, Row, drawing
from harness.reporting.figures import timed_steps
from harness.reporting.figures.measured import marks
from harness.reporting.figures.timed_steps import ONLINE, PUBLISHED_BATCH

NAME = "cost"
TITLE = "Training speed against its arithmetic"
SUBHEADING = (
    "Filled: measured on latents or pixels as stored. Half filled: its step encodes images with the VAE. Hollow: "
    "published. Grey lines: equal arithmetic a second, as the right-hand scale says where they end."
)
PUBLISHED_DEVICE = "8 x A100"
MAX_LABELS = 8  # more labels in one panel would hide the points
MANY, TALL = 12, 3.0  # a panel with more points than that is so many inches high
WIDE, ROOM = 1.5, 1.15  # factors between the ends of the points and those of the x-axis and the y-axis
MARKER, SMALL = 5.5, 3.5  # points of 1/72 inch


def make(evidence: Evidence) -> Drawing:
    """The published speeds of Fig. 3 at the arithmetic counted for their recipes, then one panel for each device."""
    measured, lost = _measured(evidence)
    reported = _published(evidence)
    panels = [*([reported] if reported else []), *measured]
    notes = [*([SUBHEADING] if panels else []), *_remarks(measured, lost, reported)]
    titles = "; ".join(panel.title for panel in panels)
    alternative = f"Images a second against arithmetic per image, both logarithmic: {titles}"
    return drawing(NAME, TITLE, alternative, panels, notes=notes)


def _remarks(panels: Sequence[Panel], lost: Mapping[str, int], reported: Panel | None) -> Iterator[str]:
    if not panels:
        yield "Nothing is timed here: `harness bench` or `harness run` times training steps."
    for why, count in lost.items():
        yield f"Not drawn: {count} {why}."
    if reported is None:
        yield (
            "The published speeds of SD-DiT Fig. 3 need the arithmetic of size S: "
            "`harness recipes count --out counts.json` counts it, and so does a bench of the S recipes."
        )


def _panel(title: str, rows: Sequence[Mapping[str, Any]], ceilings: Mapping[str, float], notes: Sequence[str]) -> Panel:
    rows = [
        {
            "panel": title,
            **row,
            "gmacs_per_sec": _rate_of(row),
            "ceiling_gmacs_per_sec": ceilings.get(row["precision"]),
        }
        for row in rows
    ]
    return Panel(title, rows, _draw, notes, height=TALL if len(rows) > MANY else Panel.height)


# Measured --------------------------------------------------------------------------------------------------------


def _measured(evidence: Evidence) -> tuple[list[Panel], dict[str, int]]:
    """A panel for each machine and size, GPUs first, and how many things have no place, by the reason.

    The arithmetic of two sizes is so far apart that the points of one would lie on each other.
    """
    lost: Counter[str] = Counter()
    panels: dict[tuple[str, str], list[Row]] = defaultdict(list)
    machines: dict[str, tuple[Device, int]] = {}
    for device, processes, row in timed_steps.measured(evidence):
        if isinstance(row, str):
            lost[row] += 1
        else:
            machine = timed_steps.machine(device, processes)
            machines[machine] = device, processes
            panels[machine, row["size"]].append(row)
    ordered = sorted(panels.items(), key=lambda item: (machines[item[0][0]][0].kind != "cuda", -len(item[1]), item[0]))
    made = [_of_machine(evidence.benches, name, *machines[name], rows) for (name, _), rows in ordered]
    return made, dict(sorted(lost.items()))


def _of_machine(benches: Iterable[Bench], machine: str, device: Device, processes: int, rows: list[Row]) -> Panel:
    ceilings = timed_steps.ceilings(benches, machine)
    also = f", {processes} processes" if processes > 1 else ""
    rows.sort(key=lambda row: (order(row["method"]), row["source"], row["name"]))
    title = f"{device_title(device)}{also}, size {rows[0]['size']}"
    return _panel(title, rows, ceilings, list(_notes(rows, ceilings)))


def _notes(rows: Sequence[Row], ceilings: Mapping[str, float]) -> Iterator[str]:
    counts = sorted({row["n"] for row in rows if row["source"] == "run"})
    if counts:
        n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
        more = "; mean and one standard deviation of runs equal but for seed and steps"
        yield f"Runs: {n} a point{', so no spread is known' if counts == [1] else more}."
    if any(row["source"] == "bench" for row in rows):
        yield "Benches: median of their windows; whiskers the lowest and the highest."
    if not all(row["usual_knobs"] for row in rows):
        yield "Small: a knob that the papers vary (mask ratio, L_D, teacher noise) is not at its usual value."
    if ceilings:
        rates = ", ".join(f"{name} {_rate(rate)}" for name, rate in sorted(ceilings.items()))
        yield f"Dashed: what a large matrix product reached there ({rates})."
    else:
        yield "No ceiling is known for this device: `harness bench` measures it."


# Published -------------------------------------------------------------------------------------------------------


def _published(evidence: Evidence) -> Panel | None:
    """SD-DiT Fig. 3's speeds at the arithmetic counted here; None where none is."""
    rows, uncounted, missing = timed_steps.figure3(evidence)
    if not rows:
        return None
    notes = [
        f"Steps/s of SD-DiT Fig. 3 times {PUBLISHED_BATCH}, at the arithmetic counted for this harness's recipes of "
        "size S on latents. Whether they were timed on latents or on images is not stated.",
        *_against_reference(rows),
        *(f"Not placed, as its arithmetic is not counted here: {model}." for model in uncounted),
        *(f"Not shown: {point['model']}: {point['reason']}." for point in missing),
    ]
    return _panel(f"Published: {PUBLISHED_DEVICE}, size S/2", rows, {}, notes)


def _against_reference(rows: Sequence[Row]) -> Iterator[str]:
    """How the rates that follow from the published speeds compare with DiT's."""
    by_method = {row["method"]: row for row in rows}
    reference = by_method.pop(REFERENCE, None)
    if reference is None:
        return
    for method, row in by_method.items():
        ratio = _rate_of(reference) / _rate_of(row)
        expected = _rate_of(row) / reference["gmacs_per_image"] / PUBLISHED_BATCH
        printed = reference["images_per_sec"] / PUBLISHED_BATCH
        titles = look(REFERENCE).title, look(method).title
        yield (
            f"As published, {titles[0]} does {ratio:.2f} times the arithmetic a second of {titles[1]}: at "
            f"{titles[1]}'s rate {titles[0]} would train at {expected:.3g} steps/s; {printed:.3g} are published."
        )


# Drawing ---------------------------------------------------------------------------------------------------------


def _draw(frame: pd.DataFrame, axes: Axes) -> None:
    gmacs, speeds = frame["gmacs_per_image"], frame[["images_per_sec", "low", "high"]].stack().dropna()
    fit(axes, "x", [gmacs.min() / WIDE, gmacs.max() * WIDE], log=True, most=4)
    fit(axes, "y", [speeds.min() / ROOM, speeds.max() * ROOM], log=True, most=4)
    axes.set(xlabel="GMAC per image and step", ylabel="Images/s (higher is better)")
    _lines(axes, frame)
    for row in frame.sort_values("usual_knobs", ascending=False, kind="stable").itertuples():
        _mark(axes, row)
    _label(axes, frame[frame["usual_knobs"].astype(bool)])


def _mark(axes: Axes, row: Any) -> None:
    x, y, colour = row.gmacs_per_image, row.images_per_sec, look(row.method).colour
    if row.low is not None:
        width, cap = (1, None) if row.usual_knobs else (0.6, 0)  # a small point has a thin whisker
        whiskers = [[y - row.low], [row.high - y]]
        axes.errorbar(x, y, whiskers, fmt="none", ecolor=colour, elinewidth=width, capsize=cap, zorder=2)
    size, filled = MARKER if row.usual_knobs else SMALL, "left" if row.pipeline == ONLINE else "full"
    form = {"markersize": size, "markeredgewidth": 1, "fillstyle": filled, "markerfacecoloralt": "white"}
    named = {"label": row.title, "gid": f"{row.source}/{row.name}"}
    hollow = row.source == "published"
    marks(axes, [x], [y], row.method, hollow=hollow, linestyle="none", clip_on=True, zorder=3, **form, **named)


def _lines(axes: Axes, points: pd.DataFrame) -> None:
    """Lines of equal arithmetic a second, with a scale of their rates on the right, and the device's ceilings."""
    ends, (bottom, top) = np.array(axes.get_xlim()), axes.get_ylim()
    right = ends[1]
    rates = axes.secondary_yaxis("right", functions=(lambda y: y * right, lambda rate: rate / right))
    ticks = log_ticks(bottom * right, top * right)
    rates.yaxis.set_major_locator(FixedLocator(ticks))
    rates.yaxis.set_minor_locator(NullLocator())
    rates.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: short(rate)))
    rates.set_ylabel("GMAC/s on the grey line")
    rates.grid(visible=False, which="both")
    for rate in ticks:
        axes.plot(ends, rate / ends, color=RULE_COLOUR, linewidth=0.6, zorder=1)
    ceilings = points[["precision", "ceiling_gmacs_per_sec"]].dropna().drop_duplicates()
    for precision, rate in sorted(ceilings.itertuples(index=False)):
        label = f"{precision} ceiling"
        axes.plot(ends, rate / ends, color=TEXT_COLOUR, linewidth=1, linestyle=DASHES, zorder=1, label=label)
    axes.set(xlim=tuple(ends), ylim=(bottom, top))


def _label(axes: Axes, points: pd.DataFrame) -> None:
    """Beside the fastest point of each way of training, how that way differs from the panel's others."""
    words: dict[str, Callable[[Any], str]] = {
        "pipeline": lambda pipeline: "with VAE" if pipeline == ONLINE else "",
        "batch_size": lambda batch: f"batch {batch}",
        "precision": str,
        "compiled": lambda compiled: "compiled" if compiled else "eager",
    }
    differing = [name for name in words if points[name].nunique() > 1]
    if not differing:
        return
    fastest = [
        (way, max(members.itertuples(), key=lambda row: (row.images_per_sec, row.name)))
        for way, members in list(points.groupby(differing))[:MAX_LABELS]
    ]
    # The leftmost label, and those in the right half, lie left of their points: none covers a neighbour or the right
    # scale.
    middle = math.prod(axes.get_xlim()) ** 0.5
    for number, (way, row) in enumerate(sorted(fastest, key=lambda found: found[1].gmacs_per_image)):
        left = number == 0 or row.gmacs_per_image > middle
        axes.annotate(
            ", ".join(filter(None, (words[name](value) for name, value in zip(differing, way, strict=True)))),
            (row.gmacs_per_image, row.images_per_sec),
            (-6 if left else 6, 3),
            textcoords="offset points",
            ha="right" if left else "left",
            size=NOTE_SIZE,
            color=TEXT_COLOUR,
            path_effects=[withStroke(linewidth=2, foreground="white")],
            zorder=4,
        )


def _rate_of(row: Row) -> float:
    """1e9 multiply-accumulates a second."""
    return row["gmacs_per_image"] * row["images_per_sec"]


def _rate(gmacs: float) -> str:
    return f"{gmacs / 1000:.3g} TMAC/s" if gmacs >= 1000 else f"{gmacs:.3g} GMAC/s"
