"""A folder of images, one folder a class, as ImageNet is unpacked; and the data set that encodes them in every step.

N images, B of a batch, S side in pixels, C latent channels, s = S / 8 side of a latent.
"""

import hashlib
import logging
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from harness.data.dataset import Dataset
from harness.data.images import reading
from harness.data.images.fitting import adm_centre_crop
from harness.data.latents import vae
from harness.model.randomness import Draw
from harness.system.errors import DataError, UsageError
from harness.system.processes import launch

VAE_FACTOR = 8  # pixels per latent position of the Stable Diffusion VAE, along one side
SYNSET = re.compile(r"n\d{8}")
IMAGENET = {1_281_167: "training", 50_000: "validation"}  # images of ILSVRC2012's sets

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


def listing(folder: Path) -> Listing:
    """The images under `folder`. Raises DataError unless it holds one folder of images for every class."""
    classes = class_names(folder)
    with ThreadPoolExecutor(launch.processors(), "lister") as pool:  # a network disk answers several questions at once
        contents = list(pool.map(lambda name: _images_in(folder / name), classes))
    digest, files, labels = hashlib.sha256(), [], []
    for label, (name, images) in enumerate(zip(classes, contents, strict=True)):
        if not images:
            raise _empty(folder, name)
        for image, size in images:
            files.append(f"{name}/{image}")
            digest.update(f"{name}/{image}\0{size}\n".encode())
        labels += [label] * len(images)
    _remark(classes, len(files))
    return Listing(folder, classes, files, torch.tensor(labels), digest.hexdigest())


class Decoder:
    """Reads image files into square uint8 tensors, several at a time: Pillow lets other threads work meanwhile."""

    def __init__(self, folder: Path, image_size: int, num_threads: int | None = None):
        self._folder, self._size = folder, image_size
        shared_by = launch.current().local_size
        self._pool = ThreadPoolExecutor(num_threads or max(1, min(16, launch.processors() // shared_by)), "decoder")

    def decode(self, files: Sequence[str], mirrored: Sequence[bool] | None = None) -> Tensor:  # (B, 3, S, S) uint8
        """Raises DataError for the first file that is no sound image."""
        images = torch.empty(len(files), 3, self._size, self._size, dtype=torch.uint8)
        for row, pixels in enumerate(self._pool.map(self._decode, files)):
            images[row] = torch.from_numpy(pixels).permute(2, 0, 1)
        if mirrored is not None and any(mirrored):
            images = torch.where(torch.tensor(mirrored)[:, None, None, None], images.flip(-1), images)
        return images

    def _decode(self, file: str) -> np.ndarray:  # (S, S, 3)
        image = reading.read(self._folder / file, judge=lambda image: _refuse_pixels(image, self._size))
        return np.array(adm_centre_crop(image.convert("RGB"), self._size))


def _refuse_pixels(image: Image.Image, size: int) -> None:
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
        return self._decoder.decode(files, (indices >= len(self)).tolist()), self.labels[images]


# Listing ---------------------------------------------------------------------------------------------------------


def class_names(folder: Path) -> list[str]:
    """Sorted, so that a name's place is its label. Raises DataError where there are no classes."""
    files, folders = reading.listed(folder)
    loose = [file.name for file in files if reading.image_kind(Path(file.path))]
    if folders and not loose:
        return [entry.name for entry in folders]
    found = f"{len(loose):,} images that belong to no class: {reading.some_of(loose)}" if loose else "no folders"
    raise DataError(f"{folder} holds {found}. Images are expected in one folder a class: {folder}/CLASS/IMAGE.JPEG.")


def _images_in(folder: Path) -> list[tuple[str, int]]:
    """Names and sizes in bytes, sorted. Raises DataError where an image would be left out."""
    files, folders = reading.listed(folder)
    images = [file for file in files if reading.is_named_as_image(file.name)]
    reading.refuse_left_out(folder, (file for file in files if not reading.is_named_as_image(file.name)))
    if images:
        reading.refuse_deeper(folder, folders)
    try:
        return [(image.name, image.stat().st_size) for image in images]
    except OSError as error:
        raise DataError(f"an image of {folder} cannot be read: {error.strerror}. Repeat the command.") from None


def _empty(folder: Path, name: str) -> DataError:
    if reading.listed(folder / name)[1]:
        return DataError(f"{folder / name} holds folders instead of images. Is {folder / name} the folder to give?")
    return DataError(
        f"the class {name} of {folder} holds no image ({', '.join(sorted(reading.SUFFIXES))}). "
        "Fetch its images, or remove the folder; without it, the classes after it are numbered otherwise."
    )


def _remark(classes: list[str], num_images: int) -> None:
    """Say when a folder is nearly ImageNet: an archive that was not unpacked whole is otherwise found at the end."""
    synsets = sum(SYNSET.fullmatch(name) is not None for name in classes)
    if synsets == len(classes) == 1000 and num_images not in IMAGENET:
        sets = " and ".join(f"the {name} set {count:,}" for count, name in IMAGENET.items())
        log.warning("1,000 classes of ImageNet with %s images; %s. Some may be missing.", f"{num_images:,}", sets)
    elif synsets == len(classes) > 900 and len(classes) != 1000:
        log.warning("%d classes of ImageNet; ILSVRC2012 has 1,000. Labels depend on all being there.", len(classes))
