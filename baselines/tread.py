"""TREAD (Krause et al. 2025, arXiv:2501.04765): in training, a random half of the tokens goes round the middle blocks.

B batch, L tokens, K kept tokens, D width.
"""

from collections.abc import Collection
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from harness.model.formulations import Formulation
from harness.model.nn import tokens
from harness.model.nn.blocks import through
from harness.model.nn.dit import DiT, TokenPolicy
from harness.model.plain import Plain
from harness.model.randomness import Draw
from harness.model.shape import Shape
from harness.recipes.config import Knobs


class Config(Knobs):
    route_ratio: float = Field(0.5, ge=0, lt=1, description="TREAD repository: the share of the tokens that goes round")
    route_first: int = Field(3, ge=1, description="TREAD repository: block 2 counted from 0, for every size")
    route_last: int | None = Field(
        None, ge=1, description="TREAD repository, DiT-B/2: block 8 of 12, counted from 0; null is 3 before the last"
    )
    route_start: Literal["adaln-zero", "xavier"] = Field(
        "adaln-zero", description="DiT Sec. 3.2; TREAD repository, dit.py: xavier overwrites every zero start"
    )

    @property
    def input_patches(self) -> str:
        return f"100% / {1 - self.route_ratio:.0%}"


class Route(TokenPolicy):
    """Blocks `route_first` to `route_last` see the kept tokens; the others rejoin them afterwards, as they were."""

    def __init__(self, cfg: Config, shape: Shape, formulation: Formulation):
        super().__init__()
        last = cfg.route_last or max(shape.depth - 3, cfg.route_first)
        if not cfg.route_first <= last <= shape.depth:
            raise ValueError(
                f"a route from block {cfg.route_first} to block {last} does not lie in blocks 1 to {shape.depth}; set "
                "route_first and route_last"
            )
        self.length, self.num_keep = shape.num_tokens, tokens.num_kept(shape.num_tokens, cfg.route_ratio)
        self.routed, self.start = range(cfg.route_first - 1, last), cfg.route_start

    def attach(self, network: DiT) -> None:
        if self.start == "xavier":
            for layer in network.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.xavier_uniform_(layer.weight)

    def drawn(self, draw: Draw) -> tuple[Tensor, ...]:
        return (tokens.random_keep(draw, self.length, self.num_keep),)

    def forward(
        self, blocks: nn.ModuleList, x: Tensor, cond: Tensor, *drawn: Tensor, taps: Collection[int]
    ) -> tuple[Tensor, list[Tensor]]:
        if not drawn:
            return through(blocks, x, cond, taps=taps)
        (keep,), start, stop = drawn, self.routed.start, self.routed.stop
        x, before = through(blocks[:start], x, cond, taps=taps)
        kept, within = through(blocks[start:stop], tokens.gather(x, keep), cond, None, keep, taps=taps, first=start)
        x = tokens.scatter(kept, keep, onto=x)
        x, after = through(blocks[stop:], x, cond, taps=taps, first=stop)
        return x, [*before, *within, *after]


class Method(Plain):
    adds = Route
