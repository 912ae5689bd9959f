"""Images in an .npz file: which array they are, what may be in it, and their labels.

N images, H height, W width, C channels.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.data.npz import PIECE_BYTES, Archive, Array
from harness.system.errors import DataError

NAMES = ("arr_0", "images")  # of the array of images
LABELS = ("labels", "arr_1")
MAX_PIXELS = 2**24  # of one image, 4096 x 4096: a larger one is a mistake, or meant to fill the memory
MOST_CLASSES = 2**31  # above it, a label is no label


def opened(path: Path, names: Sequence[str] = NAMES) -> tuple[Array, Tensor | None]:  # (N, H, W, C), (N,) int64
    """The images of an .npz file under one of these names, no value of them read yet, and their labels if it has any.

    Raises DataError when they are missing, damaged, or anything but (N, H, W, C) uint8 with 1 or 3 channels.
    """
    archive = Archive(path)
    name = next((name for name in names if name in archive.names), None)
    if name is None:
        raise DataError(
            f"{path} has no {names[0]}; it has {archive.listing}. Save the images as {names[0]}, (N, H, W, C) uint8."
        )
    rows = archive.array(name)
    rows.refuse_columns()
    _refuse_array(path, name, rows)
    return rows, _labels_in(archive, len(rows))


def refuse_pixels(path: Path, size: tuple[int, int]) -> None:  # (H, W)
    """Raises DataError for images that are too large to be meant."""
    if math.prod(size) > MAX_PIXELS:
        side = math.isqrt(MAX_PIXELS)
        raise DataError(f"{path}: images of {size[0]} x {size[1]} pixels are larger than {side} x {side}. Reduce them.")


def _refuse_array(path: Path, name: str, rows: Array) -> None:
    """Raises DataError unless these rows are images, saying how to make images of what they are."""
    shape, dtype = rows.shape, rows.dtype
    expected = "Images are (N, H, W, C) uint8 with C of 1 or 3"
    if len(shape) != 4 or 0 in shape:
        hint = " Save x[..., None]." if len(shape) == 3 else ""
        raise DataError(f"{path}: {name} has shape {shape}. {expected}.{hint}")
    if shape[3] not in (1, 3):
        first = " Channels come first here: save x.transpose(0, 2, 3, 1)." if shape[1] in (1, 3) else ""
        raise DataError(f"{path}: {name} has shape {shape}. {expected}.{first}")
    if dtype != np.uint8:
        raise DataError(f"{path}: {name} holds {dtype}{_values_of(rows)}.")
    refuse_pixels(path, shape[1:3])


def _values_of(rows: Array) -> str:
    """What the first images hold, and how to make uint8 of them."""
    if rows.dtype.kind not in "iuf":
        return ". Save numbers from 0 to 255 as uint8"
    first = rows.read(0, min(len(rows), max(1, PIECE_BYTES // (8 * math.prod(rows.shape[1:])))))
    broken = int((~np.isfinite(first)).sum())
    if broken:
        return f", and {broken:,} of the first {first.size:,} values are not finite: the sampler diverged. Draw again"
    low, high = first.min(), first.max()
    if low < 0:
        scaled = "(127.5 * x + 128).clip(0, 255)"
    elif high <= 1:
        scaled = "(255 * x + 0.5).clip(0, 255)"
    else:
        scaled = "x.round().clip(0, 255)"
    return f" from {low:.4g} to {high:.4g} instead of uint8. Save {scaled}.astype(numpy.uint8)"


def _labels_in(archive: Archive, num_images: int) -> Tensor | None:
    for name in LABELS:
        if name in archive.names:
            member = archive.array(name)
            whole_numbers = member.dtype.kind in "iu"
            if name == "arr_1" and not (whole_numbers and len(member.shape) == 1):
                continue  # the second array of numpy.savez without names may be anything
            if member.shape != (num_images,) or not whole_numbers:
                raise DataError(
                    f"{archive.path}: {name} holds {member.dtype} of shape {member.shape}, and there are "
                    f"{num_images:,} images. Save one whole number for each, or leave them out."
                )
            labels = member.whole()
            for wrong in np.flatnonzero((labels < 0) | (labels >= MOST_CLASSES))[:1]:
                raise DataError(
                    f"{archive.path}: {name}[{wrong}] is {labels[wrong]}, and classes are numbered from 0. Save each "
                    "image's class, or leave the labels out."
                )
            return torch.from_numpy(labels.astype(np.int64))
    return None
