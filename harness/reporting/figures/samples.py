"""SD-DiT Fig. 7: the same classes and the same noise drawn by each method, class by class, the distance beneath.

A run's samples/grid.png is written by its final evaluation: a row of images for each of its first classes. The picture
is not trusted: it must have the size that the evaluation's labels give it before it is decoded.
"""

import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from PIL import Image

from harness.recipes.seeds import labels
from harness.records.evidence import Evidence
from harness.records.looks import look
from harness.records.trials import Setting, Trial, metric_title
from harness.reporting.drawing.sheet import NOTE_SIZE, WIDTH, Drawing, Panel, Row, drawing
from harness.reporting.figures import measured as shared
from harness.system.errors import DataError

SUBHEADING = (
    "A row is a class. The same place shows the same image number in each method: the same label and noise seed."
)

NONE_EVALUATED = "No finished run has an evaluation; `harness demo` or `harness run dit-tiny` draws and keeps samples."

# How harness.evaluation.images.uint8 lays the grid out, and which images harness.evaluation.evaluate gives it.
GRID_SIDE = 10  # classes, and images of each, at most
GRID_IMAGES = 1000  # the first images drawn, among which the classes are sought
LINE_SHARE = 16  # a line of side / 16 pixels, at least one, ends every image
SMALLEST_SIDE = 512  # pixels: tiny pictures are enlarged by a whole factor until their longer side has as many
VAE_FACTORS = (8, 4, 16, 2)  # pixels to a latent's side; which one is seen from the picture's size

MAX_PIXELS = 2**25  # a larger grid is not read; the largest that is written, with 512 x 512 images, has 5440 x 5440
TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)

MAX_SETTINGS = 3  # drawn; the others are counted
MAX_METHODS = 8
IMAGES = 12  # images of a class beside one another, all methods together
LARGEST = 0.4  # inches, an image's side
FINEST = 64  # pixels of a drawn image's side: larger ones are reduced by a whole factor, or the SVG grows to megabytes


