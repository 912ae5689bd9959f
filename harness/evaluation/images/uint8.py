"""Grids of eight-bit images, and their files.

N images, C channels, H height, W width.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from harness.system.files import new_file

GRID_SIDE = 10  # images
GRID_IMAGES = GRID_SIDE**2
_LINE_LEVEL = 128
_SMALLEST_SIDE = 512  # pixels: a written image is enlarged by a whole factor until its longer side has at least these


def grid(images: Tensor, rows: int) -> Tensor:  # (N, H, W, C) -> (rows * H, N / rows * W, C)
    """One image with the first N / rows images in its first row, the next ones in its second, and so on."""
    num_images, height, width, channels = images.shape
    if num_images % rows:
        raise ValueError(f"{num_images} images do not fill {rows} rows; give a multiple of {rows} images.")
    columns = num_images // rows
    cells = images.reshape(rows, columns, height, width, channels).transpose(1, 2)  # (rows, H, columns, W, C)
    return cells.reshape(rows * height, columns * width, channels)


def class_grid(images: Tensor, labels: Tensor) -> Tensor:  # (N, H, W, C), (N,) -> (rows * H, columns * W, C)
    """One row for each class, in the order of the labels: its first images, at most 10 of at most 10 classes.

    A grey line ends every image, or neighbours would look like one. A class with fewer images than its neighbours
    ends in black.
    """
    images = _lined(images)
    rows = [images[labels == label][:GRID_SIDE] for label in labels.unique()[:GRID_SIDE]]
    columns = max(len(row) for row in rows)
    return grid(torch.cat([F.pad(row, (0, 0) * 3 + (0, columns - len(row))) for row in rows]), len(rows))


def square_grid(images: Tensor) -> Tensor:  # (N, H, W, C) -> (rows * H, columns * W, C)
    """The first images in order, at most 100, in about as many rows as columns; empty places are black.

    A grey line ends every image, as in `class_grid`.
    """
    shown = _lined(images[:GRID_IMAGES])
    columns = math.ceil(math.sqrt(len(shown)))
    rows = math.ceil(len(shown) / columns)
    return grid(F.pad(shown, (0, 0) * 3 + (0, rows * columns - len(shown))), rows)


def _lined(images: Tensor) -> Tensor:  # (N, H, W, C) -> (N, H + line, W + line, C)
    line = max(1, images.shape[2] // 16)
    return F.pad(images, (0, 0, 0, line, 0, line), value=_LINE_LEVEL)


def save_png(path: Path, image: Tensor) -> None:  # (H, W, 1 or 3) uint8
    """Write `image` as PNG, a tiny one enlarged without smoothing so that its pixels can be seen; whole or not at all.

    Raises DataError when the disk refuses it.
    """
    height, width, channels = image.shape
    if channels not in (1, 3):
        raise ValueError(f"a PNG here is grey or RGB; the image has {channels} channels, so decode latents first.")
    factor = -(-_SMALLEST_SIDE // max(height, width))
    picture = Image.fromarray(image.cpu().squeeze(-1).numpy() if channels == 1 else image.cpu().numpy())
    picture = picture.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    with new_file(path) as temporary:
        picture.save(temporary, format="PNG")
