"""An objective that draws a block's tokens towards a frozen encoder's: what REPA and SARA have in common.

B batch, L tokens, D width, Z numbers of an encoder's token.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.model import plain
from harness.model.encoders import Encoder, EncoderKnobs
from harness.model.formulations import Formulation
from harness.model.nn.blocks import linear
from harness.model.plain import Pass
from harness.model.shape import Shape


class AlignmentKnobs(EncoderKnobs):
    """The knobs of a method that aligns tokens."""

    align_block: int | None = Field(
        None, ge=1, description="REPA repository, README: block 4 of B, 8 of L and XL; null is a third of the depth"
    )
    projector: Literal["mlp", "conv"] = Field("mlp", description="REPA: three layers with SiLU; iREPA: a 3 x 3 conv")
    projector_width: int = Field(2048, ge=1, description="REPA repository, models/sit.py: projector_dim")
    align_gamma: float | None = Field(
        None, ge=0, description="REPA: null; iREPA: how much of their mean the encoder's tokens lose, then their spread"
    )


class ConvProjector(nn.Module):
    """iREPA's: a token is projected with the eight around it."""

    def __init__(self, grid: int, width: int, outputs: int):
        super().__init__()
        self.grid, self.conv = grid, nn.Conv2d(width, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:  # (B, L, D) -> (B, L, Z)
        places = x.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        return self.conv(places).flatten(2).transpose(1, 2)


def in_full_precision(x: Tensor) -> AbstractContextManager:
    """A region where no autocast rounds products of x."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


class Alignment(plain.Objective):
    """Subclass it with a loss of what `pair` gives."""

    def __init__(self, cfg: AlignmentKnobs, shape: Shape, formulation: Formulation):
        super().__init__()
        self.gamma, self.taps = cfg.align_gamma, (cfg.align_block or max(1, shape.depth // 3),)
        self.encoder = Encoder(cfg, shape)
        self.frozen, self.extra = self.encoder.frozen, self.encoder.extra
        hidden, outputs = cfg.projector_width, self.encoder.width
        if cfg.projector == "conv":
            self.projector: nn.Module = ConvProjector(shape.grid, shape.width, outputs)
        else:
            self.projector = nn.Sequential(
                linear(shape.width, hidden), nn.SiLU(), linear(hidden, hidden), nn.SiLU(), linear(hidden, outputs)
            )

    def pair(self, seen: Pass) -> tuple[Tensor, Tensor]:
        """The block's tokens, projected, and the encoder's, without gradient.   (B, L, Z), (B, L, Z) float32"""
        (tapped,) = seen.tapped
        with in_full_precision(tapped):  # so that what is aligned with does not depend on the run's precision
            wanted = self.encoder(seen.batch).float()
        if self.gamma is not None:
            wanted = (wanted - self.gamma * wanted.mean(1, keepdim=True)) / (wanted.std(1, keepdim=True) + 1e-6)
        return self.projector(tapped).float(), wanted
