"""How images are drawn. A sampler sees `denoise(x, level)`, never a network or a label.

B batch, C channels, S side, N levels.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from harness.model.formulations import EDM, IDDPM, Prediction

Denoise = Callable[[Tensor, float], Prediction]  # (x (B, C, S, S), sigma or step) -> Prediction
DrawNoise = Callable[[], Tensor]  # fresh unit noise (B, C, S, S), float64


def sigma_grid(formulation: EDM, num_steps: int) -> Tensor:
    """Noise levels from sigma_max down to sigma_min, then exactly 0: num_steps + 1 of them, float64.

    Karras et al. 2022, eq. 5; SD-DiT eq. 15.
    """
    inverse_rho = 1 / formulation.rho
    top, bottom = formulation.sigma_max**inverse_rho, formulation.sigma_min**inverse_rho
    fraction = torch.arange(num_steps, dtype=torch.float64) / (num_steps - 1)
    levels = (top + fraction * (bottom - top)) ** formulation.rho
    return torch.cat([levels, torch.zeros(1, dtype=torch.float64)])


def heun(denoise: Denoise, draw_noise: DrawNoise, formulation: EDM, num_steps: int) -> Tensor:  # (B, C, S, S)
    """EDM's deterministic second-order sampler (Karras et al. 2022, Algorithm 1), without churn.

    The state is float64: the levels span 4e4, and the steps' differences are small. 2 num_steps - 1 evaluations,
    because the last step, to level 0, has no second one.
    """
    levels = sigma_grid(formulation, num_steps).tolist()
    x = draw_noise() * levels[0]
    for sigma, sigma_next in pairwise(levels):
        slope = (x - denoise(x, sigma).clean) / sigma
        ahead = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            slope_ahead = (ahead - denoise(ahead, sigma_next).clean) / sigma_next
            ahead = x + (sigma_next - sigma) * (slope + slope_ahead) / 2
        x = ahead
    return x.float()


def ddpm(denoise: Denoise, draw_noise: DrawNoise, formulation: IDDPM, num_steps: int) -> Tensor:  # (B, C, S, S)
    """Ancestral sampling (Ho et al. 2020, Algorithm 2) over a respaced schedule, with the learned variance.

    The denoised image is not clipped, as DiT samples latents. num_steps evaluations.
    """
    schedule = formulation.respaced(num_steps)
    x = draw_noise().float()
    for index in reversed(range(num_steps)):
        prediction = denoise(x, int(schedule.steps[index]))
        x = (schedule.posterior_clean[index] * prediction.clean + schedule.posterior_noisy[index] * x).float()
        if index > 0:  # the last step adds no noise
            assert prediction.variance_mix is not None, "IDDPM learns the variance"
            low, high = schedule.log_beta_tilde[index], schedule.log_beta[index]
            log_variance = low + prediction.variance_mix * (high - low)
            x = (x + (0.5 * log_variance).exp() * draw_noise()).float()
    return x


Sampler = Callable[[Denoise, DrawNoise, Any, int], Tensor]  # of a formulation, in so many steps -> (B, C, S, S)
SAMPLERS: dict[str, Sampler] = {"heun": heun, "ddpm": ddpm}
FORMULATION_OF = {"heun": "edm", "ddpm": "iddpm"}


def evaluations_per_image(sampler: str, num_steps: int) -> int:
    """NFE: how often the network is evaluated for one image, guidance not counted."""
    return 2 * num_steps - 1 if sampler == "heun" else num_steps
