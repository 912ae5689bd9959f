"""The exponential moving average of a network's weights: what is sampled and evaluated."""

import copy

import torch
from torch import Tensor, nn


class Ema:
    """Averages with decay min(decay, (1 + t) / (10 + t)) at step t, the warm-up of Adam-era TensorFlow.

    With 0.9999 alone, a run of 1,000 steps would still be 90% its random start. With the warm-up the average spans
    about the last tenth of a short run, and is the paper's from step 90,000 on.
    """

    def __init__(self, network: nn.Module, decay: float, *, warmup: bool):
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.decay, self.warmup = decay, warmup
        self._slow: list[Tensor] = list(self.network.parameters())
        self._fast: list[Tensor] = list(network.parameters())

    def decay_at(self, step: int) -> float:
        """The decay of the update after `step`, counted from 0; (1 + step) / (10 + step) while warming up."""
        return min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights after `step` (counted from 0)."""
        torch._foreach_lerp_(self._slow, self._fast, 1 - self.decay_at(step))
