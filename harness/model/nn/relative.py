"""The DiT block as MDT has it: with its own relative positions, and in MDTv2 with a long skip.

B batch, L tokens, K kept tokens, D width, H heads.
"""

import torch
from torch import Tensor, nn

from harness.model.nn.blocks import DiTBlock, Join
from harness.model.shape import Shape


class RelativePosition(nn.Module):
    """A learned attention bias for every difference of two patches' places (Swin, BEiT; MDT Sec. 3.3).

    The table has three rows more than there are differences, as BEiT keeps for [CLS]; they are never read, and stay so
    that the official weights fit.
    """

    index: Tensor  # (L, L)

    def __init__(self, grid: int, num_heads: int):
        super().__init__()
        self.table = nn.Parameter(torch.empty((2 * grid - 1) ** 2 + 3, num_heads))
        nn.init.trunc_normal_(self.table, std=0.02)  # repository branch mdtv1, as BEiT
        row, column = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
        place = torch.stack([row.flatten(), column.flatten()])  # (2, L)
        difference = place[:, :, None] - place[:, None, :] + grid - 1
        self.register_buffer("index", difference[0] * (2 * grid - 1) + difference[1], persistent=False)  # (L, L)

    def forward(self, keep: Tensor | None) -> Tensor:  # (B, K) -> (B, H, K, K), or (1, H, L, L) for all tokens
        index = self.index[None] if keep is None else self.index[keep[:, :, None], keep[:, None, :]]
        return self.table[index].permute(0, 3, 1, 2)


class Block(nn.Module):
    """The shared DiT block with its own relative positions, or with none; if it `joins`, behind a long skip."""

    def __init__(self, shape: Shape, relative_position: bool, *, joins: bool = False, cond_width: int | None = None):
        super().__init__()
        self.block = DiTBlock(shape, cond_width)
        self.bias = RelativePosition(shape.grid, shape.num_heads) if relative_position else None
        self.join = Join(shape.width) if joins else None

    def forward(
        self, x: Tensor, cond: Tensor, keep: Tensor | None, hidden: Tensor | None = None, earlier: Tensor | None = None
    ) -> Tensor:
        """`hidden` is added to the attention logits; `earlier` are the tokens that a long skip brings.

        (B, L or K, D), (B, D), (B, K), (1, 1, 1, K), (B, L or K, D) -> (B, L or K, D)
        """
        if self.join is not None and earlier is not None:
            x = self.join(x, earlier)
        bias = None if self.bias is None else self.bias(keep)
        if hidden is not None:
            bias = hidden if bias is None else bias + hidden
        return self.block(x, cond, bias, keep)


def with_long_skips(blocks: nn.ModuleList, x: Tensor, cond: Tensor, *context: Tensor | None) -> Tensor:
    """x after all blocks: each of the second half joins what one of the first half put out, the last one's first.

    (B, L, D), (B, D) -> (B, L, D)
    """
    put_out: list[Tensor] = []
    half = len(blocks) // 2
    for number, block in enumerate(blocks):
        if number < half:
            x = block(x, cond, *context)
            put_out.append(x)
        else:
            x = block(x, cond, *context, put_out.pop())
    return x
