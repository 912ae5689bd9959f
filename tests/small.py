"""Small real networks that many tests share."""

import torch

import baselines
from harness.planning.plan import with_proxy
from harness.recipes.config import RunConfig
from harness.recipes.reading import load_recipe

DIGITS = {"channels": 1, "side": 8, "num_classes": 10}


def tiny_config(method: str, *assignments: str) -> RunConfig:
    """The tiny recipe of `method`, as harness.runs.training_run.resolve gives it for the digits."""
    formulations = [a.partition("=")[2] for a in assignments if a.startswith("formulation=")]
    document = load_recipe(f"{method}-tiny", *formulations).document | {"input": DIGITS}
    return with_proxy(baselines.configured(document, assignments))


def small_config(method: str, *assignments: str) -> RunConfig:
    """The tiny recipe of `method`, made smaller still."""
    small = ["width=16", "depth=3", "num_heads=2", "batch_size=8", "steps=4", "log_every=2", "checkpoint_every=2"]
    small += {
        "maskdit": ["decoder_width=8", "decoder_depth=1", "decoder_heads=2"],
        "sddit": ["decoder_depth=1", "decoder_heads=2", "num_prototypes=32", "head_hidden=16", "head_bottleneck=8"],
        "edt": ["stage_widths=[12,16]", "stage_heads=[3,4]", "stage_depths=[1,1,1]"],
    }.get(method, [])
    return tiny_config(method, *small, *grouped(method, 2), *assignments)  # two processes take pairs of images too


def grouped(method: str, size: int) -> list[str]:
    """The settings that let a method which compares images with each other compare groups of so many."""
    return [f"{name}={size}" for name in baselines.load(method).Config.model_fields if name.endswith("_group")]


def trained_a_little(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The network with noise on every weight, so that no layer is still at its zero start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return network
