"""Images of one's own, as the network sees them: a folder of image files, or an array in an .npz file.

N images, B of a batch, C channels, S side in pixels.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.data.images import fitting, image_archive, image_folder, pixels
from harness.data.images.named import reader
from harness.data.images.pixels import Pixels
from harness.data.npz import Array
from harness.system.errors import DataError


def folder(path: Path, size: int | None) -> Pixels:
    """The images under a folder, in a folder for each class, or of one class where they lie in none.

    Grey images beside coloured ones become coloured. Raises DataError for what `image_folder.listing` refuses, for
    images that cannot be read exactly, and where `size` is needed and absent.
    """
    listing = image_folder.listing(path, flat=True)
    decoder = image_folder.Decoder(path, 1)
    shapes = set(decoder.shapes(listing.files))
    sizes, channels = {shape[:2] for shape in shapes}, max(shape[2] for shape in shapes)
    side = fitting.side_of(str(path), sizes, size)
    decoder = image_folder.Decoder(path, side, channels=channels, square=fitting.squared)

    def read(places: Tensor) -> Tensor:  # (B,) -> (B, C, S, S)
        return decoder.decode([listing.files[place] for place in places.tolist()])

    return pixels.with_tenth_held_out(
        path.resolve().name,
        read,
        listing.labels,
        shape=(channels, side, len(listing.class_names)),
        fitting=fitting.described(sizes, side),
        known_by=listing.sha256,
    )


def archive(path: Path, size: int | None) -> Pixels:
    """The images of an .npz file, of one class where it has no labels.

    Raises DataError for what `image_archive.opened` refuses, for classes without images, and for an array that is both
    compressed and too large for the memory.
    """
    rows, labels = image_archive.opened(path)
    labels = torch.zeros(len(rows), dtype=torch.int64) if labels is None else labels
    classes = labels.unique().tolist()  # sorted
    if (empty := next((number for number, label in enumerate(classes) if label != number), None)) is not None:
        raise DataError(
            f"{path}: no image has the class {empty}, though labels go up to {classes[-1]}. Number the classes 0, 1, "
            "2, ... without gaps."
        )
    height, width, channels = rows.shape[1:]
    side = fitting.side_of(path.name, {(height, width)}, size)
    return pixels.with_tenth_held_out(
        path.stem,
        reader(_values(path, rows), side),
        labels,
        shape=(channels, side, len(classes)),
        fitting=fitting.described({(height, width)}, side),
        known_by=None,
    )


def _values(path: Path, rows: Array) -> np.ndarray:  # (N, H, W, C) uint8
    """All images: in memory, their checksum verified, where they are at most 2 GiB, else mapped."""
    num_bytes = int(np.prod(rows.shape, dtype=np.int64))
    if num_bytes <= pixels.IN_MEMORY_BYTES:
        return rows.read(0, len(rows))
    mapped = rows.mapped()
    if mapped is None:
        raise DataError(
            f"{path} unpacks to {num_bytes / 2**30:.1f} GiB, and at most {pixels.IN_MEMORY_BYTES / 2**30:.0f} GiB are "
            "held in memory. Save it with numpy.savez, which does not compress: it is then read batch by batch."
        )
    return mapped
