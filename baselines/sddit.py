"""SD-DiT (Zhu et al. 2024, arXiv:2403.17004): a student denoises; its encoder also agrees with an EMA teacher.

The teacher sees the same images with the least noise; the two token distributions are compared over K prototypes, in
harness.model.discrimination.
B batch, C channels, S side, L tokens, V visible tokens, D encoder width, W decoder width.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from harness.model import method
from harness.model.discrimination import Discrimination, DiscriminationKnobs
from harness.model.formulations import EDM
from harness.model.method import Batch, Progress
from harness.model.nn import tokens
from harness.model.nn.asymmetric import Decoder, Encoder, EncoderAlone, ProjectStart
from harness.model.nn.embeddings import Condition
from harness.model.plain import Pass
from harness.model.randomness import Draw
from harness.model.shape import Shape


class Config(DiscriminationKnobs):
    mask_ratio: float = Field(0.2, ge=0, lt=1, description="SD-DiT Sec. 4.1; its ablations (Sec. 4.4) use 0.5")
    discriminate: bool = Field(True, description='SD-DiT Sec. 3.4; false is "w/o L_D" of Table 3: no teacher, no head')
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
        self.decoder_stops = cfg.stop_gradient == "generative"
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
        if self.decoder_stops:
            complete, cond = complete.detach(), cond.detach()
        return encoded, self.decoder(self.decoder.project(complete, cond), cond)


class Objective(Discrimination):
    """L_D on what SD-DiT's encoder puts out."""

    def encoder_of(self, network: Network) -> EncoderAlone:
        return EncoderAlone(network.condition, network.encoder)


# Where the weights of L_D were in a checkpoint before it became an objective.
MOVED = {
    "head.": "discrimination.agreement.head.",
    "centre": "discrimination.agreement.centre",
    "teacher.head.": "discrimination.teacher.head.",
    "teacher.": "discrimination.teacher.encoder.",
}


class Method(method.Method):
    formulations = Objective.formulations
    network: Network

    def __init__(self, cfg: Config, shape: Shape, formulation: EDM):
        super().__init__()
        if cfg.stop_gradient != "none" and not cfg.discriminate:
            raise ValueError(
                f"stop_gradient is {cfg.stop_gradient} and discriminate is false: with one loss alone there is nothing "
                "to keep apart; leave one of them out"
            )
        self.cfg, self.shape, self.formulation = cfg, shape, formulation
        self.num_keep = tokens.num_kept(shape.num_tokens, cfg.mask_ratio)
        self.network = Network(cfg, shape, formulation.out_channels(shape.channels))
        self.discrimination = Objective(cfg, shape, formulation) if cfg.discriminate else None
        if self.discrimination is not None:
            self.discrimination.attach(self.network)
            self.group = self.discrimination.group

    def forward(self, batch: Batch, progress: Progress, draw: Draw) -> dict[str, Tensor]:
        noised = self.formulation.noised(batch.clean, draw)
        keep = tokens.random_keep(draw, self.shape.num_tokens, self.num_keep)
        encoded, raw = self.network.encode_decode(noised.net_input, noised.net_noise, batch.labels, keep)
        loss = generate = self.formulation.loss_map(raw, noised).mean()  # eq. 9, over all tokens
        if self.discrimination is None:
            return {"loss": generate}
        seen = Pass(batch, noised, raw, (encoded,), self.network, keep)
        parts = self.discrimination.parts(seen, progress, draw)
        for part in parts.values():
            loss = loss + self.cfg.discriminative_weight * part
        parts = {"generate": generate, **parts}
        return {"loss": loss, **{f"loss/{name}": part.detach() for name, part in parts.items()}}

    def after_step(self, progress: Progress) -> dict[str, Tensor]:
        return {} if self.discrimination is None else self.discrimination.after_step(self.network, progress)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **more: Any) -> Any:
        """Reads the checkpoints from before L_D was an objective, too."""
        moved = {}
        for name, value in state_dict.items():
            before = next((old for old in MOVED if name.startswith(old)), "")
            moved[MOVED.get(before, "") + name.removeprefix(before)] = value
        return super().load_state_dict(moved, *args, **more)
