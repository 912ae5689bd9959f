"""The projection head of self-distillation (DINO arXiv:2104.14294 Sec. 3.1 and App. C; iBOT arXiv:2111.07832).

B batch, L tokens without [CLS], D width, Z bottleneck, K prototypes.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Prototypes(nn.Module):
    """The rows of a linear layer without bias, of unit length: weight normalisation with the gain fixed at 1."""

    def __init__(self, inputs: int, num_prototypes: int):
        super().__init__()
        self.direction = nn.Parameter(torch.empty(num_prototypes, inputs))
        nn.init.trunc_normal_(self.direction, std=0.02)

    def forward(self) -> Tensor:  # (K, Z)
        return F.normalize(self.direction, dim=-1)


class Projector(nn.Module):
    """An MLP of so many linear layers with GELU between them, behind a LayerNorm or none."""

    def __init__(self, width: int, *, hidden: int, bottleneck: int, num_layers: int = 3, norm: bool = False):
        super().__init__()
        widths = [width, *[hidden] * (num_layers - 1), bottleneck]
        layers = [nn.Linear(inputs, outputs) for inputs, outputs in pairwise(widths)]
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.mlp = nn.Sequential(*[module for layer in layers for module in (layer, nn.GELU())][:-1])
        for layer in layers:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:  # (B, 1 + L, D) -> (B, 1 + L, Z)
        return self.mlp(self.norm(x))


class ProjectionHead(Projector):
    """The MLP, L2-normalised, then the prototypes: those of [CLS] and of patches are separate unless shared.

    `embed` and `prototypes` are separate methods because K logits are not needed for each token. The loss takes
    both; the mean of the logits, which centring needs, equals the prototypes of the mean.
    """

    def __init__(
        self,
        width: int,
        *,
        hidden: int,
        bottleneck: int,
        num_prototypes: int,
        shared_prototypes: bool,
        num_layers: int = 3,
        norm: bool = False,
    ):
        super().__init__(width, hidden=hidden, bottleneck=bottleneck, num_layers=num_layers, norm=norm)
        self.patch_prototypes = Prototypes(bottleneck, num_prototypes)
        self.cls_prototypes = None if shared_prototypes else Prototypes(bottleneck, num_prototypes)

    def embed(self, x: Tensor) -> Tensor:  # (B, 1 + L, D) -> (B, 1 + L, Z), unit length
        return F.normalize(self(x), dim=-1)

    def prototypes(self) -> tuple[Tensor, Tensor]:  # (K, Z), (K, Z): of [CLS], of patches
        patches = self.patch_prototypes()
        return patches if self.cls_prototypes is None else self.cls_prototypes(), patches
