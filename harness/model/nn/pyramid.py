"""A square of tokens made coarser and finer.   B batch, L tokens, D width."""

import math

from torch import Tensor


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
