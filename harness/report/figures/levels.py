"""Points with their spread along an axis, and results without a place on it as horizontal lines: Fig. 5 and 6."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from matplotlib.axes import Axes

from harness.records.looks import look
from harness.report.drawing.sheet import DASHES, TEXT_COLOUR, Block, Drawing, Key, Row, compose
from harness.report.figures.figure3 import Spread
from harness.report.figures.measured import Measured, kinds

SUBHEADING = "Lower is better. Hollow: published. Filled: measured. A ring marks the lowest point."
DOTS = (0, (1, 1.5))
MEASURED = ("measured", "measured", None)  # source, quality, protocol: those of a setting are in its title


@dataclass(frozen=True)
class Points:
    """One method's results along the axis."""

    method: str
    label: str
    xs: tuple[float, ...]
    spreads: tuple[Spread, ...]
    measured: tuple[Measured, ...] = ()  # behind each; none: published
    sources: tuple[str, ...] = ()
    qualities: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    joined: bool = True

    @property
    def lowest(self) -> int | None:
        """The place of the lowest mean over the seeds that all points have; None where they have none in common."""
        values = [{trial.seed: trial.distance for trial in behind.trials} for behind in self.measured]
        if not values:
            return min(range(len(self.xs)), key=lambda i: self.spreads[i].mean)
        shared = set.intersection(*map(set, values))
        if not shared:
            return None
        return min(range(len(self.xs)), key=lambda i: sum(values[i][seed] for seed in shared))

    def rows(self) -> Iterator[dict[str, Any]]:
        for i, (x, spread) in enumerate(zip(self.xs, self.spreads, strict=True)):
            behind = self.measured[i] if self.measured else None
            told = (self.sources[i], self.qualities[i], self.protocols[i]) if self.sources else MEASURED
            yield {"x": x, **_row(self.method, self.label, spread, behind, told), "lowest": i == self.lowest}


@dataclass(frozen=True)
class Level:
    """A result that no place on the axis belongs to."""

    method: str
    label: str
    spread: Spread
    measured: Measured | None = None
    source: str = "measured"
    quality: str = "measured"
    protocol: str | None = None
    line: tuple = DASHES

    def row(self) -> dict[str, Any]:
        told = (self.source, self.quality, self.protocol)
        return {**_row(self.method, self.label, self.spread, self.measured, told), "lowest": None}


@dataclass(frozen=True)
class Panel:
    """One pair of axes: the points, the lines beside them, and what there is to say."""

    name: str
    title: str
    metric: str
    points: Points
    levels: tuple[Level, ...]
    notes: tuple[str, ...]


P = TypeVar("P", bound=Panel)


def drawing(
    panels: Sequence[P],
    draw: Callable[..., None],  # draw(axes, panel=...)
    rows_of: Callable[[P], Iterable[Row]],
    notes: Sequence[str],
    *,
    name: str,
    title: str,
    alternative: str,
    keys: tuple[Key, ...] = (),
) -> Drawing:
    """The panels one below another, each with its key, of which `keys` are the last; `notes` are of all of them."""
    blocks = [
        Block(
            f"({letter}) {panel.title}",
            partial(draw, panel=panel),
            panel.notes,
            (point_key(panel.points), *(level_key(level) for level in panel.levels), *keys),
        )
        for letter, panel in zip("abcdefgh", panels, strict=False)
    ]
    told = tuple(dict.fromkeys([*(note for panel in panels for note in panel.notes), *notes]))
    rows = [row for panel in panels for row in rows_of(panel)]
    figure = compose(title, blocks, subheading=SUBHEADING, notes=notes)
    return Drawing(name, title, alternative + kinds(rows), figure, rows, told)


def _row(
    method: str, label: str, spread: Spread, behind: Measured | None, told: tuple[str, str, str | None]
) -> dict[str, Any]:
    return {
        "kind": "measured" if behind else "published",
        "method": method,
        "label": label,
        "value": spread.mean,
        "value_sd": spread.sd,
        "n": spread.n if behind else None,
        "seeds": behind.seeds if behind else None,
        "runs": behind.runs if behind else None,
        "source": told[0],
        "quality": told[1],
        "protocol": told[2],
    }


def point_key(points: Points) -> Key:
    style = look(points.method)
    return Key(points.label, style.colour, style.marker, bool(points.measured), "-" if points.joined else None)


def level_key(level: Level) -> Key:
    return Key(f"{level.label}: {level.spread.mean:.4g}", look(level.method).colour, line=level.line)


def draw_points(axes: Axes, points: Points, panel: str, *, ring: bool = False) -> None:
    """The points with error bars where there are several seeds, joined only where all were measured alike."""
    style = look(points.method)
    ys = [spread.mean for spread in points.spreads]
    for x, spread in zip(points.xs, points.spreads, strict=True):
        if spread.sd is not None:
            axes.errorbar(x, spread.mean, spread.sd, fmt="none", ecolor=style.colour, elinewidth=1, zorder=3)
    axes.plot(
        points.xs,
        ys,
        color=style.colour,
        linestyle="-" if points.joined else "none",
        linewidth=1,
        marker=style.marker,
        markersize=5.5,
        markeredgewidth=1.2,
        markerfacecolor=style.colour if points.measured else "white",
        gid=f"{panel}/{points.label}",
        clip_on=False,
        zorder=4,
    )
    best = points.lowest
    if ring and best is not None:
        axes.plot(
            [points.xs[best]],
            [ys[best]],
            linestyle="none",
            marker="o",
            markersize=11,
            markerfacecolor="none",
            markeredgecolor=TEXT_COLOUR,
            markeredgewidth=0.8,
            clip_on=False,
            zorder=5,
        )


def draw_levels(axes: Axes, levels: Sequence[Level], panel: str) -> None:
    """Lines across the axes, each with a band of one standard deviation where there are several seeds."""
    for level in levels:
        colour, spread = look(level.method).colour, level.spread
        if spread.sd is not None:
            axes.axhspan(spread.mean - spread.sd, spread.mean + spread.sd, color=colour, alpha=0.12, linewidth=0)
        axes.axhline(
            spread.mean, color=colour, linewidth=1.2, linestyle=level.line, zorder=2, gid=f"{panel}/{level.label}"
        )
