"""SD-DiT Fig. 7: the same classes and the same noise drawn by each method, class by class, the distance beneath.

A run's samples/grid.png is written by its final evaluation: a row of images for each of its first classes. The picture
is not trusted: it must have the size that the evaluation's labels give it before it is decoded.
"""

import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from PIL import Image

from harness.model.seeds import labels
from harness.records.evidence import Evidence
from harness.records.looks import look, measured_title, order
from harness.records.panels import FINAL
from harness.records.trials import Setting, Trial, metric_title
from harness.report.drawing.labels import SHADE, figure_of
from harness.report.drawing.sheet import EDGE, LINE, NOTE_COLOUR, NOTE_SIZE, RIGHT, WIDTH, Block, Drawing, Row, compose
from harness.report.figures import measured as shared
from harness.system.errors import DataError

NAME = "figure7"
TITLE = "SD-DiT Fig. 7: generated samples, class by class"
SUBHEADING = (
    "A row is a class. The same place shows the same image number in each method: the same label and noise seed."
)

# How harness.evaluation.images.uint8 lays the grid out, and which images harness.evaluation.evaluate gives it.
GRID_SIDE = 10  # classes, and images of each, at most
GRID_IMAGES = 1000  # the first images drawn, among which the classes are sought
LINE_SHARE = 16  # a line of side / 16 pixels, at least one, ends every image
SMALLEST_SIDE = 512  # pixels: tiny pictures are enlarged by a whole factor until their longer side has as many
VAE_FACTORS = (8, 4, 16, 2)  # pixels to a latent's side; which one is seen from the picture's size

MAX_PIXELS = 2**25  # of one grid; the largest that is written, of 512 x 512 images, has 5440 x 5440
MAX_BYTES = 2**27
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
_IHDR = struct.Struct(">8s4x4sII")  # PNG signature, name of the first chunk, width, height

MAX_SETTINGS = 3  # drawn; the others are counted
MAX_METHODS = 8
CELL, LARGEST_CELL = 0.26, 0.4  # inches of a drawn image
FINEST = 64  # pixels of a drawn image's side: larger ones are reduced by a whole factor, or the SVG grows to megabytes
LEFT = 0.36
BETWEEN_METHODS, BETWEEN_IMAGES = 0.09, 0.02  # inches
ABOVE, BENEATH = 0.17, 0.28  # inches, for the headings and for the distances


@dataclass(frozen=True)
class Column:
    """One method's share of a picture: a run and its images."""

    trial: Trial
    title: str
    classes: tuple[int, ...]  # of the rows
    counts: tuple[int, ...]  # images of each class that the grid holds
    images: np.ndarray  # (rows, images, side, side, 3) uint8


