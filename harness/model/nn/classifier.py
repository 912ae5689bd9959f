"""A small convolutional classifier of small images: the network of the feature networks made here, and of repa-proxy.

B images of C channels and S x S pixels, K classes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.recipes.config import InputShape

POOL_SIZE = 64
SIDES = range(8, 65)
_SPATIAL_CHANNELS = 7  # as many as sFID takes of Inception's map (Nash et al. 2021)
_SPATIAL_SIDE = 8  # of the map that sFID reads, at most
_STRIDED_FROM = 16  # pixels a side: from here on the first layer skips every second place, which halves the time


class Classifier(nn.Module):
    """(B, S, S, C) uint8 -> pool (B, 64), spatial (B, 7 s s), logits (B, K), computed in float64."""

    def __init__(self, shape: InputShape):
        super().__init__()
        self.stride = 2 if shape.side >= _STRIDED_FROM else 1
        self.early = nn.Conv2d(shape.channels, 16, 3, padding=1, stride=self.stride)
        self.middle = nn.Conv2d(16, 32, 3, padding=1)
        self.deeper = nn.ModuleList(nn.Conv2d(32, 32, 3, padding=1) for _ in range(_halvings(shape.side) - 2))
        self.late = nn.Conv2d(32, POOL_SIZE, 3, padding=1)
        self.head = nn.Linear(POOL_SIZE, shape.num_classes)
        with torch.no_grad():
            self.spatial_size = self.taps(torch.zeros(1, shape.channels, shape.side, shape.side))[1].shape[1]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.taps(scaled(images))

    def taps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # (B, C, S, S) in [-1, 1]
        _, halfway, *deeper, late = self.maps(x)
        for x in deeper:
            halfway = x if halfway.shape[-1] > _SPATIAL_SIDE else halfway
        pool = late.mean((2, 3))  # (B, 64)
        spatial = halfway[:, :_SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        return pool, spatial, self.head(pool)

    def maps(self, x: Tensor) -> list[Tensor]:  # (B, C, S, S) in [-1, 1] -> each (B, Z, s, s), s falling
        """What each layer puts out, from the first to the one that is averaged."""
        early = F.relu(self.early(x))
        x = F.relu(self.middle(early if self.stride == 2 else F.max_pool2d(early, 2)))  # (B, 32, S / 2, S / 2)
        found = [early, x]
        for layer in [*self.deeper, self.late]:
            x = F.relu(layer(F.max_pool2d(x, 2)))
            found.append(x)
        return found


def scaled(images: Tensor) -> Tensor:  # (B, S, S, C) uint8 -> (B, C, S, S) float64 in [-1, 1]
    """Pixels as the network sees them."""
    return images.permute(0, 3, 1, 2).double() / 127.5 - 1


def _halvings(side: int) -> int:
    """How often a side is halved, so that 2 or 3 places are left."""
    return int(math.log2(side)) - 1
