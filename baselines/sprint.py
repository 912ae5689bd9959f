"""SPRINT (Park et al. 2025, arXiv:2510.21986): middle blocks see a quarter of the tokens; a layer joins both paths.

B batch, L tokens, K kept tokens, D width.
"""

from collections.abc import Collection
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.model.formulations import Formulation
from harness.model.nn import tokens
from harness.model.nn.blocks import Join, through
from harness.model.nn.dit import TokenPolicy
from harness.model.plain import Plain
from harness.model.randomness import Draw
from harness.model.shape import Shape
from harness.recipes.config import Knobs


class Config(Knobs):
    sparse_ratio: float = Field(
        0.75, ge=0, lt=1, description="SPRINT: the share of tokens that the middle does not see"
    )
    sparse_keep: Literal["structured", "random"] = Field(
        "structured", description="SPRINT: the same number of each 2 x 2 patches; SpeedrunDiT repository: random"
    )
    dense_blocks: int = Field(2, ge=1, description="SPRINT: blocks at either end, which see all tokens")
    path_drop: float = Field(
        0.1,
        ge=0,
        le=1,
        description="SPRINT: images whose sparse path is dropped; SpeedrunDiT repository: 5% of batches",
    )

    @property
    def input_patches(self) -> str:
        return f"100% / {1 - self.sparse_ratio:.0%}"


class SparsePath(TokenPolicy):
    """Dense first blocks; middle blocks on the kept tokens; both joined per token; dense last blocks.

    A token that the middle blocks did not see has one learned vector in their place. When the network is sampled, the
    middle blocks see all tokens, through the same joint.
    """

    def __init__(self, cfg: Config, shape: Shape, formulation: Formulation):
        super().__init__()
        self.cfg, self.grid = cfg, shape.grid
        self.routed = range(cfg.dense_blocks, shape.depth - cfg.dense_blocks)
        if not self.routed:
            raise ValueError(
                f"dense_blocks {cfg.dense_blocks} at either end leaves none of {shape.depth} blocks between them"
            )
        self.num_keep = tokens.num_kept(shape.num_tokens, cfg.sparse_ratio)
        if cfg.sparse_keep == "structured" and (shape.grid % 2 or self.num_keep % (shape.num_tokens // 4)):
            raise ValueError(
                f"sparse_keep structured takes the same number of each 2 x 2 patches, and {self.num_keep} of "
                f"{shape.grid} x {shape.grid} is none; take sparse_ratio 0.25, 0.5 or 0.75, or sparse_keep random"
            )
        self.mask_token = nn.Parameter(torch.randn(1, 1, shape.width) * 0.02)
        self.join = Join(shape.width)

    def drawn(self, draw: Draw) -> tuple[Tensor, ...]:
        """Which tokens are kept, (B, K), and whether the image's sparse path is, (B,)."""
        if self.cfg.sparse_keep == "structured":
            keep = tokens.structured_keep(draw, self.grid, 4 * self.num_keep // self.grid**2)
        else:
            keep = tokens.random_keep(draw, self.grid**2, self.num_keep)
        return keep, draw.uniform() >= self.cfg.path_drop

    def forward(
        self, blocks: nn.ModuleList, x: Tensor, cond: Tensor, *drawn: Tensor, taps: Collection[int]
    ) -> tuple[Tensor, list[Tensor]]:
        start, stop = self.routed.start, self.routed.stop
        dense, before = through(blocks[:start], x, cond, taps=taps)
        keep = drawn[0] if drawn else None
        sparse = dense if keep is None else tokens.gather(dense, keep)
        sparse, within = through(blocks[start:stop], sparse, cond, None, keep, taps=taps, first=start)
        if keep is not None:
            absent = self.mask_token.to(sparse.dtype).expand_as(dense)
            sparse = torch.where(drawn[1][:, None, None], tokens.scatter(sparse, keep, onto=absent), absent)
        x, after = through(blocks[stop:], self.join(dense, sparse), cond, taps=taps, first=stop)
        return x, [*before, *within, *after]


class Method(Plain):
    adds = SparsePath
