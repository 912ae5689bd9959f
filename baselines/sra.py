"""SRA (Jiang et al. 2025, arXiv:2505.02831): a block is drawn to a deeper one of the average, which sees less noise.

B batch, L tokens, D width.
"""

import copy
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from harness.model import plain
from harness.model.formulations import Formulation
from harness.model.method import Progress
from harness.model.nn.blocks import linear, through
from harness.model.nn.dit import DiT
from harness.model.plain import Pass, Plain
from harness.model.randomness import Draw
from harness.model.shape import Shape
from harness.recipes.config import Knobs


class Config(Knobs):
    sra_weight: float = Field(0.2, ge=0, description="SRA's ablation, B/2: lambda; its repository: 0.5 with cosine")
    sra_student: int | None = Field(None, ge=1, description="SRA: blocks 3, 6, 8 of B, L, XL; null is a quarter")
    sra_teacher: int | None = Field(None, ge=1, description="SRA: blocks 8, 16, 20 of B, L, XL; null is two thirds")
    sra_interval: float = Field(0.2, ge=0, le=1, description="SRA: k ~ U(0, 0.2) of the time from 0 to 1")
    sra_distance: Literal["smooth-l1", "cosine"] = Field("smooth-l1", description="SRA; its README prefers cosine")
    sra_axis: Literal["token", "channel"] = Field(
        "token",
        description="SRA eq. 5: a cosine over each token's channels; as released: over tokens, for each channel",
    )
    sra_head: bool = Field(True, description="SRA: false is its ablation without the student's head")
    sra_momentum: float = Field(0.9999, ge=0, lt=1, description="SRA: the teacher is the average, of this decay")


class FirstBlocks(nn.Module):
    """A DiT as far as one of its blocks, which is all that the teacher needs. It shares the network's parts."""

    position: Tensor  # (1, L, D)

    def __init__(self, network: DiT, depth: int):
        super().__init__()
        self.patches, self.condition, self.blocks = network.patches, network.condition, network.blocks[:depth]
        self.register_buffer("position", network.position, persistent=False)

    def forward(self, net_input: Tensor, net_noise: Tensor, labels: Tensor) -> Tensor:  # (B, C, S, S) -> (B, L, D)
        x = self.patches(net_input) + self.position
        return through(self.blocks, x, self.condition(net_noise, labels))[0]


class Objective(plain.Objective):
    """The teacher is an average of its own, of the embeddings and the blocks up to the one that is read."""

    formulations = ("iddpm", "flow")  # the interval is one of time

    def __init__(self, cfg: Config, shape: Shape, formulation: Formulation):
        super().__init__()
        self.cfg, self.formulation = cfg, formulation
        self.taps = (cfg.sra_student or max(1, shape.depth // 4),)
        self.depth = cfg.sra_teacher or max(1, 2 * shape.depth // 3)
        if self.depth > shape.depth:
            raise ValueError(f"sra_teacher is block {self.depth}, and the network's blocks are 1 to {shape.depth}")
        width = shape.width
        head = nn.Sequential(linear(width, 2 * width), nn.SiLU(), linear(2 * width, width))
        self.head = head if cfg.sra_head else nn.Identity()

    def attach(self, network: DiT) -> None:
        self.teacher = copy.deepcopy(FirstBlocks(network, self.depth)).requires_grad_(False)

    def forward(self, seen: Pass, progress: Progress, draw: Draw) -> Tensor:
        (tapped,) = seen.tapped
        with torch.no_grad():
            wanted = self._teacher(seen, draw).float()
        found = self.head(tapped).float()
        if self.cfg.sra_distance == "smooth-l1":
            distance = F.smooth_l1_loss(found, wanted, beta=0.05)
        else:
            axis = -1 if self.cfg.sra_axis == "token" else 1
            distance = (1 - F.cosine_similarity(found, wanted, dim=axis)).mean()
        return self.cfg.sra_weight * distance

    def _teacher(self, seen: Pass, draw: Draw) -> Tensor:
        """Its block's output for the same noise at an earlier time.   (B, L, D)"""
        noised, steps = seen.noised, self.formulation.num_steps
        earlier = draw.uniform() * self.cfg.sra_interval  # (B,)
        level = noised.level - (earlier if steps is None else (earlier * steps).long())
        less = self.formulation.noised(noised.clean, draw, level.clamp(min=0), noise=noised.noise)
        return self.teacher(less.net_input, less.net_noise, seen.batch.labels)

    @torch.no_grad()
    def after_step(self, network: DiT, progress: Progress) -> dict[str, Tensor]:
        teacher: list[Tensor] = list(self.teacher.parameters())
        student: list[Tensor] = list(FirstBlocks(network, self.depth).parameters())
        torch._foreach_lerp_(teacher, student, 1 - self.cfg.sra_momentum)
        return {}


class Method(Plain):
    formulations = Objective.formulations
    adds = Objective
