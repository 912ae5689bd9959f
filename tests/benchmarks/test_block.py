"""Throughput of the block that all methods share, forward and backward. Recorded, never gated: `make bench`."""

import pytest
import torch

from harness.model.nn.blocks import DiTBlock

SIZES = {"tiny": (64, 16, 64, 4), "s": (4, 256, 384, 6), "xl": (1, 256, 1152, 16)}  # images, tokens, width, heads
MACS_OF_TOKEN = 12  # times width^2: qkv 3, out 1, mlp 8


@pytest.mark.parametrize("checkpointed", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("size", SIZES)
def test_block(benchmark, size, checkpointed):
    images, tokens, width, heads = SIZES[size]
    block = DiTBlock(width, heads)
    block.checkpointed = checkpointed
    x, cond = torch.randn(images, tokens, width, requires_grad=True), torch.randn(images, width)

    def both_ways():
        block.zero_grad()
        block(x, cond).sum().backward()

    benchmark.pedantic(both_ways, rounds=10, warmup_rounds=3)
    macs = images * tokens * (MACS_OF_TOKEN * width**2 + 2 * tokens * width) + 6 * images * width**2
    if benchmark.enabled:
        benchmark.extra_info["gigaflops"] = round(3 * 2 * macs / benchmark.stats.stats.median / 1e9)
