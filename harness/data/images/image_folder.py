"""A folder of images, one folder a class, as ImageNet is unpacked; and the data set that encodes them in every step.

N images, B of a batch, S side in pixels, C latent channels, s = S / 8 side of a latent.
"""

import hashlib
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from harness.data.dataset import Dataset, mirrored_where
from harness.data.images import reading
from harness.data.images.fitting import adm_centre_crop
from harness.data.latents import vae
from harness.model.randomness import Draw
from harness.system.errors import DataError, UsageError, some_of
from harness.system.processes import launch

VAE_FACTOR = 8  # pixels per latent position of the Stable Diffusion VAE, along one side
SYNSET = re.compile(r"n\d{8}")
IMAGENET = {1_281_167: "training", 50_000: "validation"}  # images of ILSVRC2012's sets
PARTS = {"train", "training", "val", "valid", "validation", "test", "testing"}  # of a data set, by their folders

LARGEST_PIXELS = 2**26  # of one image, before or after it is brought to size; ImageNet's largest has 61 million

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Listing:
    """The images under a folder. Classes are numbered in the order of their names, images sorted within a class."""

    folder: Path
    class_names: list[str]
    files: list[str]  # N, relative to the folder: "n01440764/n01440764_10026.JPEG"
    labels: Tensor  # (N,) int64
    sha256: str  # of names and sizes: reading 150 GB for a hash at every start would take longer than it is worth


@dataclass(frozen=True, eq=False)
class Examined:
    """What a folder holds, sound or not."""

    class_names: list[str]
    files: list[tuple[str, int, int]]  # of each image its path in the folder, its size in bytes, its label
    problems: list[str]


def listing(folder: Path, *, flat: bool = False) -> Listing:
    """The images under `folder`. Raises DataError unless it holds one folder of images, at any depth, for every class.

    `flat` takes images without folders for one class.
    """
    found = examined(folder, flat=flat)
    if found.problems:
        more = f" ({len(found.problems) - 1} more problems; `harness data info {folder}` lists all.)"
        raise DataError(found.problems[0] + (more if len(found.problems) > 1 else ""))
    digest = hashlib.sha256("".join(f"{file}\0{size}\n" for file, size, _ in found.files).encode())
    _remark(found.class_names, len(found.files))
    files, labels = [file for file, _, _ in found.files], torch.tensor([label for _, _, label in found.files])
    return Listing(folder, found.class_names, files, labels, digest.hexdigest())


def examined(folder: Path, *, flat: bool = False) -> Examined:
    """All that lies under a folder of classes, and everything that `listing` would refuse."""
    classes, problems = _classes(folder, flat)
    names = list(classes)
    with ThreadPoolExecutor(launch.processors(), "lister") as pool:  # a network disk answers several questions at once
        contents = list(pool.map(partial(_images_in, folder), classes.values()))
    files = []
    for label, (images, wrong) in enumerate(contents):
        files += [(file, size, label) for file, size in images]
        problems += wrong
    return Examined(names, files, problems)


