"""Feature networks with untrained weights, and images for them."""

from pathlib import Path

import torch
from torch import Tensor

from harness.evaluation.networks import inception


def inception_weights(seed: int = 0) -> dict[str, Tensor]:
    """Untrained weights whose normalisation and last bias, unlike those of "random", change what passes through."""
    weights = inception.random_weights(seed)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in weights.items():
        if name.endswith(("bn.weight", "running_var")):
            weights[name] = 0.8 + 0.4 * torch.rand(weight.shape, generator=generator)
        elif weight.is_floating_point() and weight.ndim == 1:
            weights[name] = 0.2 * torch.rand(weight.shape, generator=generator) - 0.1
    return weights


def random_inception(path: Path, seed: int = 0) -> Path:
    """A file of untrained weights of Inception, as torch.save writes a state dict."""
    torch.save(inception_weights(seed), path)
    return path


def noise(count: int, height: int = 40, width: int = 40, seed: int = 1) -> Tensor:  # (N, H, W, 3) uint8
    """Images of noise, and first a smooth one."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, height, width, 3), dtype=torch.uint8, generator=generator)
    images[0] = torch.linspace(0, 255, height)[:, None, None].to(torch.uint8)
    return images
