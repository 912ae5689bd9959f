"""Sets of images that are read in pieces: .npz files, folders of PNGs, parts of a run.

N images, B of a piece, H height, W width, C channels.
"""

import bisect
import hashlib
import itertools
import math
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from harness.data import npy
from harness.data.images import image_archive, reading
from harness.data.npz import PIECE_BYTES
from harness.evaluation.images.image_set import ImageSet
from harness.system.errors import DataError, some_of
from harness.system.processes import launch

FEWEST_TO_JUDGE = 20  # images: of fewer, many copies may be meant
THREADS = 8  # that decode PNGs


class NpzImages(ImageSet):
    """The images of an .npz file, as ADM's evaluator takes it. Raises DataError as `image_archive.opened` does."""

    def __init__(self, path: Path):
        self._rows, self.labels = image_archive.opened(path, image_archive.NAMES[:1])
        height, width, channels = self._rows.shape[1:]
        self.name, self.shape = path.name, (height, width, channels)

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, start: int, stop: int) -> Tensor:
        return torch.from_numpy(self._rows.read(start, stop))


class PngFolder(ImageSet):
    """The PNGs in a folder and in the folders in it, sorted by their paths.

    Judged by their first bytes, whatever they are called. Raises DataError unless all can be read exactly and are of
    one size, and no other image lies among them. Grey images beside RGB ones are read as RGB.
    """

    def __init__(self, folder: Path):
        self._pool = ThreadPoolExecutor(min(THREADS, launch.processors()), "png")
        reading.refuse_name(folder)
        self._files = _pngs_in(folder, self._pool)
        shapes = list(self._pool.map(lambda file: reading.shape(file, ("PNG",)), self._files))
        self.name, self.shape = folder.resolve().name, _shape_of_all(folder, self._files, shapes)
        num_grey = sum(channels == 1 for _, _, channels in shapes)
        if num_grey and self.shape[2] == 3:
            self.notes = (
                f"{num_grey:,} of the {len(shapes):,} images are grey and were read as RGB, the channel repeated.",
            )

    def __len__(self) -> int:
        return len(self._files)

    def read(self, start: int, stop: int) -> Tensor:
        images = np.empty((stop - start, *self.shape), np.uint8)
        decoded = self._pool.map(partial(_decoded, shape=self.shape), self._files[start:stop])
        for row, pixels in enumerate(decoded):
            images[row] = pixels
        return torch.from_numpy(images)


class PartImages(ImageSet):
    """Images in .npy files, one after the other. Raises DataError when a file does not hold images of `shape`."""

    def __init__(
        self, name: str, paths: Sequence[Path], shape: tuple[int, int, int], labels: Tensor | None = None
    ):  # (H, W, C), (N,)
        counts = [_images_in_part(path, shape) for path in paths]
        self.name, self.shape, self._paths = name, shape, list(paths)
        self._bounds = [0, *itertools.accumulate(counts)]  # part i holds images bounds[i] .. bounds[i + 1] - 1
        assert labels is None or len(labels) == len(self), f"{len(labels)} labels for {len(self)} images"
        self.labels = None if labels is None else labels.long()

    def __len__(self) -> int:
        return self._bounds[-1]

    def read(self, start: int, stop: int) -> Tensor:
        images = np.empty((stop - start, *self.shape), np.uint8)
        done = start
        while done < stop:
            part = bisect.bisect_right(self._bounds, done) - 1
            until = min(stop, self._bounds[part + 1])
            self._read_part(part, done - self._bounds[part], images[done - start : until - start])
            done = until
        return torch.from_numpy(images)

    def _read_part(self, part: int, first: int, images: np.ndarray) -> None:
        path = self._paths[part]
        try:
            npy.read_into(path, images, first=first)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise DataError(f"{path} cannot be read: {reason}. Repeat the command that drew it.") from None


class Subset(ImageSet):
    """Some of a set's images, in the set's order whatever order `indices` come in, so that reading goes forward."""

    def __init__(self, images: ImageSet, indices: Sequence[int] | Tensor):  # of n images, n <= N
        self._images, self._indices = images, sorted(int(index) for index in indices)
        assert not self._indices or 0 <= self._indices[0] <= self._indices[-1] < len(images), "no such images"
        self.name, self.shape = images.name, images.shape
        self.labels = None if images.labels is None else images.labels[self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, start: int, stop: int) -> Tensor:
        chosen = torch.empty(stop - start, *self.shape, dtype=torch.uint8)
        done = 0
        for first, count in _runs(self._indices[start:stop]):
            chosen[done : done + count] = self._images.read(first, first + count)
            done += count
        return chosen


def open_images(path: Path) -> ImageSet:
    """The images in an .npz file or a folder of PNGs. Raises DataError for anything else, or when they are unusable."""
    if path.is_dir():
        return PngFolder(path)
    if not path.is_file():
        raise DataError(f"there are no images at {path}: no such file or folder. Check the path.")
    if path.suffix == ".npz" or zipfile.is_zipfile(path):
        return NpzImages(path)
    raise DataError(
        f"{path} is neither an .npz with images as arr_0, (N, H, W, C) uint8, nor a folder of PNGs. Give one."
    )


# What the images are -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Content:
    """What one pass over all images finds."""

    sha256: str  # of shape and pixels in order: the same whatever file the images came in
    num_distinct: int  # different images
    num_flat: int  # images of one colour
    brightest: int  # value in any image


