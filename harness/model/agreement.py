"""How two views of an image are held to agree: what SD-DiT's L_D compares, apart from the views themselves.

B batch, L tokens, V visible tokens, D width, Z bottleneck, K prototypes.
"""

from collections.abc import Mapping
from typing import Annotated, NamedTuple

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from harness.model.method import Progress
from harness.model.nn import tokens
from harness.model.nn.heads import ProjectionHead
from harness.model.nn.soft_cross_entropy import Logits, soft_cross_entropy
from harness.model.nn.targets import entropy_and_information, mean_target_and_entropy
from harness.model.randomness import Draw
from harness.recipes.config import Knobs

Temperature = Annotated[float, Field(gt=0)]


class AgreementKnobs(Knobs):
    """The knobs of the head, and of what is compared."""

    student_temperature: Temperature = Field(0.1, description="SD-DiT Table 4")
    teacher_temperature: tuple[Temperature, Temperature] = Field((0.09, 0.099), description="SD-DiT Table 4")
    teacher_temperature_epochs: float = Field(
        5, ge=0, description="SD-DiT Table 4; assumed: from one to the other along a line, as iBOT"
    )
    centre_momentum: float = Field(0.9, ge=0, lt=1, description="assumed: iBOT repository, main_ibot.py, both centres'")
    num_prototypes: int = Field(8192, ge=2, description="SD-DiT Sec. 4.1: K")
    head_hidden: int = Field(2048, ge=1, description="assumed: iBOT repository, models/head.py")
    head_bottleneck: int = Field(256, ge=1, description="assumed: iBOT repository, models/head.py")
    head_layers: int = Field(3, ge=1, description="assumed: iBOT repository, models/head.py: its linear layers")
    head_norm: bool = Field(
        False, description="chosen: none, SD-DiT names none; true: a LayerNorm before the head, as iBOT's encoder ends"
    )
    shared_prototypes: bool = Field(
        False, description="assumed: iBOT repository, main_ibot.py: a student's [CLS] and patches have their own"
    )


class Seen(NamedTuple):
    """The student's tokens and the teacher's, [CLS] first."""

    student: Tensor  # (B, 1 + V, D) as its encoder puts them out
    teacher: Tensor  # (B, 1 + L, Z) as its head puts them out, without gradient
    keep: Tensor | None  # (B, V) which of the teacher's patches the student saw; None: all


class Agreement(nn.Module):
    """Compares the views. The teacher has a head of its own, an average or the same."""

    head: nn.Module
    group: int = 1  # as a method's

    def forward(self, seen: Seen, teacher_head: nn.Module, progress: Progress, draw: Draw) -> dict[str, Tensor]:
        """The parts of the loss by name, scalars, unweighted."""
        raise NotImplementedError

    def after_step(self) -> Mapping[str, Tensor]:
        """As a method's after_step."""
        return {}


class Prototypes(Agreement):
    """SD-DiT's own: cross-entropy of two distributions over K prototypes (eq. 10-12), the teacher's centred."""

    head: ProjectionHead
    centre: Tensor  # (2, K) of [CLS], of patches
    batch_mean: Tensor  # (2, K)
    targets: Tensor  # (2, K + 1)

    def __init__(self, cfg: AgreementKnobs, width: int):
        super().__init__()
        self.cfg = cfg
        self.head = ProjectionHead(
            width, hidden=cfg.head_hidden, bottleneck=cfg.head_bottleneck, num_prototypes=cfg.num_prototypes,
            shared_prototypes=cfg.shared_prototypes, num_layers=cfg.head_layers, norm=cfg.head_norm,
        )  # fmt: skip
        self.register_buffer("centre", torch.zeros(2, cfg.num_prototypes))
        # Gathered over micro-batches from one after_step to the next: of the teacher's logits, and of its targets.
        self.register_buffer("batch_mean", torch.zeros_like(self.centre), persistent=False)
        self.register_buffer("targets", torch.zeros(2, cfg.num_prototypes + 1), persistent=False)

    def forward(self, seen: Seen, teacher_head: nn.Module, progress: Progress, draw: Draw) -> dict[str, Tensor]:
        assert isinstance(teacher_head, ProjectionHead)
        teacher = self._teacher_logits(seen, teacher_head, draw)
        temperature = self._teacher_temperature(progress)
        z = self.head.embed(seen.student)  # (B, 1 + V, Z)
        student = map(Logits, (z[:, 0], z[:, 1:]), self.head.prototypes())
        losses = [
            soft_cross_entropy(
                *pair,
                centre=centre,
                student_temperature=self.cfg.student_temperature,
                teacher_temperature=temperature,
            )
            for *pair, centre in zip(student, teacher, self.centre, strict=True)
        ]
        if not z.is_meta:  # on shapes alone the method's arithmetic is counted, and this is not its
            self._measure(teacher, temperature, draw)
        return dict(zip(("cls", "patches"), losses, strict=True))

    @torch.no_grad()
    def _teacher_logits(self, seen: Seen, head: ProjectionHead, draw: Draw) -> list[Logits]:
        """The teacher's, not yet centred, of [CLS] and of the visible patches.   -> (B, K), (B, V, K)"""
        z = F.normalize(seen.teacher, dim=-1)  # (B, 1 + L, Z)
        prototypes = head.prototypes()
        # The centre is the mean over ALL patches, and the last layer is linear: the mean of its outputs is its output
        # for the mean, so only visible patches need K logits.
        means = map(Logits, (z[:, 0].mean(0), z[:, 1:].mean((0, 1))), prototypes)
        self.batch_mean.add_(torch.stack([mean.multiplied() for mean in means]), alpha=draw.share)  # (2, K)
        visible = z[:, 1:] if seen.keep is None else tokens.gather(z[:, 1:], seen.keep)
        return list(map(Logits, (z[:, 0], visible), prototypes))

    @torch.no_grad()
    def _measure(self, teacher: list[Logits], temperature: Tensor, draw: Draw) -> None:
        """What the targets say of [CLS], and of one visible patch of each image: all of them would take time."""
        cls, (patches, prototypes) = teacher
        any_patch = tokens.gather(patches, draw.integers(patches.shape[1])[:, None])[:, 0]  # (B, Z)
        measured = (cls, self.centre[0]), (Logits(any_patch, prototypes), self.centre[1])
        sums = [mean_target_and_entropy(*each, temperature) for each in measured]
        self.targets.add_(torch.stack(sums), alpha=draw.share)

    def _teacher_temperature(self, progress: Progress) -> Tensor:
        """0-dim float32 on the device, where the progress may lie too: it is not read, so that nothing waits for it."""
        start, end = self.cfg.teacher_temperature
        warmup = self.cfg.teacher_temperature_epochs
        epochs = self.centre.new_zeros(()).add_(progress.epochs)
        return start + (end - start) * (epochs / warmup).clamp(max=1) if warmup else epochs.new_full((), end)

    @torch.no_grad()
    def after_step(self) -> dict[str, Tensor]:
        if dist.is_initialized():
            dist.all_reduce(self.batch_mean)  # every process has its share of a mean
            dist.all_reduce(self.targets)
        self.centre.lerp_(self.batch_mean, 1 - self.cfg.centre_momentum)
        logged = entropy_and_information(self.targets, ("cls", "patches"))  # of the batch, however it was cut
        torch._foreach_zero_([self.batch_mean, self.targets])
        return logged
