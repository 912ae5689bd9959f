"""Numbered .npy files, one an image, in a folder or in a zip: what fast-DiT and REPA write."""

import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from harness.data import npy
from harness.data.importers.source import check_numbering
from harness.data.npz import DAMAGED
from harness.system.errors import DataError
from harness.system.files import read_limited

LARGEST_FILE = 16 * 2**20  # bytes; a 1024 x 1024 image's latent takes 512 KiB


class Files:
    """Files by their names inside a folder or a zip. Nothing is unpacked to the disk."""

    def __init__(self, path: Path, archive: zipfile.ZipFile | None = None):
        self.path, self._archive = path, archive

    def numbered(self, pattern: re.Pattern[str], program: str) -> list[str]:
        """The .npy files in the order of their numbers, 0, 1, 2, ... each once; `pattern` has one group, the number.

        Raises DataError when one is missing, there twice, or called as `program` calls none.
        """
        names = [name for name in self._names() if name.endswith(".npy")]
        matches = [pattern.fullmatch(name) for name in names]
        strange = next((name for name, match in zip(names, matches, strict=True) if match is None), None)
        if strange is not None:
            raise DataError(
                f"{self.path} holds {strange[:80]}, which {program} does not write. Remove it, unless this is another "
                "format."
            )
        numbers = [int(match.group(1)) for match in matches if match]
        check_numbering(numbers, f"the .npy files in {self.path}")
        return [name for _, name in sorted(zip(numbers, names, strict=True))]

    def read(self, name: str, limit: int = LARGEST_FILE) -> bytes:
        """The content. Raises DataError when it is missing, damaged or larger than `limit`."""
        if self._archive is None:
            try:
                return read_limited(self.path / name, limit)
            except (OSError, ValueError) as error:
                raise DataError(f"{self.path / name} cannot be read: {error}.") from None
        try:
            member = self._archive.getinfo(name)
        except KeyError:
            raise DataError(f"{self.path} holds no {name}. Give the archive that the extraction wrote.") from None
        if member.file_size > limit:
            raise DataError(f"{self.path}: {name} has {member.file_size:,} bytes, more than the {limit:,} it may have.")
        return self._archive.read(member)

    def array(self, name: str, kinds: str, shape: tuple[int | None, ...], what: str) -> np.ndarray:
        """An array of one of the `kinds` of numbers, of this shape (None: any side); `what` says it in words."""
        try:
            values = npy.parse(self.read(name))
        except ValueError as error:
            raise DataError(f"{self.path}: {name} cannot be read as an array: {error}.") from None
        fits = len(values.shape) == len(shape) and all(
            wanted in (None, side) for side, wanted in zip(values.shape, shape, strict=True)
        )
        if not fits or values.dtype.kind not in kinds:
            others = "" if None in shape else f", {shape} like the others"
            raise DataError(f"{self.path}: {name} holds {values.dtype} of shape {values.shape} and not {what}{others}.")
        return values

    def _names(self) -> list[str]:
        if self._archive is not None:
            return self._archive.namelist()
        names: list[str] = []
        for folder, _, files in os.walk(self.path):  # a million files: no Path of each
            inside = os.path.relpath(folder, self.path)
            names += files if inside == "." else [f"{inside}/{file}".replace(os.sep, "/") for file in files]
        return names


@contextmanager
def opened(path: Path) -> Iterator[Files]:
    """The files of a folder or of a zip. Raises DataError when the zip is damaged."""
    if path.is_dir():
        yield Files(path)
        return
    try:
        with zipfile.ZipFile(path) as archive:
            yield Files(path, archive)
    except DAMAGED as error:
        raise DataError(f"{path} cannot be read as a zip: {error}. Copy it again.") from None
