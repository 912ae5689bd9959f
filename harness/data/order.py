"""Which images a step sees: a function of (seed, step) alone, so nothing depends on where a run was interrupted."""

from functools import lru_cache

import torch
from torch import Tensor

from harness.recipes.seeds import mix


@lru_cache(maxsize=2)  # a batch spans at most two epochs unless it is larger than the set
def _permutation(num_images: int, seed: int, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed(mix("order", seed, epoch))
    return torch.randperm(num_images, generator=generator)


def batch_indices(num_images: int, seed: int, step: int, batch_size: int) -> Tensor:
    """Indices of the global batch of `step` (counted from 0).   (batch_size,)

    Every epoch visits each image once, in an order drawn from (seed, epoch). Epochs follow each other without a gap,
    so a batch may end one epoch and begin the next.
    """
    positions = torch.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // num_images
    indices = torch.empty_like(positions)
    for epoch in epochs.unique().tolist():
        here = epochs == epoch
        indices[here] = _permutation(num_images, seed, epoch)[positions[here] % num_images]
    return indices


def mirrored(seed: int, step: int, batch_size: int) -> Tensor:
    """Which images of the batch of `step` are mirrored, each with probability 1/2.   (batch_size,) bool"""
    generator = torch.Generator().manual_seed(mix("flips", seed, step))
    return torch.randint(2, (batch_size,), generator=generator).bool()
