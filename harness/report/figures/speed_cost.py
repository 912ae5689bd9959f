"""Training speed against arithmetic: images a second against the multiply-accumulates of one image's training step.

On such axes, both logarithmic, code that computes at one rate lies on a falling line, whatever its network. How far a
point lies under the line of the rate that its device reached for a large matrix product is what is left to gain.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import Bbox

from harness.records.evidence import Evidence
from harness.records.looks import REFERENCE, look, order
from harness.records.panels import device_title
from harness.report.drawing.labels import HALO, Anchor, Box, place, renderer_of
from harness.report.drawing.scales import log_ticks, short
from harness.report.drawing.sheet import (
    DASHES,
    NOTE_COLOUR,
    NOTE_SIZE,
    RULE_COLOUR,
    TEXT_COLOUR,
    Block,
    Drawing,
    Key,
    Row,
    compose,
)
from harness.report.figures import timed_steps
from harness.report.figures.timed_steps import ONLINE, PUBLISHED_BATCH, Point, Timed

NAME = "cost"
TITLE = "Training speed against its arithmetic"
SUBHEADING = (
    "Filled: measured on latents or pixels as stored. Half filled: its step encodes images with the VAE. Hollow: "
    "published. Grey lines: equal arithmetic a second."
)
PUBLISHED_DEVICE = "8 x A100"
MAX_PANELS = 4  # of devices; the others are counted
MAX_LABELS = 8  # of one pair of axes
MAX_AXES = 3  # of one panel
APART = 30.0  # points whose arithmetic differs by a larger factor, with none between, have axes of their own
AXES_HEIGHT = 1.9  # inches
SIDE, OVER = 1.15, 1.8  # factors of room beside and over the points
STEPS = (1, 2, 5)
MANY_DECADES = 3.5  # of rates on one pair of axes: then one line a decade
NAME_SHARES = (0.08, 0.2, 0.35, 0.5, 0.65, 0.8)  # of a line's visible part, before its name
LEAST_SPAN = 2.5  # factor between the ends of a side
RADIUS = 9  # pixels around a marker that a line's name keeps off
MARKER, SMALL = 5.5, 3.5  # points of 1/72 inch


@dataclass(frozen=True)
class Panel:
    """Points of one device."""

    title: str
    points: tuple[Point, ...]
    ceilings: Mapping[str, float]  # by precision: 1e9 multiply-accumulates a second of a large matrix product
    notes: tuple[str, ...]


def make(evidence: Evidence) -> Drawing:
    """One panel for each device, then the published speeds of Fig. 3 at the arithmetic counted for their recipes."""
    panels, lost = _measured(evidence)
    reported = _published(evidence)
    shown = [*panels[:MAX_PANELS], *([reported] if reported else [])]
    notes = list(_remarks(panels, lost, reported))
    blocks = [_block(panel) for panel in shown]
    if not blocks:
        blocks = [Block("Nothing timed yet", lambda grid: None, rows=0)]
    rows = [_row(panel, point) for panel in shown for point in panel.points]
    figure = compose(TITLE, blocks, subheading=SUBHEADING, notes=notes)
    told = tuple(dict.fromkeys([*(note for panel in shown for note in panel.notes), *notes]))
    return Drawing(NAME, TITLE, _alternative(shown), figure, rows, told)


def _remarks(panels: Sequence[Panel], lost: Mapping[str, int], reported: Panel | None) -> Iterator[str]:
    if not panels:
        yield "Nothing is timed here: `harness bench` or `harness run` times training steps."
    if len(panels) > MAX_PANELS:
        more = len(panels) - MAX_PANELS
        yield f"{more} more device{'s are' if more > 1 else ' is'} not drawn; name fewer runs to see others."
    for why, count in lost.items():
        yield f"Not drawn: {count} {why}."
    if reported is None:
        yield (
            "The published speeds of SD-DiT Fig. 3 need the arithmetic of size S: "
            "`harness recipes count --out counts.json` counts it, and so does a bench of the S recipes."
        )


# Measured --------------------------------------------------------------------------------------------------------


def _measured(evidence: Evidence) -> tuple[list[Panel], dict[str, int]]:
    """A panel for each machine, GPUs first, and how many things have no place, by the reason."""
    lost: Counter[str] = Counter()
    machines: dict[str, list[tuple[Timed, Point]]] = defaultdict(list)
    for timed in timed_steps.measured(evidence):
        if isinstance(timed.point, Point):
            machines[timed.machine].append((timed, timed.point))
        else:
            lost[timed.point] += 1
    ordered = sorted(
        machines.values(),
        key=lambda members: (members[0][0].device.kind != "cuda", -len(members), members[0][0].machine),
    )
    return [_of_machine(evidence, members) for members in ordered], dict(sorted(lost.items()))


def _of_machine(evidence: Evidence, members: Sequence[tuple[Timed, Point]]) -> Panel:
    first = members[0][0]
    ceilings = timed_steps.ceilings(evidence.benches, first.machine)
    title = device_title(first.device) + (f", {first.processes} processes" if first.processes > 1 else "")
    points = sorted((point for _, point in members), key=lambda point: (order(point.method), point.source, point.name))
    return Panel(title, tuple(points), ceilings, tuple(_notes(points, ceilings)))


def _notes(points: Sequence[Point], ceilings: Mapping[str, float]) -> Iterator[str]:
    runs = [point for point in points if point.source == "run"]
    if runs:
        counts = sorted({point.n for point in runs if point.n})
        n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
        more = "; mean and one standard deviation of runs equal but for seed and steps"
        yield f"Runs: {n} a point{', so no spread is known' if counts == [1] else more}."
    benches = [point for point in points if point.source == "bench"]
    if benches:
        yield "Benches: median of their windows; whiskers the lowest and the highest."
    if any(not point.usual for point in points):
        yield "Small: a knob that the papers vary (mask ratio, L_D, teacher noise) is not at its usual value."
    if ceilings:
        told = ", ".join(f"{name} {_rate(rate)}" for name, rate in sorted(ceilings.items()))
        yield f"Dashed: what a large matrix product reached there ({told})."
    else:
        yield "No ceiling is known for this device: `harness bench` measures it."


# Published -------------------------------------------------------------------------------------------------------


def _published(evidence: Evidence) -> Panel | None:
    """SD-DiT Fig. 3's speeds at the arithmetic counted here; None where none is."""
    points, uncounted, missing = timed_steps.figure3(evidence)
    if not points:
        return None
    notes = [
        f"Steps/s of SD-DiT Fig. 3 times {PUBLISHED_BATCH}, at the arithmetic counted for this harness's recipes of "
        "size S on latents. Whether they were timed on latents or on images is not stated.",
        *_against_reference(points),
        *(f"Not placed, as its arithmetic is not counted here: {model}." for model in uncounted),
        *(f"Not shown: {point.model}: {point.reason}." for point in missing),
    ]
    return Panel(f"Published: {PUBLISHED_DEVICE}, size S/2", tuple(points), {}, tuple(notes))


