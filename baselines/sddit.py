"""SD-DiT (Zhu et al. 2024, arXiv:2403.17004): a student denoises; its encoder also agrees with an EMA teacher.

The teacher sees the same images with the least noise; the two token distributions are compared over K prototypes.
B batch, C channels, S side, L tokens, V visible tokens, D encoder width, W decoder width, Z bottleneck, K prototypes.
"""

import copy
import math
from typing import Annotated, Literal

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn

from harness.model import method
from harness.model.formulations import EDM
from harness.model.method import Batch, Progress
from harness.model.nn import tokens
from harness.model.nn.asymmetric import Decoder, Encoder, ProjectStart
from harness.model.nn.embeddings import Condition
from harness.model.nn.heads import Discriminator, ProjectionHead
from harness.model.nn.soft_cross_entropy import Logits, soft_cross_entropy
from harness.model.nn.targets import entropy_and_information, mean_target_and_entropy
from harness.model.randomness import Draw
from harness.model.shape import Shape
from harness.recipes.config import Knobs

Sigma = Annotated[float, Field(ge=0.002, le=80)]
TeacherSigma = Sigma | Literal["student"]
Momentum = Annotated[float, Field(ge=0, le=1)]
Temperature = Annotated[float, Field(gt=0)]


class Config(Knobs):
    mask_ratio: float = Field(0.2, ge=0, lt=1, description="SD-DiT Sec. 4.1; its ablations (Sec. 4.4) use 0.5")
    discriminate: bool = Field(True, description='SD-DiT Sec. 3.4; false is "w/o L_D" of Table 3: no teacher, no head')
    teacher_sigma: TeacherSigma = Field(
        0.002, description='SD-DiT Sec. 3.2 and 4.4; "student", of Fig. 6: drawn as the student\'s is'
    )
    teacher_momentum: tuple[Momentum, Momentum] = Field(
        (0.996, 0.999), description="SD-DiT Sec. 4.1; assumed: along a cosine over the run, as DINO and iBOT"
    )
    student_temperature: Temperature = Field(0.1, description="SD-DiT Table 4")
    teacher_temperature: tuple[Temperature, Temperature] = Field((0.09, 0.099), description="SD-DiT Table 4")
    teacher_temperature_epochs: float = Field(
        5, ge=0, description="SD-DiT Table 4; assumed: from one to the other along a line, as iBOT"
    )
    centre_momentum: float = Field(0.9, ge=0, lt=1, description="assumed: iBOT repository, main_ibot.py, both centres'")
    num_prototypes: int = Field(8192, ge=2, description="SD-DiT Sec. 4.1: K")
    head_hidden: int = Field(2048, ge=1, description="assumed: iBOT repository, models/head.py")
    head_bottleneck: int = Field(256, ge=1, description="assumed: iBOT repository, models/head.py")
    shared_prototypes: bool = Field(
        False, description="assumed: iBOT repository, main_ibot.py: a student's [CLS] and patches have their own"
    )
    decoder_width: int | None = Field(
        None, ge=4, multiple_of=4, description="inferred: null is half the encoder's, by the 740.6 M of SD-DiT App. A"
    )
    decoder_depth: int = Field(8, ge=1, description="SD-DiT Sec. 3.3 and 4.1")
    decoder_heads: int = Field(16, ge=1, description="assumed: as MaskDiT; SD-DiT does not say")

    project_start: ProjectStart = Field("zero", description="assumed: as MaskDiT; SD-DiT does not say")

    @property
    def input_patches(self) -> str:
        return f"{1 - self.mask_ratio:.0%}"


