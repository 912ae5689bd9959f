"""The projection head of self-distillation (DINO arXiv:2104.14294 Sec. 3.1 and App. C; iBOT arXiv:2111.07832).

B batch, C channels, S side, L tokens without [CLS], D width, Z bottleneck, K prototypes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.model.nn.asymmetric import Encoder
from harness.model.nn.embeddings import Condition


class Prototypes(nn.Module):
    """The rows of a linear layer without bias, of unit length: weight normalisation with the gain fixed at 1."""

    def __init__(self, inputs: int, num_prototypes: int):
        super().__init__()
        self.direction = nn.Parameter(torch.empty(num_prototypes, inputs))
        nn.init.trunc_normal_(self.direction, std=0.02)

    def forward(self) -> Tensor:  # (K, Z)
        return F.normalize(self.direction, dim=-1)


class ProjectionHead(nn.Module):
    """A 3-layer MLP, L2-normalised, then the prototypes: those of [CLS] and of patches are separate unless shared.

    `embed` and `prototypes` are separate methods because K logits are not needed for each token. The loss takes
    both; the mean of the logits, which centring needs, equals the prototypes of the mean.
    """

    def __init__(self, width: int, *, hidden: int, bottleneck: int, num_prototypes: int, shared_prototypes: bool):
        super().__init__()
        layers = nn.Linear(width, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, bottleneck)
        self.mlp = nn.Sequential(layers[0], nn.GELU(), layers[1], nn.GELU(), layers[2])
        for layer in layers:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.patch_prototypes = Prototypes(bottleneck, num_prototypes)
        self.cls_prototypes = None if shared_prototypes else Prototypes(bottleneck, num_prototypes)

    def embed(self, x: Tensor) -> Tensor:  # (B, 1 + L, D) -> (B, 1 + L, Z), unit length
        return F.normalize(self.mlp(x), dim=-1)

    def prototypes(self) -> tuple[Tensor, Tensor]:  # (K, Z), (K, Z): of [CLS], of patches
        patches = self.patch_prototypes()
        return patches if self.cls_prototypes is None else self.cls_prototypes(), patches


class Discriminator(nn.Module):
    """What a self-distilled teacher is the average of: the encoder with its embeddings, and the head; no decoder."""

    def __init__(self, condition: Condition, encoder: Encoder, head: ProjectionHead):
        super().__init__()
        self.condition, self.encoder, self.head = condition, encoder, head

    def forward(self, net_input: Tensor, net_noise: Tensor, labels: Tensor) -> Tensor:
        """The head's embeddings of all tokens, [CLS] first.   (B, C, S, S), (B,), (B,) -> (B, 1 + L, Z)"""
        embedded = self.encoder.embed(net_input)
        return self.head.embed(self.encoder(embedded, self.condition(net_noise, labels), None))
