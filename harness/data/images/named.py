"""Small image data sets by name: Fashion-MNIST, MNIST and CIFAR-10, each with its own test set held out.

torchvision has classes for all three. They take 8 seconds to import and read only files unpacked into folders of their
own, so the files are read here. Every file is known by its sha256, so that nothing in it has to be parsed or trusted.

N images, H height, W width, C channels, S side in pixels.
"""

import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from harness.data.images import fitting
from harness.data.images.pixels import Pixels, Read
from harness.system import downloads
from harness.system.errors import DataError

DEBIAN = Path("/usr/share/datasets")  # of the packages called dataset-...
OWN_TEST_SET = "the data set's own test set"
CLASSES = 10  # of each of these sets
IDX_IMAGES, IDX_LABELS = 16, 8  # bytes before the values in an IDX file of images, of labels
IDX_SIDE, CIFAR_SIDE = 28, 32
RECORD = 1 + 3 * CIFAR_SIDE**2  # bytes of CIFAR-10: the label, then red, green and blue, each row by row

Images = tuple[np.ndarray, np.ndarray]  # (N, H, W, C) uint8, labels (N,)


@dataclass(frozen=True)
class NamedSet:
    """Where a data set comes from, and how its training and test images lie in its files."""

    url: str  # of the folder of its files
    files: dict[str, str]  # the sha256 of each by its name, as it is unpacked
    largest: int  # bytes of a file
    read: Callable[[list[bytes]], tuple[Images, Images]]
    packed: str = ".gz"  # the files there are compressed, and have this behind their names
    debian: str | None = None  # the Debian package that has the files


def load(name: str, folder: Path, size: int | None) -> Pixels:
    """The set called `name` from `folder`/`name` or Debian's package, else downloaded into `folder`/`name`.

    Raises DataError when a file is not there and cannot be downloaded, or is not the published one.
    """
    known = SETS[name]
    trained, tested = known.read([_content(name, file, folder / name) for file in known.files])
    held_out = _part(f"{name}, held out", tested, size)
    return _part(name, trained, size, held_out)


def _part(name: str, images: Images, size: int | None, held_out: Pixels | None = None) -> Pixels:
    values, labels = images
    sizes = {values.shape[1:3]}
    side = fitting.side_of(name, sizes, size)
    return Pixels(
        name,
        reader(values, side),
        torch.arange(len(values)),
        torch.from_numpy(labels.astype(np.int64)),
        shape=(values.shape[3], side, CLASSES),
        fitting=fitting.described(sizes, side),
        held_out=held_out,
        held_out_by=OWN_TEST_SET if held_out else None,
    )


def reader(values: np.ndarray, side: int) -> Read:  # (N, H, W, C) uint8
    """Reads images out of an array, in memory or mapped, and brings them to `side`."""

    def read(places: torch.Tensor) -> torch.Tensor:  # (B,) -> (B, C, S, S)
        chosen = values[places.numpy()]  # (B, H, W, C)
        if chosen.shape[1:3] != (side, side):
            images = (Image.fromarray(image.squeeze(-1) if image.shape[2] == 1 else image) for image in chosen)
            chosen = np.stack([np.asarray(fitting.squared(image, side)) for image in images])
        return torch.from_numpy(chosen.reshape(len(places), side, side, -1)).permute(0, 3, 1, 2)

    return read


# Files -------------------------------------------------------------------------------------------------------------


def _content(name: str, file: str, folder: Path) -> bytes:
    """The unpacked content of a file of the set, from the first place that has it."""
    known, found = SETS[name], _place(name, file, folder)
    if found is not None:
        return _checked(found, file, known)
    url, unpacked = (
        f"{known.url}{file}{known.packed}",
        partial(_unpacked, most=known.largest) if known.packed else bytes,
    )
    try:
        downloads.fetch(url, folder / file, sha256=known.files[file], most=known.largest, unpacked=unpacked)
    except OSError as error:
        package = f", install the Debian package {known.debian}" if known.debian else ""
        raise DataError(
            f"{name} is not on this machine, and {url} could not be downloaded ({error}). Put "
            f"{', '.join(f'{name}{known.packed}' for name in known.files)} into {folder}{package}, or repeat the "
            "command where it can download them. $HARNESS_DATA names another folder than the usual one."
        ) from None
    return _checked(folder / file, file, known)


def is_here(name: str, folder: Path) -> bool:
    """Whether `load` would find all files of the set without downloading."""
    return all(_place(name, file, folder / name) for file in SETS[name].files)


def _place(name: str, file: str, folder: Path) -> Path | None:
    places = [folder, *([DEBIAN / name] if SETS[name].debian else [])]
    paths = (place / f"{file}{suffix}" for place in places for suffix in ("", ".gz"))
    return next((path for path in paths if path.is_file()), None)


def _checked(path: Path, file: str, known: NamedSet) -> bytes:
    try:
        content = path.read_bytes() if path.name == file else _unpacked(path.read_bytes(), most=known.largest)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}. Remove it and repeat the command.") from None
    if (found := hashlib.sha256(content).hexdigest()) != known.files[file]:
        raise DataError(
            f"{path} is not the published file: the sha256 of its content is {found} instead of {known.files[file]}. "
            "Remove it and repeat the command."
        )
    return content


def _unpacked(content: bytes, most: int) -> bytes:
    """OSError for what is no sound gzip file. Of one larger than `most` only the beginning, which has another hash."""
    try:
        with gzip.open(io.BytesIO(content)) as opened:
            return opened.read(most + 1)
    except (EOFError, zlib.error) as error:
        raise OSError(f"no sound gzip file: {error}") from None


def _idx(contents: list[bytes]) -> tuple[Images, Images]:
    """Of MNIST and its kin: images and labels for training, images and labels for testing."""

    def images(content: bytes) -> np.ndarray:
        return np.frombuffer(content, np.uint8, offset=IDX_IMAGES).reshape(-1, IDX_SIDE, IDX_SIDE, 1)

    def labels(content: bytes) -> np.ndarray:
        return np.frombuffer(content, np.uint8, offset=IDX_LABELS)

    return (images(contents[0]), labels(contents[1])), (images(contents[2]), labels(contents[3]))


def _cifar10(contents: list[bytes]) -> tuple[Images, Images]:
    """Of the authors' binary version: plain bytes, where their Python version holds pickles."""
    with tarfile.open(fileobj=io.BytesIO(contents[0])) as archive:
        batch = partial(_cifar10_batch, archive)
        trained = [batch(f"data_batch_{number}") for number in range(1, 6)]
        return _cifar10_images(np.concatenate(trained)), _cifar10_images(batch("test_batch"))


def _cifar10_batch(archive: tarfile.TarFile, name: str) -> np.ndarray:  # (N, RECORD) uint8
    member = archive.extractfile(f"cifar-10-batches-bin/{name}.bin")
    assert member is not None, "its hash says that it holds the batches"
    return np.frombuffer(member.read(), np.uint8).reshape(-1, RECORD)


def _cifar10_images(records: np.ndarray) -> Images:
    images = records[:, 1:].reshape(-1, 3, CIFAR_SIDE, CIFAR_SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0]


# Fashion-MNIST's hashes are those of its authors' and Debian's files, MNIST's of what torchvision's archives unpack to.
SETS = {
    "fashion-mnist": NamedSet(
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        {
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        47_040_016,
        _idx,
        debian="dataset-fashion-mnist",
    ),
    "mnist": NamedSet(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        47_040_016,
        _idx,
    ),
    "cifar10": NamedSet(
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
        170_052_171,
        _cifar10,
        packed="",
    ),
}