class Network(nn.Module):
    """The student. Masked patches skip the encoder; the decoder gets them as they were embedded (Sec. 3.3)."""

    def __init__(self, cfg: Config, shape: Shape, out_channels: int):
        super().__init__()
        self.condition = Condition(shape.width, shape.num_classes)
        self.encoder = Encoder(shape, cls_token=True)
        width = cfg.decoder_width or shape.width // 2
        self.decoder = Decoder(
            shape, out_channels, width=width, depth=cfg.decoder_depth, num_heads=cfg.decoder_heads,
            project_start=cfg.project_start,
        )  # fmt: skip

    def forward(self, net_input: Tensor, net_noise: Tensor, labels: Tensor) -> Tensor:
        return self.encode_decode(net_input, net_noise, labels, None)[1]

    def encode_decode(self, net_input, net_noise, labels, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """The encoder's tokens, [CLS] first, and the raw output.   -> (B, 1 + V, D), (B, C, S, S)"""
        cond = self.condition(net_noise, labels)  # (B, D)
        embedded = self.encoder.embed(net_input)  # (B, L, D)
        encoded = self.encoder(embedded, cond, keep)  # (B, 1 + V, D)
        patches = encoded[:, 1:]
        complete = patches if keep is None else tokens.scatter(patches, keep, onto=embedded)  # (B, L, D)
        return encoded, self.decoder(self.decoder.project(complete, cond), cond)


class Method(method.Method):
    formulations = ("edm",)  # the teacher's view is defined by a sigma
    network: Network
    centre: Tensor  # (2, K)
    batch_mean: Tensor  # (2, K)
    targets: Tensor  # (2, K + 1)

    def __init__(self, cfg: Config, shape: Shape, formulation: EDM):
        super().__init__()
        self.cfg, self.shape, self.formulation = cfg, shape, formulation
        self.num_keep = tokens.num_kept(shape.num_tokens, cfg.mask_ratio)
        self.network = Network(cfg, shape, formulation.out_channels(shape.channels))
        if not cfg.discriminate:
            return
        self.head = ProjectionHead(
            shape.width, hidden=cfg.head_hidden, bottleneck=cfg.head_bottleneck,
            num_prototypes=cfg.num_prototypes, shared_prototypes=cfg.shared_prototypes,
        )  # fmt: skip
        self.teacher = copy.deepcopy(self._student()).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(2, cfg.num_prototypes))  # of [CLS], of patches
        # Gathered over micro-batches from one after_step to the next: of the teacher's logits, and of its targets.
        self.register_buffer("batch_mean", torch.zeros_like(self.centre), persistent=False)
        self.register_buffer("targets", torch.zeros(2, cfg.num_prototypes + 1), persistent=False)

    def _student(self) -> Discriminator:
        return Discriminator(self.network.condition, self.network.encoder, self.head)

    def forward(self, batch: Batch, progress: Progress, draw: Draw) -> dict[str, Tensor]:
        noised = self.formulation.noised(batch.clean, draw)
        keep = tokens.random_keep(draw, self.shape.num_tokens, self.num_keep)
        encoded, raw = self.network.encode_decode(noised.net_input, noised.net_noise, batch.labels, keep)
        generate = self.formulation.loss_map(raw, noised).mean()  # eq. 9, over all tokens
        if not self.cfg.discriminate:
            return {"loss": generate}
        teacher = self._teacher_logits(batch, keep, draw)
        temperature = self._teacher_temperature(progress)
        cls, patches = self._discriminate(encoded, teacher, temperature)
        if not encoded.is_meta:  # on shapes alone the method's arithmetic is counted, and this is not its
            self._measure(teacher, temperature, draw)
        parts = {"loss/generate": generate, "loss/cls": cls, "loss/patches": patches}
        return {"loss": generate + cls + patches, **{name: part.detach() for name, part in parts.items()}}

    def _discriminate(self, encoded: Tensor, teacher: list[Logits], temperature: Tensor) -> list[Tensor]:
        """Cross-entropy of the student's distributions to the teacher's (eq. 10-12): [CLS], mean of visible patches."""
        z = self.head.embed(encoded)  # (B, 1 + V, Z)
        student = map(Logits, (z[:, 0], z[:, 1:]), self.head.prototypes())
        return [
            soft_cross_entropy(
                *pair,
                centre=centre,
                student_temperature=self.cfg.student_temperature,
                teacher_temperature=temperature,
            )
            for *pair, centre in zip(student, teacher, self.centre, strict=True)
        ]

    @torch.no_grad()
    def _teacher_logits(self, batch: Batch, keep: Tensor, draw: Draw) -> list[Logits]:
        """The teacher's, not yet centred, of [CLS] and of the visible patches.   -> (B, K), (B, V, K)"""
        sigma = self.cfg.teacher_sigma
        level = None if sigma == "student" else torch.full((len(batch.clean),), sigma, device=batch.clean.device)
        noised = self.formulation.noised(batch.clean, draw, level)  # fresh noise
        z = self.teacher(noised.net_input, noised.net_noise, batch.labels)  # (B, 1 + L, Z): no mask
        prototypes = self.teacher.head.prototypes()
        # The centre is the mean over ALL patches, and the last layer is linear: the mean of its outputs is its output
        # for the mean, so only visible patches need K logits.
        means = map(Logits, (z[:, 0].mean(0), z[:, 1:].mean((0, 1))), prototypes)
        self.batch_mean.add_(torch.stack([mean.multiplied() for mean in means]), alpha=draw.share)  # (2, K)
        return list(map(Logits, (z[:, 0], tokens.gather(z[:, 1:], keep)), prototypes))

    @torch.no_grad()
    def _measure(self, teacher: list[Logits], temperature: Tensor, draw: Draw) -> None:
        """What the targets say of [CLS], and of one visible patch of each image: all of them would take time."""
        cls, (patches, prototypes) = teacher
        any_patch = tokens.gather(patches, draw.integers(self.num_keep)[:, None])[:, 0]  # (B, Z)
        measured = (cls, self.centre[0]), (Logits(any_patch, prototypes), self.centre[1])
        sums = [mean_target_and_entropy(*each, temperature) for each in measured]
        self.targets.add_(torch.stack(sums), alpha=draw.share)

    def _teacher_temperature(self, progress: Progress) -> Tensor:
        """0-dim float32 on the device, where the progress may lie too: it is not read, so that nothing waits for it."""
        start, end = self.cfg.teacher_temperature
        warmup = self.cfg.teacher_temperature_epochs
        epochs = self.centre.new_zeros(()).add_(progress.epochs)
        return start + (end - start) * (epochs / warmup).clamp(max=1) if warmup else epochs.new_full((), end)

    def _momentum(self, progress: Progress) -> float:
        start, end = self.cfg.teacher_momentum
        return end - (end - start) * (math.cos(math.pi * progress.fraction) + 1) / 2

    @torch.no_grad()
    def after_step(self, progress: Progress) -> dict[str, Tensor]:
        if not self.cfg.discriminate:
            return {}
        teacher: list[Tensor] = list(self.teacher.parameters())
        student: list[Tensor] = list(self._student().parameters())
        torch._foreach_lerp_(teacher, student, 1 - self._momentum(progress))
        if dist.is_initialized():
            dist.all_reduce(self.batch_mean)  # every process has its share of a mean
            dist.all_reduce(self.targets)
        self.centre.lerp_(self.batch_mean, 1 - self.cfg.centre_momentum)
        logged = entropy_and_information(self.targets, ("cls", "patches"))  # of the batch, however it was cut
        torch._foreach_zero_([self.batch_mean, self.targets])
        return logged
