"""Features of a set of images: extracted in parts that processes share out, kept, and never extracted twice.

N images, D, S and K numbers of pooled, spatial and class outputs.
"""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from harness.evaluation.images.image_set import ImageSet
from harness.evaluation.images.image_sets import content_of
from harness.evaluation.networks.base import FeatureNetwork, Features
from harness.recipes.naming import digest
from harness.records.provenance import installed
from harness.system.errors import DataError
from harness.system.files import cache_folder
from harness.system.processes.world import World
from harness.system.weights import read_checked, write_checked

PART_IMAGES = 512  # a multiple of every network's batch; 100 MB of 256 x 256 images at once
_THAT_COMPUTE = ("torch", "torch-fidelity", "transformers", "pillow")
log = logging.getLogger(__name__)

VERSION = 1  # raise it when the code changes what features of the same images are


def cache() -> Path:
    """Where the features of images outside a run folder are kept."""
    return cache_folder() / "features"


def kept_in(folder: Path, samples: str, network: FeatureNetwork, device: torch.device) -> Path:
    """Where the features of the images called `samples`, a hash of what decides their pixels, are kept.

    The name says everything that decides the numbers, so that no other features are ever taken for them.
    """
    key = {
        "network": network.sha256, "batch": network.batch_size, "device": device.type, "version": VERSION,
        "packages": {name: version for name, version in installed().items() if name in _THAT_COMPUTE},
    }  # fmt: skip
    return folder / samples[:16] / f"{network.name}-{digest(key)[:16]}"


def known(folder: Path, num_images: int) -> Features | None:
    """All the features kept in `folder`, when there are those of every one of `num_images` images, undamaged."""
    bounds = _bounds(num_images)
    parts = [part for bound in bounds if (part := _read(_path(folder, *bound), bound))]
    return _joined(parts) if parts and len(parts) == len(bounds) else None


def features_of(
    images: ImageSet,
    network: FeatureNetwork,
    folder: Path,
    *,
    world: World = World(),
    advance: Callable[[int], None] = lambda done: None,
) -> Features | None:
    """The features of all images in order; each process extracts every world.size-th part and keeps it in `folder`.

    The main process has them, the others get None. Parts that are there and sound are not extracted again. Raises
    DataError when the network cannot take these images or the folder, unless it is the cache's, cannot be written.
    """
    network.refuse(images.shape)
    bounds, mine, unkept = _bounds(len(images)), {}, {}
    for number, (first, stop) in enumerate(bounds):
        if number % world.size == world.rank:
            path = _path(folder, first, stop)
            known = _read(path, (first, stop))
            if known is None:
                known = network(images.read(first, stop))
                if not _kept(path, known):
                    unkept[first] = known
            mine[first] = known
        advance(stop)
    world.wait()
    for parts_of_one in world.gathered(unkept):
        mine |= parts_of_one
    if not world.is_main:
        return None
    parts = [part for bound in bounds if (part := mine.pop(bound[0], None) or _read(_path(folder, *bound), bound))]
    if len(parts) < len(bounds):
        raise DataError(f"features in {folder} were damaged while they were extracted; repeat the command.")
    return _joined(parts)


def features_of_content(
    images: ImageSet,
    sha256: str,
    network: FeatureNetwork,
    home: Path,
    *,
    device: torch.device,
    world: World = World(),
    advance: Callable[[int], None] = lambda done: None,
) -> Features | None:
    """`features_of` images whose pixels have this hash, kept in `home` under it.

    The pixels are hashed once more afterwards: features of a file that changed meanwhile would for ever be taken for
    those of the hash. Raises DataError then, and keeps none.
    """
    folder = kept_in(home, sha256, network, device)
    features = features_of(images, network, folder, world=world, advance=advance)
    if world.is_main and content_of(images).sha256 != sha256:
        shutil.rmtree(folder, ignore_errors=True)  # it is not there where nothing could be kept
        raise DataError(f"{images.name} has changed while it was measured. Repeat the command when it is whole.")
    return features


def clear_leftovers(folder: Path) -> None:
    """Remove what a kill left half written in `folder`. Only the process that has the lock (locks.turn) may."""
    for unfinished in folder.glob(".*.tmp"):
        unfinished.unlink()


def _bounds(num_images: int) -> list[tuple[int, int]]:
    return [(first, min(first + PART_IMAGES, num_images)) for first in range(0, num_images, PART_IMAGES)]


def _path(folder: Path, first: int, stop: int) -> Path:
    return folder / f"features-{first:07d}-{stop:07d}.safetensors"


def _kept(path: Path, features: Features) -> bool:
    """Whether the features could be written to `path`. Only in the cache may that fail: no result needs them there."""
    try:
        write_checked(path, {name: values for name, values in features._asdict().items() if values is not None})
    except DataError as error:
        if not path.is_relative_to(cache_folder()):
            raise
        log.warning("features cannot be kept for the next time (%s); set HARNESS_CACHE to another folder", error)
        return False
    return True


def _read(path: Path, part: tuple[int, int]) -> Features | None:
    """The features kept at `path`; None when they are missing, damaged or of another part."""
    try:
        tensors, _ = read_checked(path)
        whole = all(len(values) == part[1] - part[0] for values in tensors.values())
        return Features(**tensors) if whole else None
    except (OSError, ValueError, TypeError):
        return None


def _joined(parts: list[Features]) -> Features:
    """One tensor a kind; the parts of each kind are freed once copied, so that memory never holds all of them twice."""
    kinds: list[list[Tensor | None]] = [list(kind) for kind in zip(*parts, strict=True)]
    parts.clear()
    return Features.of_kinds(kinds.pop(0) for _ in range(len(kinds)))
