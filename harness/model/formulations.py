"""The formulations, of which each says what noisy, target and denoised mean, and the one of a run.

EDM and IDDPM are here, Flow in harness.model.flow. B batch, C channels, S side.
"""

import math
from dataclasses import dataclass
from itertools import accumulate, repeat
from typing import NamedTuple

import torch
from torch import Tensor

from harness.model.flow import Flow
from harness.model.formulation import Formulation, Network, Noised, Prediction, per_image
from harness.model.randomness import Draw
from harness.recipes.config import RunConfig
from harness.system.errors import UsageError

__all__ = [
    "EDM", "FORMULATIONS", "IDDPM", "Flow", "Formulation", "Network", "Noised", "Prediction", "Schedule",
    "discretised_log_likelihood", "formulation_of",
]  # fmt: skip


@dataclass(frozen=True)
class EDM(Formulation):
    """Karras et al. 2022, arXiv:2206.00364, Table 1, column 'Ours'.

    sigma_data stays 0.5 although Stable Diffusion latents have a standard deviation near 1: MaskDiT and SD-DiT keep it.
    """

    P_mean: float = -1.2
    P_std: float = 1.2
    sigma_data: float = 0.5
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    name = "edm"

    def out_channels(self, channels: int) -> int:
        return channels

    def levels(self, num_steps: int) -> Tensor:
        """From sigma_max down to sigma_min, then exactly 0: num_steps + 1 of them. EDM eq. 5; SD-DiT eq. 15."""
        inverse_rho = 1 / self.rho
        top, bottom = self.sigma_max**inverse_rho, self.sigma_min**inverse_rho
        fraction = torch.arange(num_steps, dtype=torch.float64) / (num_steps - 1)
        levels = (top + fraction * (bottom - top)) ** self.rho
        return torch.cat([levels, torch.zeros(1, dtype=torch.float64)])

    def sigma_of(self, level: float) -> float:
        return level

    def noised(self, clean: Tensor, draw: Draw, level: Tensor | None = None, *, noise: Tensor | None = None) -> Noised:
        """Noise added at sigmas `level` (B,), or at sigmas drawn with ln sigma ~ N(P_mean, P_std^2)."""
        sigma = (draw.normal() * self.P_std + self.P_mean).exp() if level is None else level
        noise = draw.normal(*clean.shape[1:]) if noise is None else noise
        noisy = clean + per_image(sigma) * noise
        return Noised(self._c_in(per_image(sigma)) * noisy, sigma.log() / 4, clean, noisy, sigma, noise)

    def denoised(self, raw: Tensor, noised: Noised) -> Tensor:  # (B, C, S, S)
        """EDM eq. 7."""
        return self._D(raw, noised.noisy, per_image(noised.level))

    def loss_map(self, raw: Tensor, noised: Noised) -> Tensor:  # (B, C, S, S)
        """lambda(sigma) (D - clean)^2 per element, EDM eq. 2 and Table 1."""
        s, d = per_image(noised.level), self.sigma_data
        return (s**2 + d**2) / (s * d) ** 2 * (self.denoised(raw, noised) - noised.clean) ** 2

    def predict(self, network: Network, x: Tensor, level: float, labels: Tensor) -> Prediction:
        """The denoised images at the sigma `level`. The network computes in its own precision."""
        sigma = torch.full((len(x),), level, device=x.device, dtype=torch.float32)
        return Prediction(self.denoise(network, x.float(), sigma, labels), None)

    def denoise(self, network: Network, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        s = per_image(sigma)
        return self._D(network(self._c_in(s) * x, sigma.log() / 4, labels), x, s)

    def _c_in(self, s: Tensor) -> Tensor:
        return (s**2 + self.sigma_data**2).rsqrt()

    def _D(self, raw: Tensor, noisy: Tensor, s: Tensor) -> Tensor:
        """D = c_skip x + c_out F, EDM eq. 7."""
        d = self.sigma_data
        return d**2 / (s**2 + d**2) * noisy + s * d * (s**2 + d**2).rsqrt() * raw.float()


class Schedule(NamedTuple):
    """A discrete diffusion: float64 tables over its steps, as DDPM (arXiv:2006.11239) names them."""

    steps: Tensor  # (T,) the step of the full schedule that the network gets
    alpha_bar: Tensor  # (T,) eq. 4
    signal: Tensor  # (T,) factor of x_0 in x_t, eq. 4
    spread: Tensor  # (T,) factor of the unit noise in x_t, eq. 4
    posterior_clean: Tensor  # (T,) factor of x_0 in the posterior mean, eq. 7
    posterior_noisy: Tensor  # (T,) factor of x_t in the posterior mean, eq. 7
    posterior_noise: Tensor  # (T,) factor of the unit noise that eq. 11 subtracts for the posterior mean
    log_beta_tilde: Tensor  # (T,) the smaller log variance; its first entry, log 0, is replaced by the second
    log_range: Tensor  # (T,) the larger log variance, log beta, minus the smaller

    @classmethod
    def of(cls, alpha_bar: Tensor, steps: Tensor) -> "Schedule":
        previous = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
        beta = 1 - alpha_bar / previous
        beta_tilde = beta * (1 - previous) / (1 - alpha_bar)
        second = beta_tilde[1:2] if len(steps) > 1 else beta
        log_beta_tilde = torch.cat([second, beta_tilde[1:]]).log()
        return cls(
            steps=steps,
            alpha_bar=alpha_bar,
            signal=alpha_bar.sqrt(),
            spread=(1 - alpha_bar).sqrt(),
            posterior_clean=beta * previous.sqrt() / (1 - alpha_bar),
            posterior_noisy=(1 - previous) * (1 - beta).sqrt() / (1 - alpha_bar),
            posterior_noise=beta / ((1 - alpha_bar) * (1 - beta)).sqrt(),
            log_beta_tilde=log_beta_tilde,
            log_range=beta.log() - log_beta_tilde,
        )


class IDDPM(Formulation):
    """Nichol & Dhariwal 2021, arXiv:2102.09672: predicts the noise and learns the variance between its two bounds.

    Linear betas from 1e-4 to 0.02 (DDPM Sec. 4), as DiT and MDT train. The network's output has twice the channels:
    the noise, then v in [-1, 1], which interpolates log beta_tilde .. log beta (eq. 15).
    """

    name = "iddpm"
    num_steps: int

    def __init__(self, num_steps: int = 1000):
        self.num_steps = num_steps
        beta = torch.linspace(1e-4, 0.02, num_steps, dtype=torch.float64)
        self.schedule = Schedule.of((1 - beta).cumprod(0), torch.arange(num_steps))
        self._float_tables: dict[torch.device, dict[str, Tensor]] = {}

    def out_channels(self, channels: int) -> int:
        """Twice the channels: the predicted noise, then the interpolation of the variance (IDDPM eq. 15)."""
        return 2 * channels

    def levels(self, num_steps: int) -> Tensor:
        return self.respaced(num_steps).steps.flip(0).double()

    def prepare(self, device: torch.device) -> None:
        tables = {name: values.float().to(device) for name, values in self.schedule._asdict().items()}
        self._float_tables[tables["alpha_bar"].device] = tables  # "cuda:0", where it was called "cuda"

    def sigma_of(self, level: float) -> float:
        """sqrt((1 - alpha_bar) / alpha_bar) at a step."""
        alpha_bar = self.schedule.alpha_bar[int(level)].item()
        return math.sqrt((1 - alpha_bar) / alpha_bar)

    def respaced(self, num_steps: int) -> Schedule:
        """The schedule over `num_steps` of the steps, evenly spread, first and last included (IDDPM Sec. 4).

        250 of 1000 are 0, 4, 8, 12, ... 987, 991, 995, 999; one step is step 0. The stride is added up and each sum
        rounded, as the official code does: where a sum is near a half, a product or a linspace rounds the other way.
        Raises ValueError for more steps than there are.
        """
        if not 1 <= num_steps <= self.num_steps:
            raise ValueError(f"cannot take {num_steps} of {self.num_steps} steps; take 1 to {self.num_steps}")
        stride = (self.num_steps - 1) / max(num_steps - 1, 1)
        steps = torch.tensor([round(total) for total in accumulate(repeat(stride, num_steps - 1), initial=0.0)])
        return Schedule.of(self.schedule.alpha_bar[steps], steps)

    def noised(self, clean: Tensor, draw: Draw, level: Tensor | None = None, *, noise: Tensor | None = None) -> Noised:
        """Noise added at steps `level` (B,), or at steps drawn uniformly (DDPM eq. 4)."""
        step = draw.integers(self.num_steps) if level is None else level
        noise = draw.normal(*clean.shape[1:]) if noise is None else noise
        noisy = self._at("signal", step) * clean + self._at("spread", step) * noise
        return Noised(noisy, step.float(), clean, noisy, step, noise)

    def denoised(self, raw: Tensor, noised: Noised) -> Tensor:  # (B, 2C, S, S) -> (B, C, S, S)
        """DDPM eq. 15, of the predicted noise."""
        return self._clean(raw.float().chunk(2, dim=1)[0], noised.noisy, noised.level)

    def loss_map(self, raw: Tensor, noised: Noised) -> Tensor:  # (B, 2C, S, S) -> (B, C, S, S)
        """Squared error of the noise plus the variational bound, which trains the variance alone (IDDPM eq. 16)."""
        noise, v = raw.float().chunk(2, dim=1)
        bound = self._variational_bound(noise.detach(), v, noised)
        return (noise - noised.noise) ** 2 + bound * (self.num_steps / 1000)

    def predict(self, network: Network, x: Tensor, level: float, labels: Tensor) -> Prediction:
        """The denoised images at the step `level` of the full schedule, with the learned variance."""
        step = torch.full((len(x),), int(level), device=x.device)
        noise, v = network(x, step.float(), labels).chunk(2, dim=1)
        return Prediction(self._clean(noise, x, step), (v + 1) / 2)

    def denoise(self, network: Network, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        """x / sqrt(1 + sigma^2) is x_t of DDPM eq. 4 at the step whose noise it is, and D = x - sigma noise."""
        s = per_image(sigma)
        noise, _ = network((1 + s**2).rsqrt() * x, self.step_of(sigma), labels).float().chunk(2, dim=1)
        return x - s * noise

    def step_of(self, sigma: Tensor) -> Tensor:
        """The step, with a fraction, at these sigmas: linear in ln sigma between two steps.   (B,) -> (B,) float32

        Training sees whole steps alone, but the network reads a step through sines that are smooth in it. Karras et al.
        2022, Table 1, round to the nearest step; then two formulations would not be asked at equal sigma.
        """
        known = ((1 - self.schedule.alpha_bar) / self.schedule.alpha_bar).sqrt().log()  # (T,) grows with the step
        wanted = sigma.double().cpu().log()
        tolerance = 1e-6  # a float32 sigma of the first or the last step
        if bool((wanted < known[0] - tolerance).any() or (wanted > known[-1] + tolerance).any()):
            raise ValueError(f"sigma must lie in {known[0].exp():.4g} to {known[-1].exp():.4g}, the noise of its steps")
        above = torch.searchsorted(known, wanted).clamp(1, self.num_steps - 1)
        fraction = (wanted - known[above - 1]) / (known[above] - known[above - 1])
        return (above - 1 + fraction).clamp(0, self.num_steps - 1).float().to(sigma.device)

    def _clean(self, noise: Tensor, noisy: Tensor, step: Tensor) -> Tensor:
        return (noisy - self._at("spread", step) * noise) / self._at("signal", step)

    def _variational_bound(self, noise: Tensor, v: Tensor, noised: Noised) -> Tensor:
        """L_t of DDPM eq. 5 in bits: a KL divergence, or at step 0 the likelihood of the 8-bit image.

        The two means differ by the noise's error alone (DDPM eq. 12), and the two log variances by `excess`: in float32
        the difference of rounded means, or of rounded exponentials, would lose four digits.
        """
        step = noised.level
        excess = (v + 1) / 2 * self._at("log_range", step)
        log_variance = self._at("log_beta_tilde", step) + excess
        mean_error = self._at("posterior_noise", step) * (noise - noised.noise)
        kl = 0.5 * (excess + torch.expm1(-excess) + mean_error**2 * (-log_variance).exp())
        mean = self._clean(noise, noised.noisy, step)  # at step 0 the posterior mean is the denoised image
        nll = -discretised_log_likelihood(noised.clean, mean, log_variance)
        return torch.where(per_image(step) == 0, nll, kl) / math.log(2)

    def _at(self, table: str, step: Tensor) -> Tensor:  # (B,) -> (B, 1, 1, 1) float32
        if step.device not in self._float_tables:
            self.prepare(step.device)
        return per_image(self._float_tables[step.device][table][step])


def discretised_log_likelihood(clean: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log probability that a Gaussian gives to each value's bin, the range [-1, 1] being cut into 8-bit levels.

    DDPM eq. 13, in nats per element, with the exact normal distribution function. The outermost bins reach to
    infinity.
    """
    precision = (-0.5 * log_variance).exp()
    upper = torch.special.ndtr((clean - mean + 1 / 255) * precision)
    lower = torch.special.ndtr((clean - mean - 1 / 255) * precision)
    upper = torch.where(clean > 0.999, torch.ones_like(upper), upper)
    lower = torch.where(clean < -0.999, torch.zeros_like(lower), lower)
    return (upper - lower).clamp(min=1e-12).log()


FORMULATIONS: dict[str, type[Formulation]] = {"edm": EDM, "iddpm": IDDPM, "flow": Flow}


def formulation_of(cfg: RunConfig) -> Formulation:
    """The formulation of a run, with its settings.

    Raises UsageError for settings of flow under another formulation, and for those that cannot be computed.
    """
    for name, value in cfg.flow.model_dump(exclude_defaults=True).items():
        if cfg.formulation != Flow.name:
            raise UsageError(
                f"flow.{name} is {value!r}, and formulation is {cfg.formulation!r}, which does not read it; leave it "
                "out, or take --set formulation=flow."
            )
    if cfg.flow.direction and cfg.input.channels == 1:
        raise UsageError(
            f"flow.direction is {cfg.flow.direction:g}, and the input has 1 channel: the cosine over the channels of a "
            "place is then only a sign. It must be 0."
        )
    try:
        return Flow(**cfg.flow.model_dump()) if cfg.formulation == Flow.name else FORMULATIONS[cfg.formulation]()
    except ValueError as error:
        raise UsageError(f"{error}.") from None
