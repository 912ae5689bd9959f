"""Contrastive flow matching (Stoica et al. 2025, arXiv:2506.05350): away from the velocity of another image.

B batch, C channels, S side, G groups, N images of a group.
"""

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor

from harness.model import plain
from harness.model.formulations import Flow
from harness.model.method import Progress
from harness.model.nn.dit import DiT
from harness.model.nn.groups import in_groups
from harness.model.plain import Pass, Plain
from harness.model.randomness import Draw
from harness.model.shape import Shape
from harness.recipes.config import Knobs


class Config(Knobs):
    contrastive_weight: float = Field(0.05, ge=0, lt=1, description="DeltaFM repository, triplet_loss.py: lambda")
    contrastive_group: int = Field(
        16, ge=2, description="chosen: the other image is one of 16 neighbours in the batch, drawn evenly"
    )
    contrastive_correction: bool = Field(
        False, description="DeltaFM repository: without guidance its bias stays; true removes it (docs/methods.md)"
    )


class Objective(plain.Objective):
    """-lambda |v - u'|^2, with u' the velocity noise - clean of another image.

    |v - u|^2 - lambda |v - u'|^2 is least at v = (E[u | x] - lambda m) / (1 - lambda), m = E[u'] = -E[clean]. It is not
    the velocity E[u | x]. With the correction the network's output is taken for E[u | x], and v follows from it.
    """

    formulations = ("flow",)
    mean: Tensor  # (C, S, S) of the clean images so far
    batch_mean: Tensor  # (C, S, S) gathered over the micro-batches of one step
    steps: Tensor  # () how many batches the mean has seen

    def __init__(self, cfg: Config, shape: Shape, formulation: Flow):
        if (formulation.path, formulation.prediction, formulation.data_scale) != ("linear", "velocity", 1):
            raise ValueError(
                "contrastive is defined for flow.path linear, flow.prediction velocity and flow.data_scale 1: the "
                "velocity is noise - clean"
            )
        super().__init__()
        self.cfg, self.formulation, self.group = cfg, formulation, cfg.contrastive_group
        if cfg.contrastive_correction:
            image = shape.channels, shape.side, shape.side
            self.register_buffer("mean", torch.zeros(image))
            self.register_buffer("steps", torch.zeros(()))
            self.register_buffer("batch_mean", torch.zeros(image), persistent=False)

    def forward(self, seen: Pass, progress: Progress, draw: Draw) -> Tensor:
        weight, raw = self.cfg.contrastive_weight, seen.raw.float()
        velocity = self.formulation.velocity(seen.noised)  # u
        groups = in_groups(velocity, self.group, draw)  # (G, N, C, S, S)
        num_images = groups.shape[1]
        offsets = 1 + in_groups(draw.integers(max(num_images - 1, 1)), self.group, draw)  # (G, N)
        other = (torch.arange(num_images, device=offsets.device) + offsets) % num_images
        chosen = torch.arange(len(groups), device=offsets.device)[:, None], other
        contrast = groups[chosen].flatten(0, 1)  # u', (B, C, S, S)
        if not self.cfg.contrastive_correction:
            return -weight * ((raw - contrast) ** 2).mean()
        with torch.no_grad():
            self.batch_mean.add_(seen.batch.clean.mean(0), alpha=draw.share)
        v = (raw + weight * self.mean) / (1 - weight)
        return ((v - velocity) ** 2).mean() - weight * ((v - contrast) ** 2).mean() - ((raw - velocity) ** 2).mean()

    @torch.no_grad()
    def after_step(self, network: DiT, progress: Progress) -> dict[str, Tensor]:
        if self.cfg.contrastive_correction:
            if dist.is_initialized():
                dist.all_reduce(self.batch_mean)  # every process has its share of the mean
            self.steps += 1
            self.mean += (self.batch_mean - self.mean) / self.steps
            self.batch_mean.zero_()
        return {}


class Method(Plain):
    formulations = Objective.formulations
    adds = Objective
