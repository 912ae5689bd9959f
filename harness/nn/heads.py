"""The projection head of self-distillation (DINO arXiv:2104.14294 Sec. 3.1 and App. C; iBOT arXiv:2111.07832).

B batch, L tokens without [CLS], D width, Z bottleneck, K prototypes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Prototypes(nn.Module):
    """A linear layer without bias whose rows have unit length: weight normalisation with the gain fixed at 1."""

    def __init__(self, inputs: int, num_prototypes: int):
        super().__init__()
        self.direction = nn.Parameter(torch.empty(num_prototypes, inputs))
        nn.init.trunc_normal_(self.direction, std=0.02)

    def forward(self, z: Tensor) -> Tensor:  # (..., Z) -> (..., K)
        return F.linear(z, F.normalize(self.direction, dim=-1))


class ProjectionHead(nn.Module):
    """A 3-layer MLP, L2-normalised, then the prototypes: those of [CLS] and of patches are separate unless shared.

    `embed` and `logits` are apart because the mean of the logits, which centring needs, is the prototypes of the mean:
    nobody has to compute K logits for tokens that only enter a mean.
    """

    def __init__(self, width: int, *, hidden: int, bottleneck: int, num_prototypes: int, shared_prototypes: bool):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        for layer in (self.mlp[0], self.mlp[2], self.mlp[4]):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.patch_prototypes = Prototypes(bottleneck, num_prototypes)
        self.cls_prototypes = None if shared_prototypes else Prototypes(bottleneck, num_prototypes)

    def embed(self, x: Tensor) -> Tensor:  # (B, 1 + L, D) -> (B, 1 + L, Z), unit length
        return F.normalize(self.mlp(x), dim=-1)

    def logits(self, cls: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:  # (..., Z), (..., Z) -> (..., K), (..., K)
        return (self.cls_prototypes or self.patch_prototypes)(cls), self.patch_prototypes(patches)
