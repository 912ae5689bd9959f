"""Latents of a VAE as a data set: read from the memory maps of a store, sampled from their posterior, and verified.

N images, B of a batch, R rows of it, C channels, S side, V values per position (2C or C). The folder's format, and how
one is made, is harness.data.latents.shards.
"""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.data import npy
from harness.data.dataset import Dataset
from harness.data.latents import verified
from harness.data.latents.shards import (
    REMAKE,
    Manifest,
    Shard,
    content_problem,
    read_labels,
    read_manifest,
)
from harness.model.randomness import Draw
from harness.recipes.naming import digest
from harness.system import files
from harness.system.errors import DataError

HALF = np.dtype(np.float16)
KNOWN_VAE = "sd-vae-ft"  # part of the ids of the VAE whose scale makes latents of photographs have unit variance


class LatentStore(Dataset):
    """A complete store. Opening checks all that is cheap: manifest, labels, every shard's header and size, no hashes.

    Raises DataError for anything a training run should not begin with.
    """

    real = True

    def __init__(self, folder: Path):
        self.manifest = manifest = read_manifest(folder)
        self.name, self.has_flips = manifest.name, manifest.flips == "stored"
        self.vae, self.vae_sha256 = manifest.vae.id, manifest.vae.sha256
        self._folder = folder
        self.channels, self.side, self.num_classes = manifest.channels, manifest.side, manifest.num_classes
        problems = [problem for shard in manifest.shards for problem in _shape_problems(folder, shard, manifest)]
        problems += _empty_classes(manifest)
        if problems:
            more = f" ({len(problems) - 1} more; `harness data verify` lists them.)" if len(problems) > 1 else ""
            raise DataError(f"{folder}: {problems[0]}{more}")
        self.labels = torch.from_numpy(read_labels(folder, manifest))
        files = [(shard.file, shard.count) for shard in manifest.shards]
        files += [(shard.flip_file, shard.count) for shard in manifest.shards if shard.flip_file]
        self._paths = [folder / file for file, _ in files]
        self._maps = [npy.mapped(folder / file, (count, *manifest.shape)) for file, count in files]
        self._starts = np.cumsum([0] + [len(values) for values in self._maps])

    @cached_property
    def sha256(self) -> str:
        """Of the values, the labels and what turns them into training images."""
        shards = [shard.files for shard in self.manifest.shards]
        facts = self.manifest.model_dump(include={"layout", "scale", "labels_sha256", "num_classes"})
        return digest({**facts, "shards": [list(files.values()) for files in shards]})

    def __len__(self) -> int:
        return self.manifest.num_images

    @property
    def num_files(self) -> int:
        return len(self._maps)

    def check(self, advance: Callable[[int], None]) -> None:
        """Every shard's hash, read from the disk only if the file has changed since it last had that hash."""
        files = {file: sha256 for shard in self.manifest.shards for file, sha256 in shard.files.items()}
        if wrong := verified.damaged(self._folder, files, advance):
            more = f" and {len(wrong) - 1} more shards" if len(wrong) > 1 else ""
            raise DataError(
                f"{self._folder}: {wrong[0]}{more} does not have the hash of the manifest: it was changed or damaged. "
                f"{REMAKE}"
            )

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:  # (B,) -> (B, V, S, S) float16, (B,) int64
        """Stored values, not yet sampled, gathered from the memory maps."""
        wanted = indices.numpy()
        shards = np.searchsorted(self._starts, wanted, side="right") - 1
        rows = wanted - self._starts[shards]
        if len(wanted) and (wanted.min() < 0 or shards.max() >= len(self._maps)):
            raise IndexError(f"an index is outside 0 to {self._starts[-1] - 1}")
        stored = torch.empty(len(wanted), *self.manifest.shape, dtype=torch.float16)
        target = stored.numpy()
        for place, (shard, row) in enumerate(zip(shards.tolist(), rows.tolist(), strict=True)):
            target[place] = self._maps[shard][row]
        return stored, self.labels[indices % len(self)]

    def everything(self) -> Tensor:  # (N, V, S, S) or (2N, V, S, S) float16
        """All stored values, mirrored ones after the others, for keeping the set on a GPU. Index it like `read`."""
        stored = torch.empty(int(self._starts[-1]), *self.manifest.shape, dtype=torch.float16)
        for path, start, stop in zip(self._paths, self._starts[:-1], self._starts[1:], strict=True):
            npy.read_into(path, stored[start:stop].numpy())
        return stored

    def to_clean(self, stored: Tensor, draw: Draw) -> Tensor:  # (R, V, S, S) -> (R, C, S, S) float32
        """A sample of each image's posterior, or the one that is stored, scaled."""
        if self.manifest.layout == "sample":
            return self.manifest.scale * stored.float()
        mean, std = stored.float().chunk(2, dim=1)
        return self.manifest.scale * (mean + std * draw.normal(*mean.shape[1:]))


