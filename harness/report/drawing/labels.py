"""Places the labels of a scatter plot beside their points, off one another and inside the axes."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Text

DIRECTIONS = (0, 180, 90, 270, 45, 135, 315, 225)  # degrees; the first is preferred where all are free
DISTANCES = (8, 13, 20, 28, 38, 50, 64, 80)  # points of 1/72 inch from marker to label
MARKER_RADIUS = 5.5
TOUCHING = DISTANCES[0]  # farther labels get a line to their point
OUTSIDE = 400.0  # costs of a square pixel outside the axes,
COVERING = 60.0  # of one on another label or marker,
CROSSING = 1.0  # and of one on a line, which the halo makes bearable
CONFUSING = 60.0  # and of a pixel that a label is too near another's marker,
PER_POINT = 8.0  # cost of a step away from the marker, in square pixels per 1/72 inch
CLEARLY_NEARER = 6.0  # points of 1/72 inch by which a label is nearer to its own marker than to any other
ROUNDING = 2.0  # pixels by which a drawn text may lie beside where it was measured
STROKE = 3.0  # pixels to each side of a line that are kept free
PASSES = 3
SHADE = 0.72  # of the marker's colour, for text that is thin
LEADER = "#a0a0a0"
HALO = withStroke(linewidth=2, foreground="white")  # a line behind a label does not strike it through


def figure_of(axes: Axes) -> Figure:
    """The figure that the axes are drawn on."""
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes are made by a figure"
    return figure


def renderer_of(axes: Axes) -> RendererBase:
    """What measures texts: the renderer of the canvas that paints pixels."""
    canvas = figure_of(axes).canvas
    assert isinstance(canvas, FigureCanvasAgg), "figures are made by sheet.figure, on an Agg canvas"
    return canvas.get_renderer()


class Anchor(NamedTuple):
    """A point to be labelled, in data coordinates."""

    x: float
    y: float
    text: str
    colour: str  # its marker's; the text takes a darker shade, so that label and marker are seen to belong together


class Box(NamedTuple):
    """A rectangle in pixels."""

    x0: float
    y0: float
    x1: float
    y1: float


def place(
    axes: Axes,
    renderer: RendererBase,
    *,
    anchors: Sequence[Anchor],
    blocked: Sequence[Box] = (),
    lines: Sequence[Box] = (),
) -> list[Text]:
    """Draw one label per anchor. It keeps off `blocked`, the boxes of other texts, and if it can off `lines`.

    Each label takes the cheapest of the places around its point; then each is moved again, given the others, until the
    passes are over. Nothing is random, so the same points always give the same picture.
    """
    scale = figure_of(axes).dpi / 72
    window = Box(*axes.get_window_extent(renderer).extents)
    centres = [tuple(axes.transData.transform((anchor.x, anchor.y))) for anchor in anchors]
    radius = MARKER_RADIUS * scale
    markers = [Box(x - radius, y - radius, x + radius, y + radius) for x, y in centres]
    sizes = [_size(axes, renderer, anchor) for anchor in anchors]
    chosen: dict[int, tuple[Box, int]] = {}
    for _ in range(PASSES):
        for i, (centre, size) in enumerate(zip(centres, sizes, strict=True)):
            others = [box for j, (box, _) in chosen.items() if j != i]
            obstacles = [*markers, *others, *blocked]
            rivals = [other for other in centres if other != centre]
            options = [(_beside(centre, size, angle, d * scale), d) for d in DISTANCES for angle in DIRECTIONS]
            chosen[i] = min(
                options,
                key=lambda option: (
                    _cost(option[0], option[1], obstacles, lines, window)
                    + CONFUSING * _too_near(option[0], centre, rivals, CLEARLY_NEARER * scale)
                ),
            )
    return [
        _draw(axes, anchor, centre, *chosen[i]) for i, (anchor, centre) in enumerate(zip(anchors, centres, strict=True))
    ]


def along(axes: Axes, xs: Sequence[float], ys: Sequence[float]) -> list[Box]:
    """Small boxes along the lines that join the points, in data coordinates, for labels to keep off."""
    corners = [tuple(axes.transData.transform(point)) for point in zip(xs, ys, strict=True)]
    boxes = []
    for (x0, y0), (x1, y1) in pairwise(corners):
        steps = max(1, round(math.hypot(x1 - x0, y1 - y0) / (2 * STROKE)))
        centres = [(x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps) for i in range(steps + 1)]
        boxes += [Box(x - STROKE, y - STROKE, x + STROKE, y + STROKE) for x, y in centres]
    return boxes


def _size(axes: Axes, renderer: RendererBase, anchor: Anchor) -> tuple[float, float]:
    text = axes.text(0, 0, anchor.text)
    box = text.get_window_extent(renderer)
    text.remove()
    return box.width + ROUNDING, box.height + ROUNDING


def _beside(centre: tuple[float, float], size: tuple[float, float], angle: int, distance: float) -> Box:
    """The box whose nearest edge or corner is `distance` pixels from the centre, in the direction `angle`."""
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x = centre[0] + distance * cos - size[0] * (0.5 - 0.5 * _sign(cos))
    y = centre[1] + distance * sin - size[1] * (0.5 - 0.5 * _sign(sin))
    return Box(x, y, x + size[0], y + size[1])


def _sign(value: float) -> int:
    return 0 if abs(value) < 1e-6 else int(math.copysign(1, value))


def _cost(box: Box, distance: int, obstacles: Sequence[Box], lines: Sequence[Box], window: Box) -> float:
    covered = sum(_overlap(box, other) for other in obstacles)
    crossed = sum(_overlap(box, line) for line in lines)
    outside = (box.x1 - box.x0) * (box.y1 - box.y0) - _overlap(box, window)
    return OUTSIDE * outside + COVERING * covered + CROSSING * crossed + PER_POINT * distance


def _too_near(box: Box, own: tuple[float, float], rivals: Sequence[tuple[float, float]], clearance: float) -> float:
    """Pixels by which the box is not clearly nearer to its own marker than to each of the others, added up."""
    reach = _distance(box, own) + clearance
    return sum(max(0.0, reach - _distance(box, rival)) for rival in rivals)


def _distance(box: Box, point: tuple[float, float]) -> float:
    x, y = point
    return math.hypot(max(box.x0 - x, 0, x - box.x1), max(box.y0 - y, 0, y - box.y1))


def _overlap(a: Box, b: Box) -> float:
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return width * height if width > 0 and height > 0 else 0.0


def _draw(axes: Axes, anchor: Anchor, centre: tuple[float, float], box: Box, distance: int) -> Text:
    to_data = axes.transData.inverted()
    if distance > TOUCHING:
        nearest = (min(max(centre[0], box.x0), box.x1), min(max(centre[1], box.y0), box.y1))
        x, y = zip(*(to_data.transform(end) for end in (centre, nearest)), strict=True)
        axes.plot(x, y, color=LEADER, linewidth=0.6, zorder=1.5)
    x, y = to_data.transform((box.x0, box.y0))
    shade = [SHADE * part for part in to_rgb(anchor.colour)]
    return axes.text(x, y, anchor.text, color=shade, verticalalignment="bottom", path_effects=[HALO], zorder=4)
