"""Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598) as a closure around a denoiser."""

import math
from collections.abc import Callable

import torch

from harness.model.formulations import Prediction
from harness.model.samplers import Denoise


def power_cosine(scale: float, power: float, num_steps: int = 1000) -> Callable[[float], float]:
    """A scale that grows from 1 at the noisiest step to `scale` at step 0 (MDT's repository, branch mdtv1)."""
    return lambda step: 1 + (scale - 1) * (1 - math.cos(math.pi * (1 - step / num_steps) ** power)) / 2


def within(
    interval: tuple[float, float], scale: float | Callable[[float], float], sigma_of: Callable[[float], float]
) -> Callable[[float], float]:
    """`scale` at noise levels low < sigma <= high, and no guidance elsewhere.

    Kynkaanniemi et al. 2024, arXiv:2404.07724. `sigma_of` gives the noise level of what the sampler calls a level.
    """
    low, high = interval

    def limited(level: float) -> float:
        if not low < sigma_of(level) <= high:
            return 1.0
        return scale(level) if callable(scale) else scale

    return limited


def guided(
    conditional: Denoise,
    both: Denoise,
    scale: float | Callable[[float], float],
    channels: int | None = None,
) -> Denoise:
    """Denoises towards the label: unconditional + scale (conditional - unconditional); scale 1 is no guidance.

    `both` denoises two copies of a batch in one call, the first towards its labels, the second towards none: a GPU is
    fuller with 2B images than with twice B. `scale` may be a function of the level; where it is 1, `conditional` is
    asked, for the B images alone.
    `channels` guides only the first so many and leaves the others conditional: DiT guides three of a latent's four,
    and its published numbers have it so. Guiding denoised images or noise is the same, one being linear in the other.
    The learned variance is the conditional one.
    """

    def denoise(x, level) -> Prediction:
        here = scale(level) if callable(scale) else scale
        if here == 1:
            return conditional(x, level)
        pair = both(torch.cat([x, x]), level)
        with_label, without = pair.clean.chunk(2)
        clean = without + here * (with_label - without)
        if channels is not None:
            clean[:, channels:] = with_label[:, channels:]
        return Prediction(clean, None if pair.variance_mix is None else pair.variance_mix[: len(x)])

    return denoise
