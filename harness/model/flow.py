"""Flow matching: two paths from data to noise, three predictions, two laws of the times.

t runs from 0 (data) to 1 (noise). alpha(t) and sigma(t) are the factors of the data and of the noise in x_t.
B batch, C channels, S side.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.model.formulation import Formulation, Network, Noised, Prediction, per_image
from harness.model.randomness import Draw

FEWEST = 0.05  # the least denominator of the velocity that a predicted image stands for: JiT (arXiv:2511.13720)
FROM_NOISE = 1e-3  # how far from t = 1 the sampling of a predicted noise starts: SiT repository, transport/__init__.py


class Place(NamedTuple):
    """A path at times t, SiT Sec. 2: x_t = alpha data + sigma noise, v = alpha' data + sigma' noise."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor | float  # alpha', by t
    d_sigma: Tensor | float  # sigma', by t
    determinant: float  # alpha sigma' - sigma alpha', the same at every t

    @classmethod
    def on(cls, path: str, t: Tensor) -> "Place":
        """The linear path, alpha = 1 - t and sigma = t, or gvp, alpha = cos(pi t / 2) and sigma = sin(pi t / 2)."""
        if path == "linear":
            return cls(1 - t, t, -1.0, 1.0, 1.0)
        alpha, sigma, half = (t * (math.pi / 2)).cos(), (t * (math.pi / 2)).sin(), math.pi / 2
        return cls(alpha, sigma, -half * sigma, half * alpha, half)

    def noisy(self, data: Tensor, noise: Tensor) -> Tensor:
        return self.alpha * data + self.sigma * noise

    def velocity(self, data: Tensor, noise: Tensor) -> Tensor:
        return self.d_alpha * data + self.d_sigma * noise

    def data_of_velocity(self, x: Tensor, v: Tensor) -> Tensor:
        """Exact at every t: data = (sigma' x - sigma v) / (alpha sigma' - sigma alpha')."""
        return (self.d_sigma * x - self.sigma * v) / self.determinant

    def data_of_noise(self, x: Tensor, noise: Tensor) -> Tensor:
        """Exact for t < 1: at t = 1, x holds nothing of the data."""
        return (x - self.sigma * noise) / self.alpha

    def noise_of_data(self, x: Tensor, data: Tensor) -> Tensor:
        """Exact for t > 0: at t = 0, x holds nothing of the noise."""
        return (x - self.alpha * data) / self.sigma