def _against_reference(points: Sequence[Point]) -> Iterator[str]:
    """How the rates that follow from the published speeds compare with DiT's."""
    rates = {point.method: point for point in points}
    reference = rates.pop(REFERENCE, None)
    if reference is None:
        return
    for method, point in rates.items():
        ratio = reference.rate / point.rate
        expected = point.rate / reference.gmacs / PUBLISHED_BATCH
        told = reference.images_per_sec / PUBLISHED_BATCH
        titles = look(REFERENCE).title, look(method).title
        yield (
            f"As published, {titles[0]} does {ratio:.2f} times the arithmetic a second of {titles[1]}: at "
            f"{titles[1]}'s rate {titles[0]} would train at {expected:.3g} steps/s; {told:.3g} are published."
        )


# Drawing ---------------------------------------------------------------------------------------------------------


def _block(panel: Panel) -> Block:
    groups = _near(panel.points)
    titles = {point.method: point.title for point in reversed(panel.points)}
    filled = panel.points[0].source != "published"
    keys = tuple(Key(titles[m], look(m).colour, look(m).marker, filled=filled) for m in sorted(titles, key=order))
    notes = list(panel.notes)
    if len(groups) > MAX_AXES:
        notes.append(f"{sum(map(len, groups[MAX_AXES:]))} points of larger arithmetic are in the CSV alone.")
    groups = groups[:MAX_AXES]
    draw_it = partial(_draw, groups=groups, ceilings=panel.ceilings)
    return Block(panel.title, draw_it, tuple(notes), keys, rows=len(groups), axes_height=AXES_HEIGHT)


