"""DINOv2's vision transformer (Oquab et al. 2023, arXiv:2304.07193), under the names of its published weights.

It is there to be used frozen. B batch, G patches a side, L = G G patches, D width.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-6  # of every norm
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:  # (B, 1 + L, D) -> the same
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two layers with a GELU between."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:  # (B, 1 + L, D) -> the same
        return self.fc2(F.gelu(self.fc1(x)))


class Scale(nn.Module):
    """What a block adds is multiplied by a learned number for each channel."""

    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:  # (B, 1 + L, D) -> the same
        return x * self.gamma


class Block(nn.Module):
    """Attention and MLP, each behind a norm and before a scale."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=EPS), nn.LayerNorm(width, eps=EPS)
        self.attn, self.mlp = Attention(width, num_heads), Mlp(width)
        self.ls1, self.ls2 = Scale(width), Scale(width)

    def forward(self, x: Tensor) -> Tensor:  # (B, 1 + L, D) -> the same
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Patches to tokens."""

    def __init__(self, width: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, image: Tensor) -> Tensor:  # (B, 3, P G, P G) -> (B, L, D)
        return self.proj(image).flatten(2).transpose(1, 2)


class Dinov2(nn.Module):
    """Images to the normalised tokens of `grid` x `grid` patches; by default a ViT-B/14.

    An image is normalised as ImageNet and brought to the size of the patches, as REPA's train.py: bicubic, without
    antialiasing. Published position embeddings are of 37 x 37 patches. They are brought to this grid when weights are
    loaded, bicubic with antialiasing, as REPA's utils.py does it.
    """

    mean: Tensor  # (3, 1, 1)
    std: Tensor

    def __init__(self, grid: int, *, width: int = 768, depth: int = 12, num_heads: int = 12, patch: int = 14):
        super().__init__()
        self.grid, self.width, self.patch = grid, width, patch
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, width))
        self.patch_embed = PatchEmbed(width, patch)
        self.blocks = nn.ModuleList(Block(width, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> Tensor:  # (B, 1 or 3, S, S) in [-1, 1] -> (B, L, D)
        normalised = ((image.float() + 1) / 2 - self.mean) / self.std
        side = self.patch * self.grid
        patches = self.patch_embed(F.interpolate(normalised, size=(side, side), mode="bicubic"))
        x = torch.cat([self.cls_token.to(patches.dtype).expand(len(patches), -1, -1), patches], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 1:]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As every module's; the token that is masked with in DINOv2's own training is left out."""
        weights = {name: values for name, values in state_dict.items() if name != "mask_token"}
        if isinstance(positions := weights.get("pos_embed"), Tensor) and positions.dim() == 3:
            weights["pos_embed"] = positions_at(positions, self.grid)
        return super().load_state_dict(weights, strict, assign)


def positions_at(table: Tensor, grid: int) -> Tensor:  # (1, 1 + M * M, D) -> (1, 1 + L, D)
    """Position embeddings for another number of patches; the class token's stays."""
    across = math.isqrt(table.shape[1] - 1)
    if across == grid or across**2 != table.shape[1] - 1:  # a table of no square does not fit, which torch says
        return table
    places = table[:, 1:].unflatten(1, (across, across)).permute(0, 3, 1, 2)
    places = F.interpolate(places, size=(grid, grid), mode="bicubic", antialias=True)
    return torch.cat([table[:, :1], places.flatten(2).transpose(1, 2)], dim=1)
