"""L_D, the discriminative loss of SD-DiT (arXiv:2403.17004, Sec. 3.4): a student agrees with a teacher.

The teacher sees the same images at a noise level of its own. It is the student's average, or the student itself.
B batch, C channels, S side, K prototypes, L tokens, V visible tokens, D width, Z bottleneck.
"""

import copy
import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.model import plain
from harness.model.agreement import AgreementKnobs, Prototypes, Seen
from harness.model.formulation import Formulation, Noised
from harness.model.method import Progress
from harness.model.plain import Pass
from harness.model.randomness import Draw
from harness.model.shape import Shape

Sigma = Annotated[float, Field(ge=0.002, le=80)]
Momentum = Annotated[float, Field(ge=0, le=1)]


class DiscriminationKnobs(AgreementKnobs):
    """The knobs of L_D, for a method's Config."""

    teacher_sigma: Sigma | Literal["student"] = Field(
        0.002, description='SD-DiT Sec. 3.2 and 4.4; "student", of Fig. 6: drawn as the student\'s is'
    )
    teacher_level: Literal["sigma", "same"] = Field(
        "sigma", description="SD-DiT: teacher_sigma; same: the level of the student's view, image by image"
    )
    shared_noise: bool = Field(
        False,
        description="SD-DiT Algorithm 1: fresh noise; true: the noise of the student's view, as on one trajectory",
    )
    student_sigma: Sigma | None = Field(
        None, description="SD-DiT: null, the view that is denoised; else L_D has a student's view of its own, at it"
    )
    teacher: Literal["average", "student"] = Field(
        "average", description="SD-DiT Sec. 3.4; student: the student itself without gradient, no second network"
    )
    teacher_momentum: tuple[Momentum, Momentum] = Field(
        (0.996, 0.999), description="SD-DiT Sec. 4.1; assumed: along a cosine over the run, as DINO and iBOT"
    )
    discriminative_weight: float = Field(1.0, ge=0, description="SD-DiT eq. 13: L_G + L_D")
    stop_gradient: Literal["none", "discriminative", "generative"] = Field(
        "none", description="SD-DiT: none; the loss whose gradient does not reach the encoder and its embeddings"
    )


class Branch(nn.Module):
    """An encoder and its head: what the teacher is the average of."""

    def __init__(self, encoder: nn.Module, head: nn.Module):
        super().__init__()
        self.encoder, self.head = encoder, head


class Discrimination(plain.Objective):
    """The loss on the tokens that one tap gives, [CLS] first. A subclass says what encodes them, in `encoder_of`."""

    formulations = ("edm",)  # the teacher's view is defined by a sigma

    def __init__(self, cfg: DiscriminationKnobs, shape: Shape, formulation: Formulation):
        super().__init__()
        self.cfg, self.formulation = cfg, formulation
        self.agreement = Prototypes(cfg, shape.width)
        self.group = self.agreement.group

    def encoder_of(self, network: Any) -> nn.Module:
        """The part of the network that encodes: (net_input, net_noise, labels, keep) -> (B, 1 + V, D)."""
        raise NotImplementedError

    def attach(self, network: nn.Module) -> None:
        if self.cfg.teacher == "average":
            self.teacher = copy.deepcopy(self._student(network)).requires_grad_(False)

    def _student(self, network: nn.Module) -> Branch:
        return Branch(self.encoder_of(network), self.agreement.head)

    def forward(self, seen: Pass, progress: Progress, draw: Draw) -> Tensor:
        parts = self.parts(seen, progress, draw)
        return self.cfg.discriminative_weight * torch.stack(list(parts.values())).sum()

    def parts(self, seen: Pass, progress: Progress, draw: Draw) -> dict[str, Tensor]:
        """What the loss is the weighted sum of, by name."""
        student, view = self._student_view(seen, draw)
        teacher = self.teacher if self.cfg.teacher == "average" else self._student(seen.network)
        with torch.no_grad():
            noised = self._teacher_view(seen, view, draw)
            encoded = teacher.encoder(noised.net_input, noised.net_noise, seen.batch.labels)  # (B, 1 + L, D): no mask
            projected = teacher.head(encoded)  # (B, 1 + L, Z)
        return self.agreement(Seen(student, projected, seen.keep), teacher.head, progress, draw)

    def _student_view(self, seen: Pass, draw: Draw) -> tuple[Tensor, Noised]:
        """The student's tokens and the noisy images they are of.   (B, 1 + V, D)"""
        (tokens,), view = seen.tapped, seen.noised
        if self.cfg.student_sigma is not None:
            view = self._noised(seen, draw, self.cfg.student_sigma)
            encoder = self.encoder_of(seen.network)
            tokens = encoder(view.net_input, view.net_noise, seen.batch.labels, seen.keep)
        return (tokens.detach() if self.cfg.stop_gradient == "discriminative" else tokens), view

    def _teacher_view(self, seen: Pass, view: Noised, draw: Draw) -> Noised:
        noise = view.noise if self.cfg.shared_noise else None
        if self.cfg.teacher_level == "same":
            return self.formulation.noised(seen.batch.clean, draw, view.level, noise=noise)
        return self._noised(seen, draw, self.cfg.teacher_sigma, noise)

    def _noised(self, seen: Pass, draw: Draw, sigma: float | str, noise: Tensor | None = None) -> Noised:
        """At this sigma, or at levels drawn as training draws them, with fresh noise where none is given."""
        clean = seen.batch.clean
        level = None if isinstance(sigma, str) else torch.full((len(clean),), sigma, device=clean.device)
        return self.formulation.noised(clean, draw, level, noise=noise)

    def _momentum(self, progress: Progress) -> float:
        start, end = self.cfg.teacher_momentum
        return end - (end - start) * (math.cos(math.pi * progress.fraction) + 1) / 2

    @torch.no_grad()
    def after_step(self, network: nn.Module, progress: Progress) -> dict[str, Tensor]:
        if self.cfg.teacher == "average":
            teacher: list[Tensor] = list(self.teacher.parameters())
            student: list[Tensor] = list(self._student(network).parameters())
            torch._foreach_lerp_(teacher, student, 1 - self._momentum(progress))
        return dict(self.agreement.after_step())