def _near(points: Sequence[Point]) -> list[list[Point]]:
    """The points by their arithmetic, in groups that fit on one pair of axes."""
    groups: list[list[Point]] = []
    for point in sorted(points, key=lambda point: point.gmacs):
        if groups and point.gmacs <= APART * groups[-1][-1].gmacs:
            groups[-1].append(point)
        else:
            groups.append([point])
    return groups


def _draw(grid: Sequence[Axes], *, groups: Sequence[Sequence[Point]], ceilings: Mapping[str, float]) -> None:
    for axes, points in zip(grid, groups, strict=True):
        _scale(axes, "x", [point.gmacs for point in points], 1.0)
        ends = [end for point in points for end in (point.images_per_sec, point.low, point.high) if end is not None]
        _scale(axes, "y", ends, OVER)
        axes.set_ylabel("Images/s (higher is better)")
        ways = {point: _describe(point, points) for point in points if point.usual}
        alike = len(set(ways.values())) == 1  # then no label belongs to one point
        spots = _spots(axes, points) + ([_corner(axes, next(iter(ways.values())))] if alike else [])
        names = _lines(axes, ceilings, spots)
        for point in points:
            _mark(axes, point)
        if not alike:
            _label(axes, points, ways, names)
    grid[-1].set_xlabel("GMAC per image and step")


