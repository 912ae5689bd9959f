"""How images are drawn. A sampler sees `denoise(x, level)`, never a network or a label.

B batch, C channels, S side.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from harness.model.flow import Flow
from harness.model.formulation import Formulation, Prediction
from harness.model.formulations import IDDPM
from harness.recipes.config import Sampling
from harness.system.errors import UsageError

Denoise = Callable[[Tensor, float], Prediction]  # (x (B, C, S, S), sigma or step) -> Prediction
DrawNoise = Callable[[], Tensor]  # fresh unit noise (B, C, S, S), float64


def heun(denoise: Denoise, draw_noise: DrawNoise, formulation: Formulation, num_steps: int) -> Tensor:  # (B, C, S, S)
    """EDM's deterministic second-order sampler (Karras et al. 2022, Algorithm 1), without churn.

    It serves every formulation with continuous levels: EDM's, and flow matching's. The state is float64: the levels
    span 4e4, and the steps' differences are small. The last step, to level 0, has no second evaluation.
    """
    levels = formulation.levels(num_steps).tolist()
    x = draw_noise() * levels[0]
    for sigma, sigma_next in pairwise(levels):
        slope = formulation.slope(x, denoise(x, sigma).clean, sigma)
        ahead = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            slope_ahead = formulation.slope(ahead, denoise(ahead, sigma_next).clean, sigma_next)
            ahead = x + (sigma_next - sigma) * (slope + slope_ahead) / 2
        x = ahead
    return (x / formulation.data_scale).float()


def euler(denoise: Denoise, draw_noise: DrawNoise, formulation: Formulation, num_steps: int) -> Tensor:  # (B, C, S, S)
    """The first-order sampler of the same ODE as `heun`: one evaluation a step. The state is float64."""
    levels = formulation.levels(num_steps).tolist()
    x = draw_noise() * levels[0]
    for level, level_next in pairwise(levels):
        x = x + (level_next - level) * formulation.slope(x, denoise(x, level).clean, level)
    return (x / formulation.data_scale).float()


def euler_maruyama(
    denoise: Denoise,
    draw_noise: DrawNoise,
    formulation: Flow,
    num_steps: int,
    *,
    sde_diffusion: Literal["2t", "t"] = "2t",
    sde_last_step: float = 0.04,
) -> Tensor:
    """The reverse SDE of flow matching (SiT eq. 8): drift v - (w / 2) s, noise of variance w a unit of time.

    Any w leaves the same marginals: w = 2 t as the codes of SiT and REPA have it, or w = t as SiT's paper writes it, on
    both paths. Times go evenly from 1 to `sde_last_step`; the last step, to 0, adds no noise. The state is float64.
    -> (B, C, S, S)
    """
    first = formulation.levels(num_steps)[0].item()
    times = [*torch.linspace(first, sde_last_step, num_steps, dtype=torch.float64).tolist(), 0.0]
    x = draw_noise()
    for t, t_next in pairwise(times):
        clean, w = denoise(x, t).clean, 2 * t if sde_diffusion == "2t" else t
        drift = formulation.slope(x, clean, t) - w / 2 * formulation.score(x, clean, t)
        x = x + (t_next - t) * drift
        if t_next > 0:
            x = x + (w * (t - t_next)) ** 0.5 * draw_noise()
    return (x / formulation.data_scale).float()


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

    draw: Callable[..., Tensor]  # (denoise, noise, formulation, num_steps, **settings) -> (B, C, S, S)
    formulations: tuple[str, ...]  # keys of FORMULATIONS
    nfe: Callable[[int], int]  # network evaluations of an image in so many steps, guidance not counted
    settings: tuple[str, ...] = ()  # those of harness.recipes.config.Sampling that only this sampler reads

    def settings_in(self, sampling: Sampling) -> dict[str, Any]:
        """Its own settings, as a run has them."""
        return sampling.model_dump(include={*self.settings})


OF_THE_SDE = ("sde_diffusion", "sde_last_step")
SAMPLERS = {
    "heun": Sampler(heun, ("edm", "flow"), lambda num_steps: 2 * num_steps - 1),
    "euler": Sampler(euler, ("edm", "flow"), lambda num_steps: num_steps),
    "euler-maruyama": Sampler(euler_maruyama, ("flow",), lambda num_steps: num_steps, OF_THE_SDE),
    "ddpm": Sampler(ddpm, ("iddpm",), lambda num_steps: num_steps),
}


def refuse_settings_of_others(sampling: Sampling) -> None:
    """Raises UsageError where a setting that the sampler does not read is not at its default."""
    changed = sampling.model_dump(exclude_defaults=True)
    for name, sampler in SAMPLERS.items():
        for setting in sampler.settings:
            if setting in changed and name != sampling.sampler:
                raise UsageError(
                    f"sampling.{setting} is {changed[setting]!r}, and sampling.sampler is {sampling.sampler!r}; only "
                    f"{name} reads it."
                )
