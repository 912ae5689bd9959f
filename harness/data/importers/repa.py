"""REPA's zip or folder of one file per image: means and standard deviations.

Read in sihyun-yu/REPA 67f7145, preprocessing/dataset_tools.py and encoders.py: <iiiii>/img-mean-std-<iiiiiiii>.npy is
(2C, S, S) float32, dataset.json holds {"labels": [[name, label], ...]} or null. EDM2's own tool (NVlabs/edm2 4bf8162)
writes the same names, but gives the VAE images in [0, 1] where it was trained on [-1, 1]: those latents are refused.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from harness.data.importers import files as npy_files
from harness.data.importers.files import Files
from harness.data.importers.source import ENOUGH_TO_JUDGE, SD_CHANNELS, Part, Source, check_std, side_of, spaced
from harness.system.errors import DataError

PROGRAM, NAME = "REPA's `encode`", re.compile(r"(?:\d{5}/)?img-mean-std-(\d{8})\.npy")
LARGEST_LABELS = 512 * 2**20  # bytes of dataset.json; ImageNet's takes 60 MB
# Channel means of ImageNet's latents, not scaled: edm2 training/encoders.py, and as published for images in [-1, 1].
EDM2_MEANS, USUAL_MEANS = np.array([5.81, 3.25, 0.12, -2.15]), np.array([0.86, -0.28, 0.22, 0.37])


@contextmanager
def opened(source: Path) -> Iterator[Source]:
    """The zip, the folder `vae-sd`, or the folder that holds it."""
    inner = source / "vae-sd"
    with npy_files.opened(inner if inner.is_dir() else source) as files:
        yield _source(files)


def _source(files: Files) -> Source:
    names = files.numbered(NAME, PROGRAM)
    what = f"moments of {SD_CHANNELS} channels"
    first = files.array(names[0], "f", (2 * SD_CHANNELS, None, None), what)
    side = side_of(first.size, 2 * SD_CHANNELS, names[0])
    labels = _labels(files, names)

    def values(name: str) -> np.ndarray:  # (2C, S, S)
        return files.array(name, "f", (2 * SD_CHANNELS, side, side), what)

    _refuse_edm2(names, values, str(files.path))

    def read(start: int, stop: int) -> Part:
        moments = np.stack([values(name) for name in names[start:stop]]).astype(np.float32)
        check_std(moments[:, SD_CHANNELS:], f"{files.path}, images {start} to {stop - 1}")
        return Part(moments, None if labels is None else labels[start:stop])

    return Source(
        num_images=len(names),
        side=side,
        layout="mean,std",
        crop="center-crop-dhariwal (adm-centre), as REPA's guide says; the source does not record it",
        read=read,
        has_labels=labels is not None,
    )


def _labels(files: Files, names: list[str]) -> np.ndarray | None:
    """In the order of the names; None where the source says that it has none."""
    try:
        pairs = json.loads(files.read("dataset.json", LARGEST_LABELS))["labels"]
        if pairs is None:
            return None
        labels = {str(name): label for name, label in pairs}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{files.path}: dataset.json does not hold labels: {repr(error)[:200]}.") from None
    unlabelled = next((name for name in names if type(labels.get(name)) is not int), None)
    if unlabelled is not None:
        raise DataError(f"{files.path}: dataset.json has no whole number for {unlabelled}.")
    return np.array([labels[name] for name in names])


def _refuse_edm2(names: list[str], values: Callable[[str], np.ndarray], what: str) -> None:
    """The two tools' latents differ in nothing but their numbers, far enough for the mean over some images to tell."""
    if len(names) < ENOUGH_TO_JUDGE:
        return
    some = [values(names[number]) for number in spaced(len(names))]
    means = np.mean([moments[:SD_CHANNELS].mean(axis=(1, 2)) for moments in some], axis=0)
    if np.linalg.norm(means - EDM2_MEANS) < np.linalg.norm(means - USUAL_MEANS):
        raise DataError(
            f"{what}: the channels average {', '.join(f'{mean:.2f}' for mean in means)}, as those of EDM2's own tool, "
            "which encodes images in [0, 1]. DiT and its kin train on images in [-1, 1]; encode those with REPA's tool "
            "or `harness data encode`."
        )