def _scale(axes: Axes, side: Literal["x", "y"], values: Sequence[float], over: float) -> None:
    """A logarithmic side with room around the values, `over` times as much above them."""
    low, high = min(values) / SIDE, max(values) * SIDE * over
    stretch = max(1.0, math.sqrt(LEAST_SPAN * low / high))
    low, high = low / stretch, high * stretch
    axes.set(**{f"{side}scale": "log", f"{side}lim": (low, high)})
    axis = axes.xaxis if side == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator(log_ticks(low, high, most=4)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axis.set_minor_locator(NullLocator())


def _spots(axes: Axes, points: Sequence[Point]) -> list[Bbox]:
    """Where the markers are, in pixels."""
    centres = [axes.transData.transform((point.gmacs, point.images_per_sec)) for point in points]
    return [Bbox.from_extents(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS) for x, y in centres]


def _mark(axes: Axes, point: Point) -> None:
    style = look(point.method)
    if point.low is not None and point.high is not None:
        ends = [[point.images_per_sec - point.low], [point.high - point.images_per_sec]]
        axes.errorbar(point.gmacs, point.images_per_sec, ends, fmt="none", ecolor=style.colour, elinewidth=1, zorder=2)
    axes.plot(
        [point.gmacs],
        [point.images_per_sec],
        linestyle="none",
        marker=style.marker,
        markersize=MARKER if point.usual else SMALL,
        markeredgewidth=1,
        color=style.colour,
        markerfacecolor="white" if point.source == "published" else style.colour,
        markerfacecoloralt="white",
        fillstyle="left" if point.pipeline == ONLINE else "full",
        zorder=3,
        gid=f"{point.source}/{point.name}",
    )


def _lines(axes: Axes, ceilings: Mapping[str, float], spots: Sequence[Bbox]) -> list[Bbox]:
    """Lines of equal arithmetic a second, and the device's ceilings; returns the boxes of their names."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    lowest, highest = left * bottom, right * top
    subs = STEPS if math.log10(highest / lowest) < MANY_DECADES else (1,)
    decades = range(math.floor(math.log10(lowest)), math.ceil(math.log10(highest)) + 1)
    names: list[Bbox] = []
    for precision, rate in sorted(ceilings.items()):
        axes.plot(
            (left, right), (rate / left, rate / right), color=TEXT_COLOUR, linewidth=1, linestyle=DASHES, zorder=1
        )
        names += _name(axes, rate, f"{precision} ceiling", TEXT_COLOUR, [*spots, *names])
    for rate in (sub * 10.0**decade for decade in decades for sub in subs):
        axes.plot((left, right), (rate / left, rate / right), color=RULE_COLOUR, linewidth=0.6, zorder=1)
        names += _name(axes, rate, _rate(rate), NOTE_COLOUR, [*spots, *names])
    axes.set(xlim=(left, right), ylim=(bottom, top))
    return names


def _name(axes: Axes, rate: float, text: str, colour: str, blocked: Sequence[Bbox]) -> list[Bbox]:
    """Write a line's name along it, at the first of some places where it is whole and free; nothing where none is."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    begins, ends = max(left, rate / top), min(right, rate / bottom)
    if begins >= ends:
        return []
    window, renderer = axes.get_window_extent(), renderer_of(axes)
    angle = math.degrees(math.atan2(-window.height / math.log(top / bottom), window.width / math.log(right / left)))
    how: dict[str, Any] = {
        "size": NOTE_SIZE - 1,
        "color": colour,
        "rotation": angle,
        "rotation_mode": "anchor",
        "va": "bottom",
    }
    for share in NAME_SHARES:
        x = begins * (ends / begins) ** share
        written = axes.text(x, rate / x, text, ha="left", path_effects=[HALO], zorder=1.5, **how)
        box = written.get_window_extent(renderer)
        inside = window.x0 <= box.x0 and box.x1 <= window.x1 and window.y0 <= box.y0 and box.y1 <= window.y1
        if inside and not any(box.overlaps(other) for other in blocked):
            return [box]
        written.remove()
    return []


def _corner(axes: Axes, way: tuple[str, ...]) -> Bbox:
    """Write what all points are in a corner; returns where that is."""
    told = ", ".join(part for part in ("size " + way[0], *way[1:]) if part)
    written = axes.text(0.99, 0.98, told, transform=axes.transAxes, ha="right", va="top", path_effects=[HALO], zorder=4)
    return written.get_window_extent(renderer_of(axes))


def _label(axes: Axes, points: Sequence[Point], ways: Mapping[Point, tuple[str, ...]], names: Sequence[Bbox]) -> None:
    """One label for the points of each size and way of training, beside the fastest of them."""
    groups: dict[tuple[str, ...], list[Point]] = defaultdict(list)
    for point, way in ways.items():
        groups[way].append(point)
    if len(groups) > MAX_LABELS:  # name the sizes alone
        groups = defaultdict(list)
        for point in ways:
            groups[(point.size,)].append(point)
    anchors = []
    for way, members in sorted(groups.items())[:MAX_LABELS]:
        fastest = max(members, key=lambda point: (point.images_per_sec, point.name))
        text = ", ".join(part for part in way if part)
        anchors.append(Anchor(fastest.gmacs, fastest.images_per_sec, text, TEXT_COLOUR))
    taken = {(anchor.x, anchor.y) for anchor in anchors}
    others = _spots(axes, [point for point in points if (point.gmacs, point.images_per_sec) not in taken])
    blocked = [Box(*box.extents) for box in others]
    renderer = renderer_of(axes)
    place(axes, renderer, anchors=anchors, blocked=blocked, lines=[Box(*box.extents) for box in names])


def _describe(point: Point, points: Sequence[Point]) -> tuple[str, ...]:
    """Its size, whether it encodes, and what else is not the same in all points of that size."""
    alike = [other for other in points if (other.size, other.pipeline) == (point.size, point.pipeline)]

    def differs(name: str) -> bool:
        return len({getattr(other, name) for other in alike}) > 1

    return (
        point.size.upper() if len(point.size) <= 2 else point.size,
        "with VAE" if point.pipeline == ONLINE else "",
        f"batch {point.batch_size}" if differs("batch_size") else "",
        point.precision if differs("precision") else "",
        ("compiled" if point.compiled else "eager") if differs("compiled") else "",
    )


# Words -----------------------------------------------------------------------------------------------------------


def _row(panel: Panel, point: Point) -> Row:
    return {
        "panel": panel.title,
        "source": point.source,
        "name": point.name,
        "method": point.method,
        "title": point.title,
        "size": point.size,
        "batch_size": point.batch_size,
        "pipeline": point.pipeline,
        "precision": point.precision,
        "compiled": point.compiled,
        "usual_knobs": point.usual,
        "gmacs_per_image": point.gmacs,
        "of_these_vae": point.gmacs_vae,
        "images_per_sec": point.images_per_sec,
        "low": point.low,
        "high": point.high,
        "n": point.n,
        "gmacs_per_sec": point.rate,
        "ceiling_gmacs_per_sec": panel.ceilings.get(point.precision),
    }


def _alternative(panels: Sequence[Panel]) -> str:
    titles = "; ".join(panel.title for panel in panels)
    return f"Images a second against arithmetic per image, both logarithmic: {titles or 'nothing timed yet'}"


def _rate(gmacs: float) -> str:
    return f"{gmacs / 1000:.3g} TMAC/s" if gmacs >= 1000 else f"{gmacs:.3g} GMAC/s"
