"""Other projects' latents as a store of this one. Each importer knows one format, checks it, and guesses nothing.

N images, n of one shard, V values per position. Continues where it stopped, like encoding.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from harness.data import npy
from harness.data.importers import fast_dit, lightningdit, maskdit, repa
from harness.data.importers.source import SD_FACTOR, SD_SCALE, Source
from harness.data.latents import shards
from harness.data.latents.shards import Description, Manifest, VaeIdentity
from harness.system.errors import DataError, unknown
from harness.system.files import read_limited

LARGEST_LABELS = 2**30  # bytes of a file of labels

FORMATS: dict[str, Callable[[Path], AbstractContextManager[Source]]] = {
    "maskdit-lmdb": maskdit.opened,
    "fast-dit": fast_dit.opened,
    "repa-zip": repa.opened,
    "safetensors": lightningdit.opened,
}


def import_latents(
    format: str,
    source: Path,
    out: Path,
    *,
    vae: VaeIdentity,
    labels: Path | None = None,
    name: str | None = None,
    num_classes: int = 1000,
    expected_images: int | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> Manifest:
    """Convert the latents in `source`, of the given format, to a store in `out`. The same call continues.

    `vae` is who made them, which no format records. `labels` is a .npy file of (N,) whole numbers in the source's
    order, for sources without labels; those of a source that has them are never replaced. `expected_images` is how many
    there must be; without it, any number of the format's is taken. `advance` gets the number of images done.
    Raises UsageError for an unknown format, DataError when the source is not what its format says, SetupError when a
    package is missing.
    """
    if format not in FORMATS:
        raise unknown("format of latents", format, FORMATS)
    if not source.exists():
        raise DataError(f"{source} does not exist. Give the path of the latents to import.")
    with FORMATS[format](source) as found:
        found.check_count(expected_images, num_classes)
        given = _given_labels(labels, found)
        shards.begin(out, _description(found, format, vae, name or out.resolve().name, num_classes))
        _copy(found, given, out, advance)
    return shards.finish(out)


def _copy(found: Source, given: np.ndarray | None, out: Path, advance: Callable[[int], None]) -> None:
    """Write the shards that are not there yet."""
    finished = shards.finished_shards(out)
    for number, start in enumerate(range(0, found.num_images, shards.SHARD_IMAGES)):
        stop = min(start + shards.SHARD_IMAGES, found.num_images)
        if number not in finished:
            part = found.read(start, stop)
            labels = part.labels if given is None else given[start:stop]
            if labels is None:
                raise DataError("the source holds no labels. Give them as a .npy file of whole numbers with --labels.")
            shards.write_shard(out, number, part.values, labels, part.flipped)
        advance(stop)


def _description(found: Source, format: str, vae: VaeIdentity, name: str, num_classes: int) -> Description:
    return Description(
        name=name,
        source=f"imported from {format}{found.remark and '; '}{found.remark}",
        layout=found.layout,
        channels=found.channels,
        side=found.side,
        image_size=found.side * SD_FACTOR,
        scale=SD_SCALE,
        flips="stored" if found.has_flips else "none",
        crop=found.crop,
        vae=vae,
        num_images=found.num_images,
        num_classes=num_classes,
    )


def _given_labels(path: Path | None, found: Source) -> np.ndarray | None:
    if path is None:
        return None
    if found.has_labels:
        raise DataError(f"the source has labels of its own, so {path} is not needed. Leave out --labels.")
    try:
        labels = npy.parse(read_limited(path, LARGEST_LABELS))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as labels: {error}. Give a .npy file of whole numbers.") from None
    if labels.shape != (found.num_images,) or labels.dtype.kind not in "iu":
        raise DataError(
            f"{path} holds {labels.dtype} of shape {labels.shape}, and the source has {found.num_images:,} images. "
            "Give one whole number per image."
        )
    return labels
