"""Min-SNR (Hang et al. 2023, arXiv:2303.09556): DiT whose error at a step is weighted by min(SNR, gamma) / SNR.

SNR = alpha_bar / (1 - alpha_bar) is the signal-to-noise ratio of a step. Steps with little noise weigh less than in
DiT; all others weigh 1, as they do in DiT. The network and its sampling are DiT's.
B batch, T steps of the diffusion.
"""

from pydantic import Field
from torch import Tensor

from harness.model import method
from harness.model.formulations import IDDPM
from harness.model.method import Batch, Progress
from harness.model.nn.dit import DiT
from harness.model.randomness import Draw
from harness.model.shape import Shape
from harness.recipes.config import Knobs


class Config(Knobs):
    snr_gamma: float = Field(5.0, gt=0, description="Min-SNR repository, configs/in256: min_snr_5; inf: DiT's loss")


def weights(alpha_bar: Tensor, gamma: float) -> Tensor:
    """min(SNR, gamma) / SNR, the weight of the squared error of a predicted noise.   (T,) -> (T,)"""
    snr = alpha_bar / (1 - alpha_bar)
    return (gamma / snr).clamp(max=1)


class Method(method.Method):
    """The loss is iDDPM's with the error of the noise weighted; its term for the variance stays as it is."""

    formulations = ("iddpm",)  # the weight is defined for a predicted noise
    formulation: IDDPM
    weight: Tensor  # (T,)

    def __init__(self, cfg: Config, shape: Shape, formulation: IDDPM):
        super().__init__()
        self.formulation = formulation
        self.network = DiT(shape, formulation.out_channels(shape.channels))
        weight = weights(formulation.schedule.alpha_bar, cfg.snr_gamma).float()
        self.register_buffer("weight", weight, persistent=False)  # moves with the method; no checkpoint needs it

    def forward(self, batch: Batch, progress: Progress, draw: Draw) -> dict[str, Tensor]:
        noised = self.formulation.noised(batch.clean, draw)
        raw = self.network(noised.net_input, noised.net_noise, batch.labels)
        noise, _ = raw.float().chunk(2, dim=1)  # its second half is the variance
        taken_off = (1 - self.weight[noised.level]).reshape(-1, 1, 1, 1)  # (B, 1, 1, 1) of the weight 1 in loss_map
        return {"loss": (self.formulation.loss_map(raw, noised) - taken_off * (noise - noised.noise) ** 2).mean()}
