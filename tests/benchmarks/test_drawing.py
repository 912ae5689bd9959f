"""Throughput of the samplers with a tiny network, guided and not. Recorded, never gated: `make bench`."""

import pytest
import torch
from small import tiny_config

import baselines
from harness.evaluation.generation import as_sampled, choose_labels, generate
from harness.model.formulations import FORMULATIONS

NUM_IMAGES = 100


@pytest.mark.parametrize("guidance", [None, 1.5], ids=["plain", "guided"])
@pytest.mark.parametrize(("sampler", "method"), [("heun", "sddit"), ("ddpm", "dit")])
def test_drawing_a_batch(benchmark, sampler, method, guidance):
    cfg = tiny_config(method, "sampling.num_steps=4", f"guidance_scale={guidance or 'null'}")
    assert cfg.sampling.sampler == sampler
    cpu = torch.device("cpu")
    network = as_sampled(baselines.build(cfg).network.eval(), "fp32", cpu)
    labels = choose_labels("random", NUM_IMAGES, cfg.input.num_classes, 0)

    def draw():
        generate(
            network, FORMULATIONS[cfg.formulation](), cfg.sampling, labels,
            image_shape=(1, 8, 8), null_label=cfg.input.num_classes, seed=0, batch_size=NUM_IMAGES, device=cpu,
        )  # fmt: skip

    benchmark.extra_info["images_per_round"] = NUM_IMAGES
    benchmark.pedantic(draw, rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("threads", [1, None], ids=["one thread", "all threads"])
def test_drawing_noise_for_latents(benchmark, threads):
    """What the ddpm sampler asks the CPU for at each of its steps, while a GPU evaluates the network."""
    from harness.evaluation.generation import _ImageNoise

    torch.set_num_threads(threads or torch.get_num_threads())
    noise = _ImageNoise(0, range(NUM_IMAGES), (4, 32, 32), torch.device("cpu"))
    benchmark.extra_info["images_per_round"] = NUM_IMAGES
    benchmark.pedantic(noise, rounds=10, warmup_rounds=2)
