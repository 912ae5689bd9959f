"""The data sets a run can name, and the folders it can point at.

N images, C channels, S side.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from harness.data import names as known
from harness.data.dataset import Dataset, InMemory
from harness.data.names import LATENT_SETS, SYNTHETIC, data_folder
from harness.recipes.config import LARGEST_SIZE, InputShape, RunConfig
from harness.system.errors import DataError, UsageError

SYNTHETIC_IMAGES = 512
SD_LATENT = InputShape(channels=4, side=32, num_classes=1000)  # what a 256 x 256 image is behind the SD VAE


def names() -> list[str]:
    """The data sets that --data knows by name: those that are made here, and sets of latents."""
    return list(known.ALL)


def load(
    name: str,
    *,
    shape: InputShape | None = None,
    pipeline: str = "cached",
    vae: str | None = None,
    size: int | None = None,
) -> Dataset:
    """The data set called `name`, or the images or latents at that path; "online-vae" encodes a folder of images.

    Images that the network sees as pixels are brought to `size`, by default the size that they have.

    Raises UsageError with the nearest names when it is neither, DataError when it is not there or does not fit `shape`.
    """
    if pipeline != "online-vae" or not name.strip():
        known.require(name)
    data = _open(name, shape, pipeline, vae, size)
    if vae is not None and data.vae is None and data.real:
        raise DataError(
            f"{data.name} holds images, and this run trains on latents of {vae}. Encode them with `harness data "
            "encode`, or train on their pixels: --set vae=null --set input=null."
        )
    if vae is not None and data.vae != vae and data.real:
        raise DataError(
            f"{data.name} was encoded with the VAE {data.vae}, and this run asks for {vae}. "
            f"Train on latents of {vae}, or say --set vae={data.vae or 'null'}."
        )
    if shape is not None and data.shape != shape:
        raise DataError(
            f"{data.name} holds {_describe(data.shape)}, and this recipe takes {_describe(shape)}. Give the data that "
            "belongs to it with --data, or say --set input=null to build the network for this data."
        )
    return data


def is_here(name: str) -> bool:
    """Whether the data set or the folder of this name is on this machine; nothing of it is read or downloaded."""
    from harness.data.images import named

    if name in named.SETS:
        return named.is_here(name, data_folder())
    return name in _MADE or any(place.exists() for place in (Path(name), data_folder() / name))


def holds_latents(folder: Path) -> bool:
    """Whether a set of latents is in this folder, or was begun there."""
    return any((folder / file).exists() for file in ("manifest.json", "description.json"))


def latents_folder(name: str) -> Path | None:
    """The folder of the latents of this name, or at this path; None: the name is of something else."""
    if name in LATENT_SETS:
        return data_folder() / name
    return Path(name) if name not in names() and holds_latents(Path(name)) else None


def of(cfg: RunConfig) -> Dataset:
    """The data set of a run. Raises as `load` does."""
    protocol = cfg.protocol
    return load(protocol.data, shape=cfg.input, pipeline=protocol.pipeline, vae=protocol.vae, size=protocol.size)


def of_section(protocol: object) -> Dataset:
    """The data set of `protocol`, a configuration's section that is not validated yet, of any shape. Raises as `load`
    does."""
    section = protocol if isinstance(protocol, dict) else {}
    name, pipeline, vae, size = (section.get(key) for key in ("data", "pipeline", "vae", "size"))
    sound = isinstance(size, int) and 2 <= size <= LARGEST_SIZE  # what is not is refused with the rest of the section
    return load(str(name), pipeline=str(pipeline), vae=vae, size=size if sound else None)


def _open(name: str, shape: InputShape | None, pipeline: str, vae: str | None, size: int | None) -> Dataset:
    folder, online = Path(name), pipeline == "online-vae"
    if not online and (pixels := _pixels(name, size)) is not None:
        return pixels
    if size is not None:
        raise UsageError(
            f"protocol.size is {size}: it brings images to a size, and {name} is trained on as it is. Leave it out."
        )
    if online:
        return _images(folder, shape, vae)
    if name == SYNTHETIC:
        return _synthetic(shape or SD_LATENT)
    if name in _MADE:
        return _MADE[name]()
    if name in LATENT_SETS:
        folder = data_folder() / name
    from harness.data.latents.sets import LatentStore

    return LatentStore(folder)


def _pixels(name: str, size: int | None) -> Dataset | None:
    """Images that the network sees as they are: a set by its name, a folder, an .npz. None: the name is of another."""
    from harness.data.images import named, own

    path = Path(name)
    if name in named.SETS:
        return named.load(name, data_folder(), size)
    if name in names():
        return None
    if path.is_file():
        return own.archive(path, size)
    return own.folder(path, size) if path.is_dir() and not holds_latents(path) else None


def _images(folder: Path, shape: InputShape | None, vae: str | None) -> Dataset:
    if str(folder) != SYNTHETIC and not folder.is_dir():
        raise DataError(
            f"--pipeline online-vae encodes images in every step, and {folder} is no folder. Give the folder of the "
            "images, one folder a class, with --data; or --data synthetic, for speed alone."
        )
    if vae is None:
        raise UsageError(
            "--pipeline online-vae needs a VAE; name it with --set vae=stabilityai/sd-vae-ft-ema. To train on the "
            "pixels, without a VAE, leave --pipeline out."
        )
    if str(folder) == SYNTHETIC:
        from harness.data.images.synthetic_images import SyntheticImages

        return SyntheticImages(SYNTHETIC, shape or SD_LATENT, vae_id=vae)
    from harness.data.images import image_folder

    return image_folder.ImageFolder(folder, vae_id=vae, image_size=(shape or SD_LATENT).side * image_folder.VAE_FACTOR)


def _describe(shape: InputShape) -> str:
    return f"{shape.channels} x {shape.side} x {shape.side} with {shape.num_classes:,} classes"


def digits() -> InMemory:
    """1,797 handwritten digits, 8 x 8, 17 grey levels (UCI, shipped inside scikit-learn), scaled to [-1, 1]."""
    from sklearn.datasets import load_digits  # slow to import, and only this set needs it

    images, labels = load_digits(return_X_y=True)
    clean = torch.from_numpy(images).float().reshape(-1, 1, 8, 8) / 8 - 1
    return InMemory("digits", clean, torch.from_numpy(labels).long(), num_classes=10)


def _synthetic(shape: InputShape) -> Dataset:
    """512 Gaussian latents of the shape a run asks for: for speed without data."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(SYNTHETIC_IMAGES, shape.channels, shape.side, shape.side, generator=generator)
    labels = torch.randint(shape.num_classes, (SYNTHETIC_IMAGES,), generator=generator)
    return InMemory(SYNTHETIC, clean, labels, shape.num_classes, real=False)


_MADE: dict[str, Callable[[], Dataset]] = {
    "digits": digits,
    SYNTHETIC: lambda: _synthetic(SD_LATENT),
}