class Decoder:
    """Reads image files into square uint8 tensors, several at a time: Pillow lets other threads work meanwhile.

    Images of one channel or three; `square` brings each to its size.
    """

    def __init__(
        self,
        folder: Path,
        image_size: int,
        *,
        channels: int = 3,
        square: Callable[[Image.Image, int], Image.Image] = adm_centre_crop,
    ):
        self._folder, self._size, self._channels, self._square = folder, image_size, channels, square
        shared_by = launch.current().local_size
        self._pool = ThreadPoolExecutor(max(1, min(16, launch.processors() // shared_by)), "decoder")

    def decode(self, files: Sequence[str]) -> Tensor:  # (B, C, S, S) uint8
        """Raises DataError for the first file that is no sound image."""
        images = torch.empty(len(files), self._channels, self._size, self._size, dtype=torch.uint8)
        for row, pixels in enumerate(self._pool.map(self._decode, files)):
            images[row] = torch.from_numpy(pixels).permute(2, 0, 1)
        return images

    def shapes(self, files: Sequence[str]) -> list[tuple[int, int, int]]:  # (H, W, C) each
        """By the beginnings of the files. Raises DataError for the first that shows that it cannot be read."""
        return list(self._pool.map(lambda file: reading.shape(self._folder / file), files))

    def each(self, files: Sequence[str]) -> Iterator[Image.Image | DataError]:
        """The images as they are, and what keeps others from being read."""
        return self._pool.map(self._tried, files)

    def _tried(self, file: str) -> Image.Image | DataError:
        try:
            return self._read(file)
        except DataError as error:
            return error

    def _read(self, file: str) -> Image.Image:
        return reading.read(self._folder / file, judge=lambda image: refuse_pixels(image, self._size))

    def _decode(self, file: str) -> np.ndarray:  # (S, S, C)
        image, path = self._read(file), self._folder / file
        if self._channels == 1 and image.mode != "L":
            raise DataError(f"{path} has become another image while the folder was read. Repeat the command.")
        square = self._square(image.convert("RGB") if self._channels == 3 else image, self._size)
        return np.array(square).reshape(self._size, self._size, self._channels)


def refuse_pixels(image: Image.Image, size: int) -> None:
    """ValueError for an image that would fill the memory, as it is or, being a strip, once its short side is `size`."""
    width, height = image.size
    longest = max(width, height) * max(size / min(width, height), 1)
    if width * height > LARGEST_PIXELS or longest * size > LARGEST_PIXELS:
        raise ValueError(f"{width} x {height} pixels are more than any photograph's")


class EncodedInStep(Dataset):
    """Images that the VAE encodes in every step, as DiT's and MDT's training codes do ("online-vae")."""

    def to_clean(self, stored: Tensor, draw: Draw) -> Tensor:  # (R, 3, S, S) uint8 -> (R, C, s, s) float32
        """A sample of each image's posterior, scaled; encoded where `stored` is, in TF32 if the run is."""
        assert self.vae is not None, "online-vae names one"
        encoder = vae.load(self.vae, stored.device)
        mean, std = encoder.moments(stored, exact=False).chunk(2, dim=1)
        return encoder.scale * (mean + std * draw.normal(*mean.shape[1:]))


class ImageFolder(EncodedInStep):
    """A folder of images, one folder a class."""

    real = True
    has_flips = True

    def __init__(self, folder: Path, *, vae_id: str, image_size: int = 256):
        class_names(folder)  # refuse a wrong folder at once,
        encoder = vae.load(vae_id)  # and a missing VAE before ImageNet is listed, which takes a while
        if image_size % encoder.factor:
            raise UsageError(f"image size {image_size} is no multiple of {encoder.factor}, as the VAE {vae_id} needs.")
        self.listing = listing(folder)
        self.name, self.vae, self.vae_sha256 = folder.resolve().name, vae_id, encoder.sha256
        self.labels = self.listing.labels
        self.num_classes = len(self.listing.class_names)
        self.channels, self.side = encoder.channels, image_size // encoder.factor
        self._decoder = Decoder(folder, image_size)

    @property
    def sha256(self) -> str:
        """Of the files' names and sizes."""
        return self.listing.sha256

    def __len__(self) -> int:
        return len(self.listing.files)

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:  # (B,) -> (B, 3, S, S) uint8, (B,)
        """Decoded and cropped images."""
        images = indices % len(self)
        files = [self.listing.files[image] for image in images.tolist()]
        return mirrored_where(indices >= len(self), self._decoder.decode(files)), self.labels[images]


# Listing ---------------------------------------------------------------------------------------------------------


def class_names(folder: Path) -> list[str]:
    """Sorted, so that a name's place is its label. Raises DataError where there are no classes."""
    names, problems = _classes(folder, flat=False)
    if problems:
        raise DataError(problems[0])
    return list(names)


def _classes(folder: Path, flat: bool) -> tuple[dict[str, str], list[str]]:
    """The folder of each class by its name, and what is wrong with them."""
    files, folders = reading.listed(folder)
    loose = [file.name for file in files if reading.image_kind(Path(file.path))]
    if flat and loose and not folders:
        return {folder.resolve().name: ""}, []
    problems = []
    if loose:
        problems.append(f"{folder} holds {len(loose):,} images that belong to no class: {some_of(loose)}")
    elif not folders:
        problems.append(f"{folder} holds no folders" + (", no images and no latents" if flat else ""))
    problems = [f"{said}. Images are expected in one folder a class: {folder}/CLASS/IMAGE.JPEG." for said in problems]
    alike: dict[str, list[str]] = {}
    for entry in folders:
        alike.setdefault(unicodedata.normalize("NFC", entry.name).casefold(), []).append(entry.name)
    problems += [
        f"the classes {' and '.join(names)} of {folder} have one name in different letters, and would be one class on "
        "another disk. Join or rename them."
        for names in alike.values()
        if len(names) > 1
    ]
    if (alike.keys() <= PARTS or len(folders) == 1) and any(_only_folders(entry) for entry in folders):
        problems.append(
            f"{folder} holds {' and '.join(entry.name for entry in folders)}, with images only in further folders: "
            f"that is one class alone, or parts of a data set. Is {folders[0].path} the folder to give?"
        )
    return {entry.name: entry.name for entry in folders}, problems


def _only_folders(folder: os.DirEntry[str]) -> bool:
    files, folders = reading.listed(Path(folder.path))
    return bool(folders) and not any(reading.is_named_as_image(file.name) for file in files)


def _images_in(folder: Path, place: str) -> tuple[list[tuple[str, int]], list[str]]:
    """Paths in `folder` and sizes in bytes of the images under its folder `place`, and what is wrong with them."""
    try:
        files, start = list(reading.walk(folder / place)), len(str(folder / place)) + 1
        images = [
            (f"{place}/{file.path[start:]}" if place else file.name, file.stat().st_size)
            for file in files
            if reading.is_named_as_image(file.name)
        ]
        problems = reading.left_out(folder, (file for file in files if not reading.is_named_as_image(file.name)))
    except DataError as error:
        return [], [str(error)]
    except OSError as error:
        return [], [f"an image of {folder / place} cannot be read: {error.strerror}. Repeat the command."]
    if not images and not problems:
        problems.append(
            f"the class {place} of {folder} holds no image ({', '.join(sorted(reading.SUFFIXES))}). Fetch its images, "
            "or remove the folder; without it, the classes after it are numbered otherwise."
        )
    return images, problems


def _remark(classes: list[str], num_images: int) -> None:
    """Say when a folder is nearly ImageNet: an archive that was not unpacked whole is otherwise found at the end."""
    synsets = sum(SYNSET.fullmatch(name) is not None for name in classes)
    if synsets == len(classes) == 1000 and num_images not in IMAGENET:
        sets = " and ".join(f"the {name} set {count:,}" for count, name in IMAGENET.items())
        log.warning("1,000 classes of ImageNet with %s images; %s. Some may be missing.", f"{num_images:,}", sets)
    elif synsets == len(classes) > 900 and len(classes) != 1000:
        log.warning("%d classes of ImageNet; ILSVRC2012 has 1,000. Labels depend on all being there.", len(classes))
