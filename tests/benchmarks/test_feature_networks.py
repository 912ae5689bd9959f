"""Throughput of the Inception pass behind FID. Recorded, never gated: `make bench`."""

import time

import pytest
import torch
from networks import noise

from harness.evaluation.networks import features, inception

SIDE = 256


@pytest.fixture(scope="module")
def network():
    return features.load("inception", "random")


def test_inception_pass(benchmark, network):
    """One batch of the fixed size, of 256 x 256 images, and the share of its time that goes into resizing them."""
    images = noise(inception.EVALUATION_BATCH, SIDE, SIDE)
    resized, times = [], []
    first = network.module.extractor.Conv2d_1a_3x3.register_forward_pre_hook(
        lambda *_: resized.append(time.perf_counter())
    )

    def one_pass():
        start = time.perf_counter()
        network(images)
        times.append((resized[-1] - start, time.perf_counter() - start))

    try:
        benchmark.pedantic(one_pass, rounds=3, warmup_rounds=1)
    finally:
        first.remove()
    resizing, whole = (sum(kind) for kind in zip(*times[1:], strict=True))
    benchmark.extra_info["images_per_second"] = len(images) * (len(times) - 1) / whole
    benchmark.extra_info["resize_share"] = resizing / whole
    benchmark.extra_info["batch_size"] = network.batch_size
    benchmark.extra_info["threads"] = torch.get_num_threads()
