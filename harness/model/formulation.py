"""What every formulation says of noisy, target and denoised: one class each, and nothing else knows.

A formulation scales what goes into a network and scores what comes out, never reaching inside. It returns the loss
per element, so that the method, which alone knows its mask, reduces it.
B batch, C channels, S side.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from harness.model.randomness import Draw

Network = Callable[[Tensor, Tensor, Tensor], Tensor]  # (net_input, net_noise, labels) -> raw


class Noised(NamedTuple):
    """A batch with noise added, as the network reads it and as the loss needs it."""

    net_input: Tensor  # (B, C, S, S)
    net_noise: Tensor  # (B,) the noise level as the network reads it
    clean: Tensor  # (B, C, S, S)
    noisy: Tensor  # (B, C, S, S)
    level: Tensor  # (B,) sigma (EDM), time step (IDDPM) or time (Flow)
    noise: Tensor  # (B, C, S, S) of unit variance


class Prediction(NamedTuple):
    """What a sampler gets back: the denoised images, and the learned variance where the formulation has one."""

    clean: Tensor  # (B, C, S, S)
    variance_mix: Tensor | None  # (B, C, S, S) 0: the smaller, 1: the larger of the two variances of IDDPM eq. 15


def per_image(v: Tensor) -> Tensor:
    return v.reshape(-1, 1, 1, 1)


class Formulation(ABC):
    """One way to add noise, and what a network's raw output says about the clean images.

    A subclass in FORMULATIONS is all that a formulation needs, besides its sampling in recipes/protocols.yaml. Samplers
    say which formulations they draw from (SAMPLERS).
    """

    name: str  # its key in FORMULATIONS
    num_steps: int | None = None  # number of discrete diffusion steps; None where noise levels are continuous
    data_scale: float = 1.0  # what the clean images are multiplied by before noise is added; a sampler divides by it

    @abstractmethod
    def out_channels(self, channels: int) -> int:
        """Channels that the network puts out for images of so many."""

    @abstractmethod
    def levels(self, num_steps: int) -> Tensor:
        """The noise levels that a sampler of `num_steps` steps visits, the noisiest first, float64.

        In a continuous formulation the noisiest is also the factor of the unit noise that a sampler starts from.
        Raises ValueError where the formulation does not have so many levels.
        """

    @abstractmethod
    def sigma_of(self, level: float) -> float:
        """The noise of a level over the clean images' scale: it means the same in every formulation."""

    @abstractmethod
    def noised(self, clean: Tensor, draw: Draw, level: Tensor | None = None, *, noise: Tensor | None = None) -> Noised:
        """This noise, or fresh noise, added at `level` (B,), or at levels drawn as training draws them."""

    @abstractmethod
    def denoised(self, raw: Tensor, noised: Noised) -> Tensor:
        """The clean images that the raw output stands for.   -> (B, C, S, S)"""

    @abstractmethod
    def loss_map(self, raw: Tensor, noised: Noised) -> Tensor:
        """The weighted squared error of each element, not reduced.   -> (B, C, S, S)"""

    @abstractmethod
    def predict(self, network: Network, x: Tensor, level: float, labels: Tensor) -> Prediction:
        """The denoised images at one noise level, for a sampler."""

    @abstractmethod
    def denoise(self, network: Network, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        """D(x; sigma) of x = clean + sigma noise: one question to every formulation, so that they can be compared.

        x (B, C, S, S), sigma (B,) over the clean images' scale -> (B, C, S, S). Karras et al. 2022, arXiv:2206.00364,
        Sec. 3 and Table 1. Raises ValueError for a sigma that the formulation does not have.
        """

    def slope(self, x: Tensor, clean: Tensor, level: float) -> Tensor:
        """dx / d level of the ODE that deterministic samplers follow, of x (B, C, S, S) and D(x). EDM eq. 3."""
        return (x - clean) / level

    def prepare(self, device: torch.device) -> None:
        """Put what is looked up in tables onto a device, ahead of a step that is compiled. By default there is none."""
        return
