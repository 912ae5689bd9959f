"""Which images a step sees: a function of (seed, step) alone, so nothing depends on where a run was interrupted."""

from functools import lru_cache

import torch
from torch import Tensor

from harness.training.randomness import mix


@lru_cache(maxsize=2)  # a batch spans at most two epochs unless it is larger than the set
def _permutation(num_images: int, seed: int, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed(mix("order", seed, epoch))
    return torch.randperm(num_images, generator=generator)


def batch_indices(num_images: int, seed: int, step: int, batch_size: int, rank: int = 0, world_size: int = 1) -> Tensor:
    """Indices of this rank's share of the global batch of `step` (counted from 0).   (batch_size / world_size,)

    Every epoch visits each image once, in an order drawn from (seed, epoch). Epochs follow each other without a gap,
    so a batch may end one epoch and begin the next. Rank r takes every world_size-th image of the global batch.
    """
    positions = torch.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // num_images
    indices = torch.empty_like(positions)
    for epoch in epochs.unique().tolist():
        here = epochs == epoch
        indices[here] = _permutation(num_images, seed, epoch)[positions[here] % num_images]
    return indices[rank::world_size]
