"""What generated images are measured against: the training images themselves, a data set, or a file like ADM's.

R images of the reference, D features of one.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import harness
from harness.data import sources
from harness.data.dataset import Dataset
from harness.data.images import image_folder
from harness.evaluation.images.image_set import DataImages, ImageSet
from harness.evaluation.images.image_sets import Subset, content_of, refuse_unusable
from harness.evaluation.metrics import measure as metrics
from harness.evaluation.metrics.statistics import Moments, gaussian_of
from harness.evaluation.networks import extract
from harness.evaluation.networks.base import FeatureNetwork
from harness.evaluation.reference_file import Source, read_reference, write_reference
from harness.recipes.naming import digest
from harness.recipes.seeds import mix
from harness.system.errors import DataError, UsageError
from harness.system.processes.world import World

NUM_POINTS = 10_000  # images of a reference behind precision and recall, as in ADM's
OF_THE_DATA = "data"  # what a configuration calls the training images themselves
_ADM = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/imagenet/"
PUBLISHED = {  # ADM's reference batches by the name of their file; their hashes are not published
    "VIRTUAL_imagenet256_labeled.npz": f"{_ADM}256/VIRTUAL_imagenet256_labeled.npz",
    "VIRTUAL_imagenet512.npz": f"{_ADM}512/VIRTUAL_imagenet512.npz",
}


def of_data(data: Dataset) -> Source:
    """The images of a data set. Raises DataError for latents, which no feature network takes."""
    if not data.real:
        raise DataError(f"{data.name} is random numbers: a distance to it would mean nothing. Name another reference.")
    if data.vae is not None or data.channels not in (1, 3):
        raise DataError(
            f"{data.name} holds latents, and metrics are of images. Name a reference with --reference, like "
            f"{next(iter(PUBLISHED))}, or make one of the images with `harness evaluate IMAGES --make-reference`."
        )
    return Source(data.name, data.sha256, DataImages(data), num_images=len(data), data=data)


def open_reference(name: str, data: Dataset | None = None) -> Source:
    """The reference called `name`: "data" (the training images), a data set, or a file by its path or name.

    A file is looked for at its path and in the folder references/ of the data folder. Raises DataError when it is
    neither, damaged, or latents.
    """
    if name == OF_THE_DATA and data is not None:
        return of_data(data)
    path = find(name)
    if path is None:
        return of_data(sources.load(name))
    return read_reference(path)


def find(name: str) -> Path | None:
    """The reference file called `name`; None for a data set's name. Raises DataError when there is no such file."""
    if not name.strip():
        raise UsageError("--reference is empty. Give a reference file, or the name of a data set.")
    folder = sources.data_folder() / "references"
    for path in (Path(name), folder / name):
        if path.is_file():
            return path
    if Path(name).is_dir():
        raise DataError(
            f"{name} is a folder. Make a reference of its images with `harness evaluate {name} --make-reference "
            "FILE.npz`, and name that."
        )
    if name.endswith(".npz") or "/" in name:
        address = f"Fetch {PUBLISHED[Path(name).name]} into {folder}" if Path(name).name in PUBLISHED else "Check it"
        raise DataError(f"there is no reference {name}, here or in {folder}. {address}, or name another --reference.")
    return None


def prepare(
    source: Source,
    network: FeatureNetwork,
    folder: Path,
    *,
    device: torch.device,
    with_points: bool,
    world: World = World(),
    advance: Callable[[int], None] = lambda done: None,
) -> metrics.Reference | None:
    """Statistics and, if asked for, features of the reference; those of its images are kept in `folder`.

    Where the file gives statistics they are used, as in ADM's evaluator, and its images are points alone. The main
    process has it, the others get None.
    """
    source.refuse(network)
    needed = with_points or source.pool is None
    features = None
    if needed and source.images is not None:
        sha256 = None
        if world.is_main:
            content = content_of(source.images)
            refuse_unusable(source.images, content)
            sha256 = content.sha256
        features = extract.features_of_content(
            source.images, world.agreed(sha256), network, folder, device=device, world=world, advance=advance
        )
    if not world.is_main:
        return None
    pool, spatial = source.pool, source.spatial
    if pool is None:
        assert features is not None, "a reference holds statistics or images"
        pool = gaussian_of(features.pool)
        spatial = None if features.spatial is None else gaussian_of(features.spatial)
    points = features.pool[points_of(source)] if features is not None and with_points else None
    return metrics.Reference(pool, spatial, points)


def points_of(source: Source) -> Tensor:
    """The images that precision and recall compare with: all of a file's, as ADM does; of a data set at most 10,000.

    Among 60,000 points the neighbours of all take longer than everything else that is measured.   (P,)
    """
    assert source.images is not None, "a reference without images has no points"
    count = len(source.images)
    if source.data is None or count <= NUM_POINTS:
        return torch.arange(count)
    return _some(count)


def _some(count: int) -> Tensor:
    """Up to 10,000 of so many images, the same ones always.   (P,)"""
    generator = torch.Generator().manual_seed(mix("reference", count))
    return torch.randperm(count, generator=generator)[:NUM_POINTS].sort().values


class Photographs(ImageSet):
    """A folder of photographs, one folder a class, cropped as ADM crops ImageNet."""

    def __init__(self, folder: Path, size: int):
        self._listing = image_folder.listing(folder)
        self._decoder = image_folder.Decoder(folder, size)
        self.name, self.shape, self.labels = folder.resolve().name, (size, size, 3), self._listing.labels

    @property
    def sha256(self) -> str:
        """Of the files' names and sizes, and of how they are cropped."""
        return digest({"files": self._listing.sha256, "size": self.shape[0]})

    def __len__(self) -> int:
        return len(self._listing.files)

    def read(self, start: int, stop: int) -> Tensor:  # (B, S, S, 3) uint8
        return self._decoder.decode(self._listing.files[start:stop]).permute(0, 2, 3, 1).contiguous()


def make(
    images: ImageSet,
    network: FeatureNetwork,
    path: Path,
    *,
    data_sha256: str,
    world: World = World(),
    advance: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Write the statistics of all `images` and 10,000 of them to `path`, as ADM's reference batches are made.

    Nothing is held but sums, so that ImageNet's training set will do; processes share the images. Returns what the
    file says about itself.
    """
    network.refuse(images.shape)
    if len(images) < 2:
        raise DataError(f"{images.name} holds {len(images)} image(s); statistics need at least 2. Give more.")
    pool = Moments(network.pool_size)
    spatial = None if network.spatial_size is None else Moments(network.spatial_size)
    for number, first in enumerate(range(0, len(images), extract.PART_IMAGES)):
        stop = min(first + extract.PART_IMAGES, len(images))
        if number % world.size == world.rank:
            features = network(images.read(first, stop))
            pool.update(features.pool)
            if spatial is not None and features.spatial is not None:
                spatial.update(features.spatial)
        advance(stop)
    for theirs in world.gathered((pool, spatial))[1:]:
        if world.is_main:
            pool.merge(theirs[0])
            if spatial is not None:
                spatial.merge(theirs[1])
    provenance = {
        "data": images.name,
        "data_sha256": data_sha256,
        "num_images": len(images),
        "features": network.name,
        "features_sha256": network.sha256,
        **({"grey_channel": "repeated"} if network.repeats(images.shape) else {}),
        **({"notes": list(images.notes)} if images.notes else {}),
        "harness_version": harness.__version__,
    }
    if world.is_main:
        write_reference(
            path,
            pool=pool.gaussian(),
            spatial=None if spatial is None else spatial.gaussian(),
            images=Subset(images, _some(len(images))),
            provenance=provenance,
        )
    return provenance
