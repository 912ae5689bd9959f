"""How fast batches of latents are read from a store whose pages are cached. Recorded, never gated: `make bench`."""

import numpy as np
import pytest
import torch

from harness.data.latents import sets as latents
from harness.data.latents import shards
from harness.data.order import batch_indices
from harness.model.randomness import Draw

BATCH, SHARDS, SHAPE = 256, 4, (8, 32, 32)  # ImageNet's latents at 256 x 256: 16 KiB an image
NUM_IMAGES = SHARDS * shards.SHARD_IMAGES


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> latents.LatentStore:
    """256 MiB of latents, just written and so in the page cache."""
    folder = tmp_path_factory.mktemp("latents")
    shape = shards.Description(
        name="benchmark", source="random numbers", layout="mean,std", channels=SHAPE[0] // 2, side=SHAPE[1],
        image_size=256, crop="adm-centre", vae=shards.VaeIdentity(id="none"), num_images=NUM_IMAGES, num_classes=1000,
    )  # fmt: skip
    shards.begin(folder, shape)
    labels = np.arange(shards.SHARD_IMAGES) % 1000
    for number in range(SHARDS):
        rng = np.random.default_rng(number)
        shards.write_shard(folder, number, rng.random((shards.SHARD_IMAGES, *SHAPE), np.float32), labels)
    shards.finish(folder)
    return latents.LatentStore(folder)


def test_a_batch_in_random_order(benchmark, store):
    steps = iter(range(1_000_000))

    def indices():
        return (batch_indices(NUM_IMAGES, 0, next(steps), BATCH),), {}

    benchmark.pedantic(store.read, setup=indices, rounds=300, warmup_rounds=NUM_IMAGES // BATCH)
    note(benchmark, BATCH)


def test_the_whole_set_at_once(benchmark, store):
    """What keeping the set on a GPU costs before the copy there."""
    benchmark.pedantic(store.everything, rounds=3, warmup_rounds=1)
    note(benchmark, NUM_IMAGES)


def test_a_posterior_sample(benchmark, store):
    """On the CPU: on a GPU this is a small part of a step."""
    stored, _ = store.read(torch.arange(BATCH))
    draw = Draw.all_of(stored)
    benchmark.pedantic(store.to_clean, args=(stored, draw), rounds=50, warmup_rounds=5)
    note(benchmark, BATCH)


def note(benchmark, images):
    """Samples per second at the median round, beside the times."""
    if benchmark.enabled:
        benchmark.extra_info["samples_per_second"] = round(images / benchmark.stats.stats.median)
        benchmark.extra_info["bytes_per_sample"] = 2 * int(np.prod(SHAPE))
