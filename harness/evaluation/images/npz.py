"""Writing images as .npz files that ADM's evaluator reads."""

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from harness.data.npz import PIECE_BYTES
from harness.evaluation.images.image_set import ImageSet
from harness.system.files import new_file


def write_npz(path: Path, arrays: Mapping[str, np.ndarray], images: ImageSet | None = None) -> None:
    """Write `images` as arr_0, (N, H, W, C) uint8, and small `arrays` by their names.

    Images are read and written piece by piece, not compressed. The file appears under its name when it is on the disk
    and whole, or not at all; the same content gives the same bytes. Raises DataError when it cannot be written.
    """
    with new_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        if images is not None:
            with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as file:
                _write_images(file, images)
        for name, values in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                contiguous = np.ascontiguousarray(values).reshape(values.shape)
                np.lib.format.write_array(file, contiguous, (1, 0), allow_pickle=False)


def _write_images(file: IO[bytes], images: ImageSet) -> None:
    shape = (len(images), *images.shape)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    at_once = max(1, PIECE_BYTES // math.prod(images.shape))
    for start in range(0, len(images), at_once):
        piece = images.read(start, min(start + at_once, len(images)))
        assert piece.shape[1:] == images.shape, f"images of shape {tuple(piece.shape[1:])}, expected {images.shape}"
        file.write(piece.contiguous().numpy())