def content_of(images: ImageSet, advance: Callable[[int], None] = lambda done: None) -> Content:
    """Reads all images once. Raises DataError when one cannot be read."""
    whole = hashlib.sha256(repr((len(images), *map(int, images.shape))).encode())
    distinct, num_flat, brightest = set(), 0, 0
    at_once = max(1, PIECE_BYTES // math.prod(images.shape))
    for start in range(0, len(images), at_once):
        piece = images.read(start, min(start + at_once, len(images))).contiguous().flatten(1, 2)  # (B, H * W, C)
        for image in piece.numpy():  # torch's threads would contend with those that decode PNGs
            brightest = max(brightest, int(image.max()))
            num_flat += _is_flat(image)
            digest = hashlib.sha256(image).digest()
            whole.update(digest)
            distinct.add(digest)
        advance(start + len(piece))
    return Content(whole.hexdigest(), len(distinct), num_flat, brightest)


def _is_flat(image: np.ndarray) -> bool:  # (H * W, C)
    """Few pixels settle it for nearly every image."""
    return bool((image[:32] == image[0]).all() and (image == image[0]).all())


def refuse_unusable(images: ImageSet, content: Content) -> None:
    """Raises DataError for images that came in a file and can only be a mistake: metrics of them would say nothing."""
    if content.brightest <= 1:
        raise DataError(
            f"no value in {images.name} exceeds {content.brightest}: images in [0, 1] were stored as uint8 without "
            "scaling. Save (255 * x + 0.5).astype(numpy.uint8)."
        )
    if content.num_flat == len(images):
        raise DataError(
            f"every image in {images.name} is of a single colour, so nothing was drawn. Check what wrote them, and "
            "that values were scaled to 0 .. 255."
        )
    if len(images) >= FEWEST_TO_JUDGE and 2 * content.num_distinct < len(images):
        raise DataError(
            f"most of the {len(images):,} images in {images.name} are copies: {content.num_distinct:,} differ. Check "
            "that every process and batch drew from a seed of its own."
        )


# Judging PNGs ------------------------------------------------------------------------------------------------------


def _pngs_in(folder: Path, pool: ThreadPoolExecutor) -> list[Path]:
    """Raises DataError when there are none, or images of another kind."""
    files = list(reading.walk(folder))
    found = _taken(folder, files, pool)
    if not found:
        npz = next((entry.path for entry in files if entry.name.endswith(".npz")), None)
        hint = f"Give {npz}, if that is meant." if npz else "Give a folder of PNGs, or of folders of PNGs."
        raise DataError(f"{folder} holds no PNG images. {hint}")
    return found


def _taken(folder: Path, files: Iterable[os.DirEntry[str]], pool: ThreadPoolExecutor) -> list[Path]:
    """The PNGs among these files. Raises DataError when there are images of another kind."""
    paths = [Path(file.path) for file in files]
    kinds = list(zip(paths, pool.map(reading.image_kind, paths), strict=True))
    others = [(path, kind) for path, kind in kinds if kind not in ("a PNG", None)]
    if others:
        path, kind = others[0]
        lossy = any("JPEG" in str(kind) for _, kind in others)
        why = "Lossy compression changes FID by several points (2.50 became 5.80 for one set). " if lossy else ""
        several = f" {len(others):,} files of {folder} are refused: " if len(others) > 1 else ""
        names = some_of(f"{path.name} ({kind})" for path, kind in others) + "." if several else ""
        raise DataError(
            f"{path} is {kind}, and only PNGs are taken. {why}Save the images as PNG from the start, not converted; or "
            f"remove it.{several}{names}"
        )
    return [path for path, kind in kinds if kind]


def _shape_of_all(folder: Path, files: list[Path], shapes: list[tuple[int, int, int]]) -> tuple[int, int, int]:
    height, width, _ = shapes[0]
    for file, shape in zip(files, shapes, strict=True):
        if shape[:2] != (height, width):
            raise DataError(
                f"{folder} holds images of several sizes: {files[0].relative_to(folder)} is {width} x {height}, "
                f"{file.relative_to(folder)} is {shape[1]} x {shape[0]}. Keep those of one size."
            )
    image_archive.refuse_pixels(files[0], (height, width))
    return height, width, max(channels for _, _, channels in shapes)


def _decoded(file: Path, shape: tuple[int, int, int]) -> np.ndarray:  # (H, W, C), or (H, W, 1) for a grey image
    """The pixels of a PNG that was judged. Raises DataError when they are damaged, or of another shape by now."""
    height, width, channels = shape

    def judge(image: Image.Image) -> None:
        if image.size != (width, height):  # a second header, behind the one that was judged
            raise ValueError(f"it unpacks to {image.size[0]} x {image.size[1]} pixels")

    pixels = np.array(reading.read(file, ("PNG",), judge=judge)).reshape(height, width, -1)
    if pixels.shape[2] > channels:
        raise DataError(f"{file} has become another image while the folder was read. Repeat the command.")
    return pixels


def _images_in_part(path: Path, shape: tuple[int, int, int]) -> int:
    """How many images of `shape` the file holds. Raises DataError unless it holds only such."""
    try:
        with open(path, "rb") as file:
            count = npy.header(file).shape[:1]
        problem = npy.problem(path, (*count, *shape), np.dtype(np.uint8))
    except (OSError, ValueError) as error:
        problem = f"cannot be read: {error}"
    if problem:
        raise DataError(f"{path} {problem}. Repeat the command that drew it.")
    return count[0]


def _runs(indices: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Sorted indices as stretches without gaps: their first index and length."""
    for _, stretch in itertools.groupby(enumerate(indices), key=lambda pair: pair[1] - pair[0]):
        members = [index for _, index in stretch]
        yield members[0], len(members)
