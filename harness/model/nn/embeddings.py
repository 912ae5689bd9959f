"""Images to tokens and back, positions, and the conditioning vector.

B batch, C channels, S side, L tokens, p patch side, P = C p^2 values of a patch, D width.
"""

import math

import torch
from torch import Tensor, nn

from harness.model.nn.blocks import linear
from harness.model.shape import Shape

SINUSOID_WIDTH = 256
MAX_PERIOD = 10_000


def patchify(x: Tensor, patch: int) -> Tensor:  # (B, C, S, S) -> (B, L, P)
    """Patches row by row; the values of one in the order channel, row, column."""
    batch, channels, side, _ = x.shape
    grid = side // patch
    x = x.reshape(batch, channels, grid, patch, grid, patch)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(batch, grid * grid, channels * patch * patch)


def unpatchify(patches: Tensor, patch: int) -> Tensor:  # (B, L, P) -> (B, C, S, S)
    """The inverse of patchify, for square images."""
    batch, length, values = patches.shape
    grid = math.isqrt(length)
    x = patches.reshape(batch, grid, grid, values // patch**2, patch, patch)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(batch, values // patch**2, grid * patch, grid * patch)


def sincos_positions(width: int, grid: int) -> Tensor:  # (1, L, D)
    """Fixed 2-D sine-cosine positions, as in MAE and DiT: half of the width for the column, then half for the row.

    Raises ValueError when width is not a multiple of 4.
    """
    if width % 4:
        raise ValueError(f"2-D sine-cosine positions need a width that is a multiple of 4, not {width}")
    frequency = MAX_PERIOD ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    parts = []
    for index in (column, row):
        angle = index.reshape(-1, 1) * frequency
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, dim=1).float()[None]


class PatchEmbed(nn.Module):
    """A linear layer on each patch. Positions are added by the caller, who knows whether they are learned."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.patch = shape.patch
        self.proj = linear(shape.channels * shape.patch**2, shape.width)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, S, S) -> (B, L, D)
        return self.proj(patchify(x, self.patch))


class Condition(nn.Module):
    """Noise level and class label to one vector, their embeddings added (DiT Sec. 3.2). Class id num_classes: no label.

    The vector of "no label" is learned like any class's (DiT, MDT) or is zero, as a one-hot label of all zeros gives
    behind a linear layer without bias (MaskDiT).
    """

    def __init__(self, width: int, num_classes: int, *, null_label_learned: bool = True):
        super().__init__()
        self.num_classes = num_classes
        self.null_label_learned = null_label_learned
        first, second = linear(SINUSOID_WIDTH, width), linear(width, width)
        self.noise = nn.Sequential(first, nn.SiLU(), second)
        self.label = nn.Embedding(num_classes + null_label_learned, width)
        for weight in (first.weight, second.weight, self.label.weight):
            nn.init.normal_(weight, std=0.02)

    def forward(self, net_noise: Tensor, labels: Tensor) -> Tensor:  # (B,), (B,) -> (B, D)
        return self.noise(_sinusoid(net_noise)) + self._embed(labels)

    def _embed(self, labels: Tensor) -> Tensor:
        if self.null_label_learned:
            return self.label(labels)
        present = labels < self.num_classes
        return self.label(labels.clamp(max=self.num_classes - 1)) * present[:, None]


def _sinusoid(net_noise: Tensor) -> Tensor:  # (B,) -> (B, SINUSOID_WIDTH), cosines first
    half = SINUSOID_WIDTH // 2
    frequency = torch.exp(-math.log(MAX_PERIOD) * torch.arange(half, device=net_noise.device) / half)
    angle = net_noise.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)