class Layout(NamedTuple):
    """What an evaluation's labels make of its grid."""

    classes: tuple[int, ...]  # the class of each row
    counts: tuple[int, ...]  # images of each class in the grid
    sides: tuple[int, ...]  # an image's side in pixels, or those it may have

    def size(self, side: int) -> tuple[int, int, int]:
        """Width and height of the picture in pixels, and the factor by which it is enlarged."""
        cell = side + max(1, side // LINE_SHARE)
        width, height = max(self.counts) * cell, len(self.classes) * cell
        factor = -(-SMALLEST_SIDE // max(width, height))
        return width * factor, height * factor, factor


class Column(NamedTuple):
    """One method's share of a picture: a run and its images."""

    trial: Trial
    layout: Layout
    images: np.ndarray  # (rows, images, side, side, 3) uint8


def make(evidence: Evidence, spec: Mapping[str, str]) -> Drawing:
    """Class rows of each setting's methods with the paper's knobs, at its main budget, of one seed."""
    panels: list[Panel] = []
    notes: list[str] = []
    for setting in shared.paper_first(evidence):
        columns, own_notes = _columns(setting) if len(panels) < MAX_SETTINGS else ([], ["more than this figure draws."])
        if columns:
            panels.append(_panel(setting, columns, own_notes))
        else:
            notes.append(f"Not shown: {setting.title}: {' '.join(own_notes)}")
    remarks = [SUBHEADING] if panels else []
    remarks += [] if evidence.settings else [NONE_EVALUATED]
    notes = [*remarks, spec["not_printed"], *notes]
    methods = dict.fromkeys(look(row["method"]).title for panel in panels for row in panel.rows)
    alternative = f"Generated images in rows of one class each, side by side for {', '.join(methods)}"
    return drawing(spec["name"], spec["title"], alternative, panels, notes=notes)


# Which runs ------------------------------------------------------------------------------------------------------


def _columns(setting: Setting) -> tuple[list[Column], list[str]]:
    """The methods' runs of one seed with their pictures, and what is missing."""
    steps, batch_size = setting.budget()
    found = setting.at_its_budget()
    notes = [
        f"{look(method).title}: no run with the paper's knobs at {steps} steps of batch {batch_size}."
        for method, trials in found.items()
        if not trials
    ]
    found = {method: trials for method, trials in found.items() if trials}
    seeds = [{trial.seed for trial in trials} for trials in found.values()]
    common = set.intersection(*seeds) if seeds else set()
    if found and not common:
        notes.append("The methods have no seed in common: each shows its lowest.")
    columns = []
    for trials in found.values():
        trial = min((trial for trial in trials if not common or trial.seed in common), key=lambda trial: trial.seed)
        try:
            layout = _layout(trial)
            columns.append(Column(trial, layout, read_grid(trial.run.path / "samples" / "grid.png", layout)))
        except DataError as error:
            notes.append(f"{shared.title_of_runs([trial])}: {error}")
    if len(columns) > MAX_METHODS:
        notes.append(f"{len(columns) - MAX_METHODS} more methods are not drawn.")
    alike = [column for column in columns if column.layout[:2] == columns[0].layout[:2]]
    if len(alike) < len(columns):
        notes.append("Methods whose runs drew other classes are not shown beside the first.")
    return alike[:MAX_METHODS], notes


def _layout(trial: Trial) -> Layout:
    """Raises DataError where the run does not say which labels its picture has."""
    protocol = trial.evaluation.protocol
    shape = trial.run.config.get("input")
    named = shape if isinstance(shape, dict) else {}
    side, num_classes = named.get("side"), named.get("num_classes")
    sizes = [value for value in (side, num_classes) if isinstance(value, int) and 0 < value <= 2**16]
    if len(sizes) < 2:
        raise DataError("its config.yaml does not say how large an image is and how many classes there are.")
    if protocol.label_rule not in ("random", "balanced") or protocol.seed is None or protocol.num_images < 1:
        raise DataError("its evaluation does not say which labels it used.")
    asked = labels(protocol.label_rule, min(protocol.num_images, GRID_IMAGES), sizes[1], protocol.seed)
    counted = Counter(asked)
    classes = tuple(sorted(counted)[:GRID_SIDE])
    factors = (1,) if protocol.vae is None else VAE_FACTORS
    counts = tuple(min(counted[label], GRID_SIDE) for label in classes)
    return Layout(classes, counts, tuple(sizes[0] * factor for factor in factors))


# Reading the picture ---------------------------------------------------------------------------------------------


def read_grid(path: Path, layout: Layout) -> np.ndarray:  # (rows, images, side, side, 3)
    """The images of a class grid. Raises DataError when it is missing, too large, of another size or damaged."""
    if not path.is_file():
        raise DataError("no samples/grid.png; its final evaluation writes it, and copies of a run should keep it.")
    try:
        with (
            warnings.catch_warnings(action="error", category=TOO_LARGE[1]),
            Image.open(path, formats=("PNG",)) as picture,
        ):
            width, height = picture.size  # read from the header: nothing is decoded yet
            found = f"samples/grid.png has {width} x {height} pixels"
            if width * height > MAX_PIXELS:
                raise DataError(f"{found}; more than {MAX_PIXELS:,} are not read.")
            sides = [side for side in layout.sides if layout.size(side)[:2] == (width, height)]
            if not sides:
                expected = "{} x {}".format(*layout.size(layout.sides[0]))
                raise DataError(f"{found}, its evaluation's classes {expected}.")
            pixels = np.asarray(picture.convert("RGB"))
    except TOO_LARGE:
        raise DataError(f"samples/grid.png has more than the {MAX_PIXELS:,} pixels that are read.") from None
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error, struct.error) as error:
        raise DataError(f"samples/grid.png cannot be read: {type(error).__name__}.") from None
    return _cut(pixels, layout, sides[0])


def _cut(pixels: np.ndarray, layout: Layout, side: int) -> np.ndarray:
    """(rows * cell * factor, images * cell * factor, 3) -> (rows, images, side, side, 3), lines and enlargement off."""
    factor, cell = layout.size(side)[2], side + max(1, side // LINE_SHARE)
    small = pixels[::factor, ::factor]
    cells = small.reshape(len(layout.classes), cell, max(layout.counts), cell, 3).swapaxes(1, 2)
    return cells[:, :, :side, :side]


# Drawing ---------------------------------------------------------------------------------------------------------


def _panel(setting: Setting, columns: Sequence[Column], notes: Sequence[str]) -> Panel:
    seeds = sorted({column.trial.seed for column in columns})
    first = columns[0].trial
    title = f"{setting.title}: {first.steps} steps, batch {first.batch_size}, seed {' and '.join(map(str, seeds))}"
    shown = max(1, min(IMAGES // len(columns), max(columns[0].layout.counts)))
    said = [
        f"Beneath: {metric_title(setting.metric)} of {first.evaluation.protocol.num_images:,} images of that run "
        f"(n = 1; lower is better), then sampler and network evaluations. Shown are the first {shown} of each class, "
        "not chosen ones."
    ]
    side = columns[0].images.shape[2]
    if (factor := _factor(side)) > 1:
        said.append(f"Images of {side} x {side} pixels, drawn as means of {factor} x {factor} pixels.")
    inches = min((WIDTH - 0.4) / len(columns) / shown - 0.03, LARGEST)
    return Panel(
        title,
        [row for column in columns for row in _rows(setting, column)],
        partial(_draw, pictures=[_picture(column, shown) for column in columns]),
        (*said, *notes),
        grid=(1, len(columns)),
        height=inches * len(columns[0].layout.classes) + 0.15,
    )


def _draw(frame: pd.DataFrame, *grid: Axes, pictures: Sequence[np.ndarray]) -> None:
    """A picture for each run, its name above, and beneath it what its rows of the frame say of all its images."""
    for axes, picture, (run, rows) in zip(grid, pictures, frame.groupby("run", sort=False), strict=True):
        first, height = rows.iloc[0], len(picture) / len(rows)
        # "none": enlarged without smoothing in the PNG, and left to the viewer, pixel by pixel, in the SVG.
        axes.imshow(picture, interpolation="none", gid=f"samples/{run}")
        axes.set_title(first["label"], weight="bold", color=look(first["method"]).colour)
        axes.set_xlabel(f"{first['distance']:.4g}\n{first['sampler']}, {first['nfe']}", size=NOTE_SIZE)
        middles = [(place + 0.5) * height - 1 for place in range(len(rows))]
        axes.set(xticks=[], yticks=middles if axes is grid[0] else [])
        axes.set_frame_on(False)
        axes.grid(visible=False)
    grid[0].set_yticklabels(list(frame["class"][: len(grid[0].get_yticks())]))
    grid[0].set_ylabel("class")
    grid[0].tick_params(length=0)


def _picture(column: Column, shown: int) -> np.ndarray:
    """The first images of each class as one, white between them and where a class has fewer."""
    images = _reduced(column.images[:, :shown])
    gap = max(1, images.shape[2] // 10)
    cells = np.pad(images, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
    for row, count in zip(cells, column.layout.counts, strict=True):
        row[count:] = 255
    rows, places, side, _, channels = cells.shape
    return cells.swapaxes(1, 2).reshape(rows * side, places * side, channels)


def _factor(side: int) -> int:
    return -(-side // FINEST)


def _reduced(images: np.ndarray) -> np.ndarray:
    """Means of factor x factor pixels where a side is longer than is drawn; an unfilled last one is left out."""
    rows, count, side = images.shape[:3]
    factor = _factor(side)
    small = side // factor
    whole = images[:, :, : small * factor, : small * factor].reshape(rows, count, small, factor, small, factor, 3)
    return np.rint(whole.mean(axis=(3, 5))).astype(np.uint8)


# Rows ------------------------------------------------------------------------------------------------------------


def _rows(setting: Setting, column: Column) -> Iterator[Row]:
    trial = column.trial
    protocol = trial.evaluation.protocol
    for label, count in zip(column.layout.classes, column.layout.counts, strict=True):
        yield {
            "setting": setting.name,
            "setting_title": setting.title,
            "method": trial.method,
            "label": shared.title_of_runs([trial]),
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
