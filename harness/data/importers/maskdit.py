"""MaskDiT's LMDB: means and log-variances as float32.

Read in Anima-Lab/MaskDiT 73cfb96, extract_latent.py and train_utils/datasets.py: key z-<i> holds the 2C x S x S float32
of the encoder's output, y-<i> the label as text, `length` their number as text, written last. Images come in the order
of torchvision's ImageFolder, cropped like ADM's. With --xflip, all mirrored images follow, and `length` counts both.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.importers.source import SD_CHANNELS, Part, Source, side_of, std_of
from harness.system.errors import DataError, SetupError

FLOAT32 = 4  # bytes


@contextmanager
def opened(source: Path) -> Iterator[Source]:
    """The database in the folder, or in its folder `train`."""
    try:
        import lmdb  # an extra: nothing else needs it
    except ImportError:
        raise SetupError("MaskDiT's latents lie in an LMDB, and its package is missing: pip install lmdb") from None
    folder = _folder(source)
    try:
        # No lock is needed: we only read, and the folder may be read-only.
        with lmdb.open(str(folder), readonly=True, lock=False, create=False, readahead=False) as environment:
            _check_size(folder, environment)
            with environment.begin(buffers=True) as transaction:
                yield _source(_Records(transaction, folder))
    except lmdb.Error as error:
        raise DataError(f"{folder} cannot be read as an LMDB: {error}. Copy the database again.") from None


def _folder(source: Path) -> Path:
    for folder in (source, source / "train"):
        if (folder / "data.mdb").is_file():
            return folder
    if source.suffix == ".tar" or any(source.glob("*.tar")):
        raise DataError(
            f"{source} holds MaskDiT's tar files, whose latents are pickles and are never read. "
            "Import the LMDB that lmdb2wds.py made them from."
        )
    raise DataError(f"{source} holds no data.mdb. Give the folder of MaskDiT's LMDB.")


def _check_size(folder: Path, environment: Any) -> None:
    """A database cut short would end this process, by a signal, when the missing part is read."""
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if (size := (folder / "data.mdb").stat().st_size) < needed:
        raise DataError(f"{folder / 'data.mdb'} is truncated: {size:,} of {needed:,} bytes. Copy it again.")


class _Records:
    """Entries of the database by their keys."""

    def __init__(self, transaction: Any, folder: Path):
        self._transaction, self.folder = transaction, folder

    def get(self, key: str) -> memoryview:
        value = self._transaction.get(key.encode())
        if value is None:
            raise DataError(f"{self.folder} has no entry {key}: its extraction was not finished. Repeat it.")
        return value

    def number(self, key: str) -> int:
        text = bytes(self.get(key)[:20])
        if not text.isdigit():
            raise DataError(f"{self.folder}: entry {key} is {text!r} instead of a whole number.")
        return int(text)

    def moments(self, start: int, stop: int, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations, each (stop - start, C, S, S) float32."""
        values = np.empty((stop - start, 2 * SD_CHANNELS, side, side), np.float32)
        for row, number in enumerate(range(start, stop)):
            entry = self.get(f"z-{number}")
            if len(entry) != values[row].nbytes:
                raise DataError(
                    f"{self.folder}: entry z-{number} has {len(entry):,} bytes instead of {values[row].nbytes:,}."
                )
            values[row] = np.frombuffer(entry, np.float32).reshape(values[row].shape)
        mean, logvar = np.split(values, 2, axis=1)
        return mean, std_of(logvar, str(self.folder))


def _source(records: _Records) -> Source:
    length = records.number("length")
    if length < 1:
        raise DataError(f"{records.folder} holds no latents.")
    side = side_of(len(records.get("z-0")) // FLOAT32, 2 * SD_CHANNELS, f"{records.folder}: entry z-0")
    labels = np.array([records.number(f"y-{number}") for number in range(length)])
    mirrored = _mirrored_half(labels)
    num_images = length // 2 if mirrored else length

    def read(start: int, stop: int) -> Part:
        values = np.concatenate(records.moments(start, stop, side), axis=1)
        flipped = None
        if mirrored:
            flipped = np.concatenate(records.moments(start + num_images, stop + num_images, side), axis=1)
        return Part(values, labels[start:stop], flipped)

    return Source(num_images=num_images, side=side, layout="mean,std", crop="adm-centre", has_flips=mirrored, read=read)


def _mirrored_half(labels: np.ndarray) -> bool:
    """Whether the second half are the mirrored images: ImageFolder's order rises by class, so it then rises twice."""
    if len(labels) % 2:
        return False
    first, second = np.split(labels, 2)
    return bool((first == second).all() and first[0] < first[-1] and (np.diff(first) >= 0).all())
