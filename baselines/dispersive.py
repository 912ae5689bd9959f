"""Dispersive loss (Wang & He 2025, arXiv:2506.09027): the outputs of one block are pushed apart, image from image.

B batch, G groups, N images of a group, F = L D numbers of an image.
"""

import math

import torch
from pydantic import Field
from torch import Tensor

from harness.model import plain
from harness.model.formulations import Formulation
from harness.model.method import Progress
from harness.model.nn.groups import in_groups
from harness.model.plain import Pass, Plain
from harness.model.randomness import Draw
from harness.model.shape import Shape
from harness.recipes.config import Knobs

BY_DIFFERENCES = "donot_use_mm_for_euclid_dist"  # torch's: products would round small distances away


class Config(Knobs):
    dispersive_weight: float = Field(0.5, ge=0, description="Dispersive loss, JAX release; its PyTorch release: 0.25")
    dispersive_temperature: float = Field(
        0.5, gt=0, description="Dispersive loss, JAX release: tau; its PyTorch release: 1"
    )
    dispersive_block: int | None = Field(
        None, ge=1, description="Dispersive loss, JAX release: null is a quarter of the depth; PyTorch: the last block"
    )
    dispersive_group: int = Field(
        16, ge=2, description="Dispersive loss, JAX release: pairs within 16 images of a device; PyTorch release: 32"
    )


class Objective(plain.Objective):
    def __init__(self, cfg: Config, shape: Shape, formulation: Formulation):
        super().__init__()
        self.cfg, self.group = cfg, cfg.dispersive_group
        self.taps = (cfg.dispersive_block or max(1, shape.depth // 4),)

    def forward(self, seen: Pass, progress: Progress, draw: Draw) -> Tensor:
        """weight x log of the mean over all ordered pairs of a group, i = j included, of exp(-|z_i - z_j|^2 / (F tau)).

        The mean over the groups of a batch.
        """
        (tapped,) = seen.tapped
        z = in_groups(tapped.float().flatten(1), self.group, draw)  # (G, N, F)
        distances = torch.cdist(z, z, compute_mode=BY_DIFFERENCES)  # (G, N, N)
        exponents = -(distances**2) / (z.shape[-1] * self.cfg.dispersive_temperature)
        spread = exponents.flatten(1).logsumexp(1) - 2 * math.log(z.shape[1])  # (G,)
        return self.cfg.dispersive_weight * spread.mean()


class Method(Plain):
    adds = Objective
