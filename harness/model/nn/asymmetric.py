"""A wide encoder over the kept tokens and a narrow decoder over all of them: MaskDiT's and SD-DiT's halves.

B batch, C channels, S side, L tokens, K kept tokens, D encoder width, W decoder width.
"""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.model.nn import tokens
from harness.model.nn.blocks import DiTBlock, ModulatedLinear, linear, readout, through, zero_linear
from harness.model.nn.embeddings import Condition, PatchEmbed, sincos_positions, unpatchify
from harness.model.shape import Shape

ProjectStart = Literal["zero", "xavier"]  # how the projection between encoder and decoder starts


class Encoder(nn.Module):
    """DiT blocks over the kept tokens, behind a learned [CLS] token if there is one."""

    position: Tensor  # (1, L, D)

    def __init__(self, shape: Shape, *, cls_token: bool = False):
        super().__init__()
        self.rotary = shape.rotary
        self.patches = PatchEmbed(shape)
        self.register_buffer("position", sincos_positions(shape.width, shape.grid), persistent=False)
        self.cls_token = nn.Parameter(torch.randn(1, 1, shape.width) * 0.02) if cls_token else None
        self.blocks = nn.ModuleList(DiTBlock(shape) for _ in range(shape.depth))

    def embed(self, net_input: Tensor) -> Tensor:  # (B, C, S, S) -> (B, L, D)
        return self.patches(net_input) + self.position

    def forward(self, embedded: Tensor, cond: Tensor, keep: Tensor | None) -> Tensor:  # (B, L, D) -> (B, [1 +] K, D)
        x = embedded if keep is None else tokens.gather(embedded, keep)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
            if self.rotary:  # place 0, which [CLS] gets, is the one that is not turned
                places = torch.arange(embedded.shape[1], device=x.device).expand(len(x), -1) if keep is None else keep
                keep = F.pad(places, (1, 0))
        return through(self.blocks, x, cond, None, keep)[0]


class EncoderAlone(nn.Module):
    """An encoder with its embeddings and without a decoder: what a self-distilled teacher is the average of."""

    def __init__(self, condition: Condition, encoder: Encoder):
        super().__init__()
        self.condition, self.encoder = condition, encoder

    def forward(self, net_input: Tensor, net_noise: Tensor, labels: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, C, S, S), (B,), (B,), (B, K) -> (B, [1 +] K, D); without `keep`, all tokens"""
        return self.encoder(self.encoder.embed(net_input), self.condition(net_noise, labels), keep)


class Decoder(nn.Module):
    """Projects tokens to its own width, adds its own positions, and reads patches out of its DiT blocks.

    The projection starts at zero, as in MaskDiT's repository (models/maskdit.py), or as the block's other layers do. At
    zero the encoder has no gradient until the projection has moved, and the readout's zero start delays that: short
    runs stay on a plateau, which they leave at a step that depends on the seed.
    """

    position: Tensor  # (1, L, W)

    def __init__(
        self,
        shape: Shape,
        out_channels: int,
        *,
        width: int,
        depth: int,
        num_heads: int,
        project_start: ProjectStart = "zero",
    ):
        super().__init__()
        self.patch = shape.patch
        start = zero_linear if project_start == "zero" else linear
        self.project = ModulatedLinear(shape.width, shape.width, start(shape.width, width), shape.norm)
        self.register_buffer("position", sincos_positions(width, shape.grid), persistent=False)
        own = replace(shape, width=width, num_heads=num_heads)
        self.blocks = nn.ModuleList(DiTBlock(own, cond_width=shape.width) for _ in range(depth))
        self.readout = readout(own, out_channels, cond_width=shape.width)

    def forward(self, projected: Tensor, cond: Tensor) -> Tensor:  # (B, L, W), (B, D) -> (B, C, S, S)
        x, _ = through(self.blocks, projected + self.position, cond)
        return unpatchify(self.readout(x, cond), self.patch)