def verify(
    folder: Path, *, expected_images: int | None = None, advance: Callable[[int], None] = lambda done: None
) -> list[str]:
    """Every problem of a store, each with what to do; reads all of it. `advance` gets the number of images done.

    expected_images is the size of the set that was to be encoded, like IMAGENET_IMAGES.
    """
    try:
        manifest = read_manifest(folder)
    except DataError as error:
        return [str(error)]
    problems = [*_count_problems(manifest, expected_images), *_empty_classes(manifest), *_repetitions(manifest)]
    try:
        read_labels(folder, manifest)
    except DataError as error:
        problems.append(str(error))
    done = 0
    for shard in manifest.shards:
        problems += _shard_problems(folder, shard, manifest)
        done += shard.count
        advance(done)
    return problems + _implausible(folder, manifest)


def info(folder: Path) -> dict[str, Any]:
    """What a person wants to know of a store: the manifest's facts, bytes on disk, its values on a sample."""
    manifest = read_manifest(folder)
    facts = manifest.model_dump(exclude={"schema_version", "kind", "class_counts", "class_names", "shards"})
    sample = _sample(folder, manifest)
    return {
        **facts,
        "vae": manifest.vae.id,
        "vae_revision": manifest.vae.revision,
        "shards": len(manifest.shards),
        "bytes": sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
        "images_per_class_min": min(manifest.class_counts),
        "images_per_class_max": max(manifest.class_counts),
        **{
            f"{part}_{of}": value for part, (mean, std) in sample.items() for of, value in (("mean", mean), ("sd", std))
        },
    }


# Parts -----------------------------------------------------------------------------------------------------------


def _shape_problems(folder: Path, shard: Shard, manifest: Manifest) -> list[str]:
    problems = {file: npy.problem(folder / file, (shard.count, *manifest.shape), HALF) for file in shard.files}
    return [f"{file} {problem}. {REMAKE}" for file, problem in problems.items() if problem]


def _shard_problems(folder: Path, shard: Shard, manifest: Manifest) -> list[str]:
    if problems := _shape_problems(folder, shard, manifest):
        return problems
    for file, sha256 in shard.files.items():
        if files.sha256_of(folder / file) != sha256:
            problems.append(f"{file} does not have the hash of the manifest: it was changed or damaged. {REMAKE}")
        if problem := content_problem(npy.mapped(folder / file, (shard.count, *manifest.shape)), manifest):
            problems.append(f"{file} holds {problem}. Remove the folder and make it anew.")
    return problems


def _count_problems(manifest: Manifest, expected_images: int | None) -> list[str]:
    if expected_images in (None, manifest.num_images):
        return []
    return [
        f"{manifest.num_images:,} images instead of {expected_images:,}. Encoders that name files per process "
        "overwrite each other's on several GPUs; check the source, remove the folder and make it anew."
    ]


def _empty_classes(manifest: Manifest) -> list[str]:
    empty = [name for name, count in enumerate(manifest.class_counts) if count == 0]
    if not empty:
        return []
    shown = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
    return [
        f"{len(empty)} of {manifest.num_classes} classes have no image ({shown}). Encode the missing class folders, or "
        "make the store anew with as many classes as there are."
    ]


def _repetitions(manifest: Manifest) -> list[str]:
    seen: dict[str, str] = {}
    files = [item for shard in manifest.shards for item in shard.files.items()]
    return [
        f"{file} equals {first}: images are there twice, or were not mirrored. Remove the folder and make it anew."
        for file, sha256 in files
        if (first := seen.setdefault(sha256, file)) != file
    ]


def _implausible(folder: Path, manifest: Manifest) -> list[str]:
    """Values that are possible but cannot be what the manifest calls them."""
    try:
        sample = _sample(folder, manifest)
    except DataError:
        return []  # it is reported already, and so are values that are not finite
    if not np.isfinite(list(sample.values())).all():
        return []
    problems = []
    spread = sample["mean" if manifest.layout == "mean,std" else "sample"][1]
    if manifest.layout == "mean,std" and sample["std"][0] > max(1.0, spread):
        problems.append(
            f"the standard deviations average {sample['std'][0]:.3g}, more than the means' spread of {spread:.3g}: "
            "they are something else. Check what the source stores and make the store anew."
        )
    if KNOWN_VAE in manifest.vae.id and not 0.4 < spread * manifest.scale < 2.5:
        problems.append(
            f"scaled latents spread by {spread * manifest.scale:.3g}; this VAE's spread by about 1. The source may "
            "have stored them scaled already, or by another VAE. Import them with their true scale."
        )
    return problems


def _sample(folder: Path, manifest: Manifest) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of the stored parts, over the first images of 16 shards. Raises DataError."""
    places = np.linspace(len(manifest.shards) - 1, 0, min(16, len(manifest.shards))).round().astype(int)
    some = [manifest.shards[place] for place in sorted(set(places.tolist()))]
    for problem in (problem for shard in some for problem in _shape_problems(folder, shard, manifest)):
        raise DataError(f"{folder}: {problem}")
    arrays = [npy.mapped(folder / shard.file, (shard.count, *manifest.shape)) for shard in some]
    values = np.concatenate([array[:64] for array in arrays]).astype(np.float64)
    parts = ("mean", "std") if manifest.layout == "mean,std" else ("sample",)
    halves = zip(parts, np.split(values, len(parts), axis=1), strict=True)
    with np.errstate(invalid="ignore"):  # infinite values
        return {part: (float(half.mean()), float(half.std())) for part, half in halves}
