"""REPA's zip or folder of one file per image: means and standard deviations.

Read in sihyun-yu/REPA 67f7145, preprocessing/dataset_tools.py and encoders.py: <iiiii>/img-mean-std-<iiiiiiii>.npy is
(2C, S, S) float32, dataset.json holds {"labels": [[name, label], ...]} or null. EDM2's own tool (NVlabs/edm2 4bf8162)
writes the same names, but gives the VAE images in [0, 1] where it was trained on [-1, 1]: those latents are refused.
"""

import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from harness.data import npy
from harness.data.importers.source import SD_CHANNELS, Part, Source, check_numbering, check_std, side_of, spaced
from harness.system.errors import DataError
from harness.system.files import read_limited

NAME = re.compile(r"(?:\d{5}/)?img-mean-std-(\d{8})\.npy")
LARGEST_LABELS = 512 * 2**20  # bytes of dataset.json; ImageNet's takes 60 MB
LARGEST_FILE = 16 * 2**20  # bytes
# Channel means of ImageNet's latents, not scaled: edm2 training/encoders.py, and as published for images in [-1, 1].
EDM2_MEANS, USUAL_MEANS = np.array([5.81, 3.25, 0.12, -2.15]), np.array([0.86, -0.28, 0.22, 0.37])
ENOUGH_TO_JUDGE = 100  # images

# What zipfile raises for archives that are damaged, cut short, or made in a way it does not know.
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OverflowError, ValueError, RuntimeError)


@contextmanager
def opened(source: Path) -> Iterator[Source]:
    """The zip, the folder `vae-sd`, or the folder that holds it."""
    if source.is_dir():
        yield _source(_Folder(source / "vae-sd" if (source / "vae-sd").is_dir() else source))
        return
    try:
        with zipfile.ZipFile(source) as archive:
            yield _source(_Zip(archive, source))
    except _DAMAGED as error:
        raise DataError(f"{source} cannot be read as a zip: {error}. Copy it again.") from None


class _Folder:
    """Files by their names inside the source."""

    def __init__(self, path: Path):
        self.path = path

    def names(self) -> list[str]:
        return [str(path.relative_to(self.path).as_posix()) for path in self.path.rglob("*.npy")]

    def read(self, name: str, limit: int) -> bytes:
        try:
            return read_limited(self.path / name, limit)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path / name} cannot be read: {error}.") from None


class _Zip:
    """Members by their names. Nothing is unpacked to the disk."""

    def __init__(self, archive: zipfile.ZipFile, path: Path):
        self.path, self._archive = path, archive

    def names(self) -> list[str]:
        return [name for name in self._archive.namelist() if name.endswith(".npy")]

    def read(self, name: str, limit: int) -> bytes:
        try:
            member = self._archive.getinfo(name)
        except KeyError:
            raise DataError(f"{self.path} holds no {name}. Give the archive that REPA's `encode` wrote.") from None
        if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(f"{self.path}: {name} is encrypted, or compressed in an unusual way. Write the zip again.")
        if member.file_size > limit:
            raise DataError(f"{self.path}: {name} has {member.file_size:,} bytes, more than the {limit:,} it may have.")
        with self._archive.open(member) as file:
            return _limited(file, name, limit)


def _limited(file: IO[bytes], name: str, limit: int) -> bytes:
    """The content, whatever size a directory claims."""
    content = file.read(limit + 1)
    if len(content) > limit:
        raise DataError(f"{name} is larger than the {limit:,} bytes it may have.")
    return content


def _source(files: _Folder | _Zip) -> Source:
    names = _numbered(files)
    first = _array(files, names[0])
    side = side_of(first.size, 2 * SD_CHANNELS, names[0])
    shape = (2 * SD_CHANNELS, side, side)
    labels = _labels(files, names)

    def values(name: str) -> np.ndarray:
        return _array(files, name, shape)

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


def _numbered(files: _Folder | _Zip) -> list[str]:
    names = files.names()
    matches = [NAME.fullmatch(name) for name in names]
    strange = next((name for name, match in zip(names, matches, strict=True) if match is None), None)
    if strange is not None:
        raise DataError(
            f"{files.path} holds {strange[:80]}, which REPA's `encode` does not write. Is it another format?"
        )
    numbers = [int(match.group(1)) for match in matches if match]
    check_numbering(numbers, f"the files img-mean-std-*.npy in {files.path}")
    return [name for _, name in sorted(zip(numbers, names, strict=True))]


def _array(files: _Folder | _Zip, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    try:
        values = npy.parse(files.read(name, LARGEST_FILE))
    except ValueError as error:
        raise DataError(f"{files.path}: {name} cannot be read as an array: {error}.") from None
    if values.dtype.kind != "f" or values.ndim != 3 or len(values) != 2 * SD_CHANNELS:
        raise DataError(f"{files.path}: {name} holds {values.dtype} of shape {values.shape}, no moments of 4 channels.")
    if values.shape != (shape or values.shape):
        raise DataError(f"{files.path}: {name} has shape {values.shape}, and the others {shape}.")
    return values


def _labels(files: _Folder | _Zip, names: list[str]) -> np.ndarray | None:
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
    some = [values(names[number]) for number in spaced(len(names), ENOUGH_TO_JUDGE)]
    means = np.mean([moments[:SD_CHANNELS].mean(axis=(1, 2)) for moments in some], axis=0)
    if np.linalg.norm(means - EDM2_MEANS) < np.linalg.norm(means - USUAL_MEANS):
        raise DataError(
            f"{what}: the channels average {', '.join(f'{mean:.2f}' for mean in means)}, as those of EDM2's own tool, "
            "which encodes images in [0, 1]. DiT and its kin train on images in [-1, 1]; encode those with REPA's tool "
            "or `harness data encode`."
        )
