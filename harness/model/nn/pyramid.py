"""A square of tokens made coarser and finer.   B batch, L tokens, D width, E width of the conditioning."""

import math

from torch import Tensor
from torch.nn import functional as F

from harness.model.nn.blocks import ModulatedLinear, modulate


def merged(x: Tensor) -> Tensor:  # (B, L, D) -> (B, L / 4, 4 D)
    """Each 2 x 2 tokens as one, row by row; its values in the order row, column, value."""
    batch, length, width = x.shape
    half = math.isqrt(length) // 2
    return x.reshape(batch, half, 2, half, 2, width).transpose(2, 3).reshape(batch, half * half, 4 * width)


def spread(x: Tensor) -> Tensor:  # (B, L, 4 D) -> (B, 4 L, D)
    """The inverse of `merged`."""
    batch, length, values = x.shape
    side = math.isqrt(length)
    return x.reshape(batch, side, side, 2, 2, values // 4).transpose(2, 3).reshape(batch, 4 * length, values // 4)


class Merge(ModulatedLinear):
    """Down-sampling: each 2 x 2 tokens become one. Masked tokens are zero where they would enter the linear layer."""

    def forward(self, x: Tensor, cond: Tensor, seen: Tensor | None = None) -> Tensor:
        """(B, L, D), (B, E), (B, L) -> (B, L / 4, D of the next stage)"""
        shift, scale = self.adaln(F.silu(cond)).chunk(2, dim=-1)
        merge = modulate(self.norm(merged(x)), shift, scale)
        return self.out(merge if seen is None else merge * merged(seen[..., None].expand_as(x)))
