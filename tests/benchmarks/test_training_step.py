"""Throughput of a training step of each method at the tiny size. Recorded, never gated: `make bench`."""

import pytest
import torch
from small import tiny_config

import baselines
from harness.data.order import batch_indices
from harness.model.method import Batch, Progress
from harness.model.randomness import Draw


@pytest.mark.parametrize("name", baselines.names())
def test_training_step(benchmark, digits, name):
    cfg = tiny_config(name)
    method = baselines.build(cfg)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], 1e-4, fused=True)
    clean, labels = digits.read(batch_indices(len(digits), 0, 0, cfg.protocol.batch_size))
    draw = Draw.all_of(clean)

    def step():
        loss = method(Batch(clean, labels), Progress(0.5, 5.0), draw)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(Progress(0.5, 5.0))

    benchmark.extra_info["images_per_step"] = cfg.protocol.batch_size
    benchmark.pedantic(step, rounds=20, warmup_rounds=5)


@pytest.mark.parametrize("name", baselines.names())
def test_network_evaluation(benchmark, digits, name):
    """One evaluation of the sampled network on a batch of 250: what sampling costs per level."""
    cfg = tiny_config(name)
    network = baselines.build(cfg).network.eval()
    inputs = digits.clean[:250], torch.zeros(250), digits.labels[:250]

    def evaluate():
        with torch.inference_mode():
            network(*inputs)

    benchmark.pedantic(evaluate, rounds=20, warmup_rounds=3)
