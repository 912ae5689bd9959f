"""Rotary positions: queries and keys turned by angles that grow with the place of their patch.

B batch, H heads, L tokens, K kept tokens, E width of a head.
"""

import torch
from torch import Tensor, nn

PERIOD = 10_000  # Su et al. 2021, arXiv:2104.09864, Sec. 3.2.2: theta


class Rotary(nn.Module):
    """Su et al. 2021 (arXiv:2104.09864), eq. 15, on a square of patches, as LightningDiT's repository has it.

    Neighbouring values of a head are pairs. The first half of the pairs turns with the row, the second with the column,
    so that a product of a query and a key depends on the difference of their places alone. Place 0 is not turned.
    Raises ValueError where a head's width is not a multiple of 4.
    """

    cos: Tensor  # (L, E / 2)
    sin: Tensor  # (L, E / 2)

    def __init__(self, grid: int, head_width: int):
        super().__init__()
        if head_width % 4:
            raise ValueError(f"rotary positions need heads whose width is a multiple of 4, not {head_width}")
        frequency = PERIOD ** -(torch.arange(head_width // 4, dtype=torch.float64) / (head_width // 4))
        row, column = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
        angle = torch.cat([place.reshape(-1, 1) * frequency for place in (row, column)], dim=1)
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """`x`, of all tokens in their order or of those at the places `keep`, turned; computed in float32.

        (B, H, L or K, E), (B, K) -> (B, H, L or K, E)
        """
        cos, sin = (self.cos, self.sin) if keep is None else (self.cos[keep][:, None], self.sin[keep][:, None])
        first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1)
        return turned.flatten(-2).to(x.dtype)
