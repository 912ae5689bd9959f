"""How images are drawn. A sampler sees `denoise(x, level)`, never a network or a label.

B batch, C channels, S side.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harness.model.formulations import IDDPM, Flow, Formulation, Prediction

Denoise = Callable[[Tensor, float], Prediction]  # (x (B, C, S, S), sigma or step) -> Prediction
DrawNoise = Callable[[], Tensor]  # fresh unit noise (B, C, S, S), float64


def heun(denoise: Denoise, draw_noise: DrawNoise, formulation: Formulation, num_steps: int) -> Tensor:  # (B, C, S, S)
    """EDM's deterministic second-order sampler (Karras et al. 2022, Algorithm 1), without churn.

    It serves every formulation whose slope is (x - D) / level: EDM's, and flow matching's. The state is float64: the
    levels span 4e4, and the steps' differences are small. The last step, to level 0, has no second evaluation.
    """
    levels = formulation.levels(num_steps).tolist()
    x = draw_noise() * levels[0]
    for sigma, sigma_next in pairwise(levels):
        slope = (x - denoise(x, sigma).clean) / sigma
        ahead = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            slope_ahead = (ahead - denoise(ahead, sigma_next).clean) / sigma_next
            ahead = x + (sigma_next - sigma) * (slope + slope_ahead) / 2
        x = ahead
    return x.float()


def euler(denoise: Denoise, draw_noise: DrawNoise, formulation: Formulation, num_steps: int) -> Tensor:  # (B, C, S, S)
    """The first-order sampler of the same ODE as `heun`: one evaluation a step. The state is float64."""
    levels = formulation.levels(num_steps).tolist()
    x = draw_noise() * levels[0]
    for level, level_next in pairwise(levels):
        x = x + (level_next - level) * (x - denoise(x, level).clean) / level
    return x.float()


LAST_STEP = 0.04  # of euler_maruyama, in time: REPA (arXiv:2410.06940) App. D; its code, samplers.py


def euler_maruyama(denoise: Denoise, draw_noise: DrawNoise, formulation: Flow, num_steps: int) -> Tensor:
    """The reverse SDE of flow matching (SiT eq. 8) with diffusion w = 2 t, as the codes of SiT and REPA have it.

    On the linear path the score is -noise / t, so the drift v - (w / 2) score is the velocity plus the noise that is
    predicted. Times go evenly from 1 to LAST_STEP; the last step, to 0, adds no noise. SiT's paper writes w = t. The
    state is float64.   -> (B, C, S, S)
    """
    times = [*torch.linspace(1, LAST_STEP, num_steps, dtype=torch.float64).tolist(), 0.0]
    x = draw_noise()
    for t, t_next in pairwise(times):
        clean = denoise(x, t).clean
        velocity = (x - clean) / t
        x = x + (t_next - t) * (velocity + clean + velocity)  # the noise that is predicted is clean + velocity
        if t_next > 0:
            x = x + (2 * t * (t - t_next)) ** 0.5 * draw_noise()
    return x.float()


def ddpm(denoise: Denoise, draw_noise: DrawNoise, formulation: IDDPM, num_steps: int) -> Tensor:  # (B, C, S, S)
    """Ancestral sampling (Ho et al. 2020, Algorithm 2) over a respaced schedule, with the learned variance.

    The denoised image is not clipped, as DiT samples latents.
    """
    schedule = formulation.respaced(num_steps)
    x = draw_noise().float()
    for index in reversed(range(num_steps)):
        prediction = denoise(x, int(schedule.steps[index]))
        x = (schedule.posterior_clean[index] * prediction.clean + schedule.posterior_noisy[index] * x).float()
        if index > 0:  # the last step adds no noise
            assert prediction.variance_mix is not None, "IDDPM learns the variance"
            log_variance = schedule.log_beta_tilde[index] + prediction.variance_mix * schedule.log_range[index]
            x = (x + (0.5 * log_variance).exp() * draw_noise()).float()
    return x


class Sampler(NamedTuple):
    """A way to draw images from some formulations."""

    draw: Callable[[Denoise, DrawNoise, Any, int], Tensor]  # (denoise, noise, formulation, num_steps) -> (B, C, S, S)
    formulations: tuple[str, ...]  # keys of FORMULATIONS
    nfe: Callable[[int], int]  # network evaluations of an image in so many steps, guidance not counted


SAMPLERS = {
    "heun": Sampler(heun, ("edm", "flow"), lambda num_steps: 2 * num_steps - 1),
    "euler": Sampler(euler, ("edm", "flow"), lambda num_steps: num_steps),
    "euler-maruyama": Sampler(euler_maruyama, ("flow",), lambda num_steps: num_steps),
    "ddpm": Sampler(ddpm, ("iddpm",), lambda num_steps: num_steps),
}