@dataclass(frozen=True)
class Layout:
    """What an evaluation's labels make of its grid."""

    classes: tuple[int, ...]
    counts: tuple[int, ...]
    sides: tuple[int, ...]  # an image's side in pixels, or those it may have

    def size(self, side: int) -> tuple[int, int, int]:
        """Width and height of the picture in pixels, and the factor by which it is enlarged."""
        cell = side + max(1, side // LINE_SHARE)
        width, height = max(self.counts) * cell, len(self.classes) * cell
        factor = -(-SMALLEST_SIDE // max(width, height))
        return width * factor, height * factor, factor


def make(evidence: Evidence) -> Drawing:
    """Class rows of each setting's methods with the paper's knobs, at its main budget, of one seed."""
    blocks: list[Block] = []
    rows: list[Row] = []
    missing: list[str] = []
    without, more = 0, 0
    for setting in shared.paper_first(evidence):
        if len(blocks) == MAX_SETTINGS:
            more += 1
            continue
        columns, notes = _columns(setting)
        if columns:
            blocks.append(_block(setting, columns, notes))
            rows += [row for column in columns for row in _rows(setting, column)]
        else:
            without += 1
            missing += notes
    notes = list(_remarks(missing, without, more, bool(evidence.settings)))
    if not blocks:
        blocks = [Block("No samples yet", lambda grid: None, tuple(notes), rows=0)]
    figure = compose(TITLE, blocks, subheading=SUBHEADING, notes=notes if rows else ())
    told = tuple(dict.fromkeys([*(note for block in blocks for note in block.notes), *notes]))
    return Drawing(NAME, TITLE, _alternative(rows), figure, rows, told)


def _remarks(missing: Sequence[str], without: int, more: int, measured: bool) -> Iterator[str]:
    if not measured:
        yield "No finished run has an evaluation; `harness demo` or `harness run dit-tiny` draws and keeps samples."
    if without:
        yield f"{without} further setting{'s' * (without > 1)} without a usable picture. {' '.join(missing[:2])}"
    yield from shared.not_drawn(more)
    yield "The paper prints its samples as a picture alone, so there are no published numbers to set beside them."


# Which runs ------------------------------------------------------------------------------------------------------


def _columns(setting: Setting) -> tuple[list[Column], list[str]]:
    """The methods' runs of one seed with their pictures, and what is missing."""
    steps, batch_size = setting.budget()
    methods = sorted({trial.method for trial in setting.trials}, key=order)
    found = {method: setting.select(method, steps=steps, batch_size=batch_size) for method in methods}
    notes = [
        f"{look(method).title}: no run with the paper's knobs at {steps} steps of batch {batch_size}."
        for method, trials in found.items()
        if not trials
    ]
    found = {method: trials for method, trials in found.items() if trials}
    shared = set.intersection(*({trial.seed for trial in trials} for trials in found.values())) if found else set()
    if found and not shared:
        notes.append("The methods have no seed in common: each shows its lowest.")
    columns = []
    for trials in found.values():
        trial = min((trial for trial in trials if not shared or trial.seed in shared), key=lambda trial: trial.seed)
        try:
            columns.append(_column(trial))
        except DataError as error:
            notes.append(f"{_title(trial)}: {error}")
    if len(columns) > MAX_METHODS:
        notes.append(f"{len(columns) - MAX_METHODS} more methods are not drawn.")
    alike = [
        column for column in columns if column.classes == columns[0].classes and column.counts == columns[0].counts
    ]
    if len(alike) < len(columns):
        notes.append("Methods whose runs asked for other classes are not drawn beside the first.")
    return alike[:MAX_METHODS], notes


def _column(trial: Trial) -> Column:
    """Raises DataError, saying why, where the run keeps no picture that can be used."""
    layout = _layout(trial)
    images = read_grid(trial.run.path / "samples" / "grid.png", layout)
    return Column(trial, _title(trial), layout.classes, layout.counts, images)


def _title(trial: Trial) -> str:
    return measured_title(trial.method, trial.knobs)


def _layout(trial: Trial) -> Layout:
    protocol = trial.run.result.evaluations[FINAL].protocol
    shape = trial.run.config.get("input")
    named = shape if isinstance(shape, dict) else {}
    side, num_classes = named.get("side"), named.get("num_classes")
    sizes = [value for value in (side, num_classes) if isinstance(value, int) and 0 < value <= 2**16]
    if len(sizes) < 2:
        raise DataError("its config.yaml does not say how large an image is and how many classes there are.")
    if protocol.label_rule not in ("random", "balanced") or protocol.seed is None or protocol.num_images < 1:
        raise DataError("its evaluation does not say which labels were asked for.")
    asked = labels(protocol.label_rule, min(protocol.num_images, GRID_IMAGES), sizes[1], protocol.seed)
    counted = Counter(asked)
    classes = tuple(sorted(counted)[:GRID_SIDE])
    factors = (1,) if protocol.vae is None else VAE_FACTORS
    counts = tuple(min(counted[label], GRID_SIDE) for label in classes)
    return Layout(classes, counts, tuple(sizes[0] * factor for factor in factors))


# Reading the picture ---------------------------------------------------------------------------------------------


def read_grid(path: Path, layout: Layout) -> np.ndarray:  # (rows, images, side, side, 3)
    """The images of a class grid. Raises DataError when it is missing, too large, of another size or damaged."""
    try:
        if not path.is_file():
            raise DataError("no samples/grid.png; its final evaluation writes it, and copies of a run should keep it.")
        width, height = _size(path)
        if width * height > MAX_PIXELS or path.stat().st_size > MAX_BYTES:
            raise DataError(f"samples/grid.png has {width} x {height} pixels; more than {MAX_PIXELS:,} are not read.")
        sides = [side for side in layout.sides if layout.size(side)[:2] == (width, height)]
        if not sides:
            expected = " or ".join("{} x {}".format(*layout.size(side)) for side in layout.sides[:1])
            raise DataError(f"samples/grid.png has {width} x {height} pixels, its evaluation's classes {expected}.")
        with Image.open(path, formats=("PNG",)) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except UNREADABLE as error:
        raise DataError(f"samples/grid.png cannot be read: {type(error).__name__}.") from None
    return _cut(pixels, layout, sides[0])


def _size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, from the first bytes."""
    with open(path, "rb") as file:
        head = file.read(_IHDR.size)
    signature, chunk, width, height = _IHDR.unpack(head)
    if signature != b"\x89PNG\r\n\x1a\n" or chunk != b"IHDR":
        raise DataError("samples/grid.png is no PNG.")
    return width, height


def _cut(pixels: np.ndarray, layout: Layout, side: int) -> np.ndarray:
    """(rows * cell * factor, images * cell * factor, 3) -> (rows, images, side, side, 3), lines and enlargement off."""
    factor, cell = layout.size(side)[2], side + max(1, side // LINE_SHARE)
    small = pixels[::factor, ::factor]
    cells = small.reshape(len(layout.classes), cell, max(layout.counts), cell, 3).swapaxes(1, 2)
    return cells[:, :, :side, :side]


# Drawing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sheet:
    """Measures of one setting's picture."""

    shown: int  # images of each class and method
    cell: float  # inches of one, with the space after it

    @property
    def width(self) -> float:
        return self.shown * self.cell


def _sheet(columns: Sequence[Column]) -> Sheet:
    space = (WIDTH - LEFT - RIGHT - BETWEEN_METHODS * (len(columns) - 1)) / len(columns)
    shown = max(1, min(int(space / CELL), max(columns[0].counts)))
    return Sheet(shown, min(space / shown, LARGEST_CELL))


def _block(setting: Setting, columns: Sequence[Column], notes: Sequence[str]) -> Block:
    sheet = _sheet(columns)
    seeds = sorted({column.trial.seed for column in columns})
    first = columns[0].trial
    title = f"{setting.title}: {first.steps} steps, batch {first.batch_size}, seed {' and '.join(map(str, seeds))}"
    num_images = first.run.result.evaluations[FINAL].protocol.num_images
    said = [
        f"Beneath: {metric_title(setting.metric)} of {num_images:,} images of that run (n = 1; lower is better), then "
        f"sampler and network evaluations. Shown are the first {sheet.shown} of each class, not chosen ones."
    ]
    side = columns[0].images.shape[2]
    if (factor := _factor(side)) > 1:
        said.append(f"Images of {side} x {side} pixels, drawn as means of {factor} x {factor} pixels.")
    height = ABOVE + len(columns[0].classes) * sheet.cell + BENEATH
    return Block(title, partial(_draw, columns=columns, sheet=sheet), (*said, *notes), axes_height=height, below=0.04)


def _draw(grid: Sequence[Axes], *, columns: Sequence[Column], sheet: Sheet) -> None:
    """In inches from the upper left corner of the axes, so that every image is square and of one size."""
    (axes,) = grid
    place = axes.get_position()
    axes.set_position((LEFT / WIDTH, place.y0, (WIDTH - LEFT - EDGE) / WIDTH, place.height))
    height = place.height * figure_of(axes).get_figheight()
    axes.set(xlim=(0, WIDTH - LEFT - EDGE), ylim=(height, 0))
    axes.set_axis_off()
    bottom = ABOVE + len(columns[0].classes) * sheet.cell
    for row, label in enumerate(columns[0].classes):
        middle = ABOVE + (row + 0.5) * sheet.cell
        axes.text(-0.06, middle, str(label), size=NOTE_SIZE, ha="right", va="center", color=NOTE_COLOUR)
    axes.text(-0.06, ABOVE - 0.04, "class", size=NOTE_SIZE - 1, ha="right", va="bottom", color=NOTE_COLOUR)
    for number, column in enumerate(columns):
        left = number * (sheet.width + BETWEEN_METHODS)
        middle = left + (sheet.width - BETWEEN_IMAGES) / 2
        picture = _picture(column, sheet)
        extent = (left, left + sheet.width, bottom, ABOVE)
        # "none": enlarged without smoothing in the PNG, and left to the viewer, pixel by pixel, in the SVG.
        axes.imshow(picture, extent=extent, interpolation="none", aspect="auto", gid=f"samples/{column.trial.run.name}")
        colour = [SHADE * part for part in to_rgb(look(column.trial.method).colour)]
        axes.text(middle, ABOVE - 0.04, column.title, size=NOTE_SIZE + 0.8, weight="bold", ha="center", color=colour)
        protocol = column.trial.run.result.evaluations[FINAL].protocol
        axes.text(middle, bottom + 0.02, f"{column.trial.distance:.4g}", size=NOTE_SIZE + 0.5, ha="center", va="top")
        how = f"{protocol.sampler}, {protocol.nfe}"
        down = bottom + 0.03 + NOTE_SIZE * LINE
        axes.text(middle, down, how, size=NOTE_SIZE - 1, ha="center", va="top", color=NOTE_COLOUR)
    axes.set(xlim=(0, WIDTH - LEFT - EDGE), ylim=(height, 0))  # imshow moved them


def _picture(column: Column, sheet: Sheet) -> np.ndarray:
    """The shown images as one, white between them and where a class has fewer."""
    images = _reduced(column.images[:, : sheet.shown])
    rows, _, side, _, _ = images.shape
    step = max(side + 1, round(side * sheet.cell / (sheet.cell - BETWEEN_IMAGES)))
    page = np.full((rows * step, sheet.shown * step, 3), 255, np.uint8)
    for row in range(rows):
        for place in range(min(column.counts[row], sheet.shown)):
            top, left = row * step, place * step
            page[top : top + side, left : left + side] = images[row, place]
    return page


def _factor(side: int) -> int:
    return -(-side // FINEST)


def _reduced(images: np.ndarray) -> np.ndarray:
    """Means of factor x factor pixels where a side is longer than is drawn; an unfilled last one is left out."""
    rows, count, side = images.shape[:3]
    factor = _factor(side)
    small = side // factor
    whole = images[:, :, : small * factor, : small * factor].reshape(rows, count, small, factor, small, factor, 3)
    return np.rint(whole.mean(axis=(3, 5))).astype(np.uint8)


# Words -----------------------------------------------------------------------------------------------------------


def _rows(setting: Setting, column: Column) -> Iterator[Row]:
    trial = column.trial
    protocol = trial.run.result.evaluations[FINAL].protocol
    for label, count in zip(column.classes, column.counts, strict=True):
        yield {
            "setting": setting.name,
            "setting_title": setting.title,
            "method": trial.method,
            "run": trial.run.name,
            "seed": trial.seed,
            "class": label,
            "images_in_grid": count,
            "steps": trial.steps,
            "batch_size": trial.batch_size,
            "metric": setting.metric,
            "distance": trial.distance,
            "n": 1,
            "num_images": protocol.num_images,
            "formulation": protocol.formulation,
            "sampler": protocol.sampler,
            "num_steps": protocol.num_steps,
            "nfe": protocol.nfe,
            "sampling_seed": protocol.seed,
        }


def _alternative(rows: Sequence[Row]) -> str:
    if not rows:
        return "No generated samples to show yet"
    methods = list(dict.fromkeys(look(str(row["method"])).title for row in rows))
    return f"Generated images in rows of one class each, side by side for {', '.join(methods)}"