@dataclass(frozen=True)
class Flow(Formulation):
    """Flow matching (Lipman et al. 2022, arXiv:2210.02747) as SiT trains it (Ma et al. 2024, arXiv:2401.08740).

    x_t = alpha data_scale clean + sigma noise. By default the path is linear, times are even in 0 to 1, and the network
    predicts the velocity v = alpha' data_scale clean + sigma' noise, unweighted. SiT's code runs time the other way,
    and its v has the other sign: the same training. The network reads t itself, as SiT's does, where iDDPM's reads 0 to
    999: most of its sines are then constant.
    """

    path: Literal["linear", "gvp"] = "linear"
    prediction: Literal["velocity", "noise", "data"] = "velocity"
    times: Literal["uniform", "logit-normal"] = "uniform"
    shift: float = 1.0  # k: a time t that was drawn becomes k t / (1 + (k - 1) t)
    direction: float = 0.0  # the weight of 1 - cos(v, u) over the channels of each place
    data_scale: float = 1.0  # of the clean images, before noise is added
    name = "flow"

    def __post_init__(self) -> None:
        if self.direction and self.prediction == "noise":
            raise ValueError(
                "flow.direction compares velocities, and the velocity of a predicted noise is infinite at t = 1; take "
                "flow.prediction=velocity or data"
            )

    def out_channels(self, channels: int) -> int:
        return channels

    def levels(self, num_steps: int) -> Tensor:
        """Times from 1 to exactly 0, evenly: num_steps + 1 of them. From 1 - 1e-3 where the noise is predicted."""
        first = 1 - FROM_NOISE if self.prediction == "noise" else 1
        return torch.linspace(first, 0, num_steps + 1, dtype=torch.float64)

    def sigma_of(self, level: float) -> float:
        """sigma / (alpha data_scale); infinite at t = 1, where nothing of the clean image is left."""
        at = self._at_level(level)
        return (at.sigma / at.alpha).item() / self.data_scale if level < 1 else math.inf

    def noised(self, clean: Tensor, draw: Draw, level: Tensor | None = None, *, noise: Tensor | None = None) -> Noised:
        """Noise added at times `level` (B,), or at times drawn by the law `times`."""
        time = self._times(draw) if level is None else level
        noise = draw.normal(*clean.shape[1:]) if noise is None else noise
        noisy = self._at(time).noisy(self.data_scale * clean, noise)
        return Noised(noisy, time, clean, noisy, time, noise)

    def _times(self, draw: Draw) -> Tensor:
        """SiT Sec. 3: uniform; Esser et al. 2024 (arXiv:2403.03206) eq. 19: the sigmoid of N(0, 1). Then eq. 23.

        (B,). Both paths have the same law of t.
        """
        t = draw.uniform() if self.times == "uniform" else draw.normal().sigmoid()
        return self.shift * t / (1 + (self.shift - 1) * t)

    def denoised(self, raw: Tensor, noised: Noised) -> Tensor:  # (B, C, S, S)
        """Exact; of a predicted noise for t < 1 alone."""
        return self._clean(raw.float(), noised.noisy, noised.level)

    def velocity(self, noised: Noised) -> Tensor:  # (B, C, S, S)
        """u, the velocity of these images and this noise: what the network should predict. SiT Sec. 2."""
        return self._at(noised.level).velocity(self.data_scale * noised.clean, noised.noise)

    def loss_map(self, raw: Tensor, noised: Noised) -> Tensor:  # (B, C, S, S)
        """The squared error of the velocity (SiT eq. 6), or of the noise where that is predicted, unweighted.

        Where the clean image is predicted, v - u = (data - x_hat) det / sigma, and the denominator sigma / det is at
        least 0.05, for v and u alike, as JiT has it: below t = 0.05 the loss is no more that of the velocity. On the
        linear path sigma / det is t. With a `direction`, its weight times 1 - cos(v, u) over the channels of each place
        is added to each of them: FasterDiT (arXiv:2410.10356); LightningDiT repository, train.py.
        """
        raw = raw.float()
        if self.prediction == "noise":
            return (raw - noised.noise) ** 2
        velocity, target = self._compared(raw, noised)
        loss = (velocity - target) ** 2
        if self.direction:
            loss = loss + self.direction * (1 - F.cosine_similarity(velocity, target, dim=1)).unsqueeze(1)
        return loss

    def _compared(self, raw: Tensor, noised: Noised) -> tuple[Tensor, Tensor]:  # (B, C, S, S) twice
        """The velocity that the network's output stands for, and the one it should be."""
        if self.prediction == "velocity":
            return raw, self.velocity(noised)
        at = self._at(noised.level)
        drift, denominator = at.d_sigma * noised.noisy / at.determinant, (at.sigma / at.determinant).clamp(min=FEWEST)
        predicted, clean = self.data_scale * raw, self.data_scale * noised.clean
        return (drift - predicted) / denominator, (drift - clean) / denominator

    def predict(self, network: Network, x: Tensor, level: float, labels: Tensor) -> Prediction:
        """The denoised images at the time `level`."""
        time = torch.full((len(x),), level, device=x.device, dtype=torch.float32)
        x = x.float()
        return Prediction(self._clean(network(x, time, labels).float(), x, time), None)

    def denoise(self, network: Network, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        """alpha data_scale x is x_t at the t where sigma(t) / alpha(t) is data_scale sigma.

        On the linear path t = k / (1 + k) with k = data_scale sigma, and alpha = 1 / (1 + k). On gvp tan(pi t / 2) = k
        and alpha = 1 / sqrt(1 + k^2).
        """
        k = self.data_scale * sigma
        linear = self.path == "linear"
        time, alpha = (k / (1 + k), 1 / (1 + k)) if linear else (k.atan() * (2 / math.pi), (1 + k**2).rsqrt())
        x = per_image(alpha) * self.data_scale * x
        return self._clean(network(x, time, labels).float(), x, time)

    def slope(self, x: Tensor, clean: Tensor, level: float) -> Tensor:
        """The velocity that the denoised images stand for: dx / dt of the ODE (SiT Sec. 2), exact for t > 0."""
        return self._at_level(level).velocity(self.data_scale * clean, self.noise(x, clean, level))

    def noise(self, x: Tensor, clean: Tensor, level: float) -> Tensor:
        """The noise that the denoised images stand for, exact for t > 0."""
        return self._at_level(level).noise_of_data(x, self.data_scale * clean)

    def score(self, x: Tensor, clean: Tensor, level: float) -> Tensor:
        """s = -noise / sigma (SiT Sec. 2), exact for t > 0."""
        return -self.noise(x, clean, level) / self._at_level(level).sigma

    def _clean(self, raw: Tensor, x: Tensor, time: Tensor) -> Tensor:
        if self.prediction == "data":
            return raw
        at = self._at(time)
        data = at.data_of_velocity(x, raw) if self.prediction == "velocity" else at.data_of_noise(x, raw)
        return data / self.data_scale

    def _at(self, time: Tensor) -> Place:  # (B,) -> of (B, 1, 1, 1)
        return Place.on(self.path, per_image(time))

    def _at_level(self, level: float) -> Place:  # of () float64, which takes the device of what it meets
        return Place.on(self.path, torch.tensor(level, dtype=torch.float64))
