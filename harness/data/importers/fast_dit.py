"""fast-DiT's folders of one file per image: a scaled sample of the posterior.

Read in chuanyangjin/fast-DiT 0ddbd64, extract_features.py: imagenet256_features/<i>.npy is (1, C, S, S) float32, one
sample times 0.18215; imagenet256_labels/<i>.npy is (1,) int64. The image was cropped like ADM's and mirrored at random
before, so flips are frozen. Every process counts i from 0, so several overwrite each other's files.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from harness.data import npy
from harness.data.importers.source import (
    SD_CHANNELS,
    SD_SCALE,
    Part,
    Source,
    check_numbering,
    check_spread,
    side_of,
    spaced,
)
from harness.system.errors import DataError
from harness.system.files import read_limited

FEATURES, LABELS = "imagenet256_features", "imagenet256_labels"  # called so at other sizes too
ENOUGH_TO_JUDGE = 100  # images
LARGEST_FILE = 16 * 2**20  # bytes; a 1024 x 1024 image's latent takes 256 KiB


@contextmanager
def opened(source: Path) -> Iterator[Source]:
    """The folder that holds both folders."""
    features, labels = _numbered(source / FEATURES), _numbered(source / LABELS)
    if len(features) != len(labels):
        raise DataError(
            f"{source} holds {len(features):,} latents and {len(labels):,} labels. Several processes may have written "
            "over each other's files; extract again on one GPU."
        )
    first = _read(features[0])
    side = side_of(first.size, SD_CHANNELS, str(features[0]))
    shape = (1, SD_CHANNELS, side, side)

    def read(start: int, stop: int) -> Part:
        scaled = np.stack([_read(path, shape)[0] for path in features[start:stop]]).astype(np.float32)
        return Part(scaled / SD_SCALE, np.concatenate([_label(path) for path in labels[start:stop]]))

    some = [_read(features[number], shape) for number in spaced(len(features), ENOUGH_TO_JUDGE)]
    check_spread(np.stack(some), 1.0, str(source / FEATURES))
    yield Source(
        num_images=len(features),
        side=side,
        layout="sample",
        crop="adm-centre",
        read=read,
        remark="one posterior sample per image, mirrored at random once and for all",
        one_process_only=True,
    )


def _numbered(folder: Path) -> list[Path]:
    """Files 0.npy, 1.npy, ... in the order of their numbers."""
    if not folder.is_dir():
        raise DataError(f"{folder} is missing. Give the folder that extract_features.py wrote, its --features-path.")
    with os.scandir(folder) as entries:  # a million files: no Path of each until they are sorted
        names = [entry.name for entry in entries if entry.name.endswith(".npy")]
    strange = next((name for name in names if not name.removesuffix(".npy").isdecimal()), None)
    if strange is not None:
        raise DataError(f"{folder} holds {strange}, which extract_features.py does not write. Remove what is foreign.")
    numbers = [int(name.removesuffix(".npy")) for name in names]
    check_numbering(numbers, f"the .npy files in {folder}")
    return [folder / name for _, name in sorted(zip(numbers, names, strict=True))]


def _read(path: Path, shape: tuple[int, ...] | None = None) -> np.ndarray:
    try:
        values = npy.parse(read_limited(path, LARGEST_FILE))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as an array: {error}.") from None
    if values.dtype.kind != "f" or values.ndim != 4 or values.shape[:2] != (1, SD_CHANNELS):
        raise DataError(
            f"{path} holds {values.dtype} of shape {values.shape}; fast-DiT stores one sample, (1, 4, S, S)."
        )
    if values.shape != (shape or values.shape):
        raise DataError(f"{path} has shape {values.shape}, and the others {shape}.")
    return values


def _label(path: Path) -> np.ndarray:  # (1,)
    try:
        label = npy.parse(read_limited(path, LARGEST_FILE))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as an array: {error}.") from None
    if label.shape != (1,) or label.dtype.kind not in "iu":
        raise DataError(f"{path} holds {label.dtype} of shape {label.shape}; fast-DiT stores one whole number.")
    return label
