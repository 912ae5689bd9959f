"""Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598) as a closure around a denoiser."""

import math
from collections.abc import Callable

from harness.diffusion.formulations import Prediction
from harness.diffusion.samplers import Denoise


def power_cosine(scale: float, power: float, num_steps: int = 1000) -> Callable[[float], float]:
    """A scale that grows from 1 at the noisiest step to `scale` at step 0 (MDT's repository, branch mdtv1)."""
    return lambda step: 1 + (scale - 1) * (1 - math.cos(math.pi * (1 - step / num_steps) ** power)) / 2


def guided(
    conditional: Denoise,
    unconditional: Denoise,
    scale: float | Callable[[float], float],
    channels: int | None = None,
) -> Denoise:
    """Denoises towards the label: unconditional + scale (conditional - unconditional); scale 1 is no guidance.

    `scale` may be a function of the level.
    `channels` guides only the first so many and leaves the others conditional: DiT guides three of a latent's four,
    and its published numbers have it so. Guiding denoised images or noise is the same, one being linear in the other.
    The learned variance is the conditional one.
    """

    def denoise(x, level) -> Prediction:
        with_label, without = conditional(x, level), unconditional(x, level)
        here = scale(level) if callable(scale) else scale
        clean = without.clean + here * (with_label.clean - without.clean)
        if channels is not None:
            clean[:, channels:] = with_label.clean[:, channels:]
        return Prediction(clean, with_label.variance_mix)

    return denoise
