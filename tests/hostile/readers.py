"""Every reader of a binary format, called as the product calls it: what it returns is small, what it raises is ours."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from harness.data import npy
from harness.data.importers import FORMATS
from harness.data.latents import sets as latents
from harness.data.latents import shards
from harness.data.npz import Archive
from harness.evaluation.images.image_sets import NpzImages
from harness.evaluation.networks.extract import _read as read_features
from harness.evaluation.reference_file import read_reference
from harness.system.errors import DataError, HarnessError

MOST = 2**22  # bytes that a reader may make of a file of a few kilobytes


def read_npz(path: Path) -> None:
    """All that is asked of an .npz: as images, as a reference, and every array in it."""
    with suppress(DataError), Archive(path) as archive:
        for name in archive.names[:20]:
            with suppress(DataError):
                rows = archive.array(name)
                assert rows.whole(limit_bytes=MOST).nbytes <= MOST
                rows.refuse_columns()
                if len(rows):
                    rows.read(0, 1)
                    rows.read(len(rows) - 1, len(rows))
    with suppress(DataError):
        images = NpzImages(path)
        images.read(0, min(len(images), 2))
    with suppress(DataError):
        read_reference(path)


def read_npy(path: Path, shape: tuple[int, ...] = (2, 8, 2, 2)) -> None:
    """Read an .npy as a shard of latents, and as another project's file."""
    if npy.problem(path, shape, np.dtype(np.float16)) is None:
        values = npy.mapped(path, shape)
        assert values.shape == shape
        assert np.array_equal(values, np.load(path, allow_pickle=False), equal_nan=True)
        target = np.empty(shape, np.float16)
        npy.read_into(path, target)
        assert np.array_equal(values, target, equal_nan=True)
    content = path.read_bytes()
    try:
        found = npy.parse(content)
    except ValueError:
        return
    assert found.nbytes <= len(content)


def read_store(folder: Path) -> None:
    """A store of latents: opened, verified, described, read."""
    for problem in latents.verify(folder):
        assert problem.strip()
    with suppress(HarnessError):
        store = latents.LatentStore(folder)
        store.read(torch.arange(len(store)))
        latents.info(folder)


def continue_store(folder: Path) -> None:
    """An unfinished store, continued."""
    with suppress(HarnessError):
        shards.finished_shards(folder)
        shards.finish(folder)


def read_safetensors(path: Path) -> None:
    """As cached features and, in a folder of its own, as LightningDiT's latents."""
    features = read_features(path, (0, 2))
    assert features is None or all(len(part) == 2 for part in features if part is not None)
    shard = path.parent / "shards" / "latents_rank00_shard000.safetensors"
    shard.parent.mkdir(exist_ok=True)
    shard.write_bytes(path.read_bytes())
    with suppress(HarnessError), FORMATS["safetensors"](shard.parent) as source:
        source.read(0, min(source.num_images, 2))
