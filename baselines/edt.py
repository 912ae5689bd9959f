"""EDT (Chen et al. 2024, arXiv:2410.23788): stages of DiT blocks on ever fewer, wider tokens, then back up; two passes.

Its attention modulation matrix, which acts at sampling alone, is left out. "Lite" without relative positions.
B batch, L tokens, G tokens a side, D width, E width of the conditioning.
"""

from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from harness.model.formulations import Formulation
from harness.model.nn.blocks import ModulatedLinear, linear, through
from harness.model.nn.dit import DiT
from harness.model.nn.embeddings import sincos_positions
from harness.model.nn.pyramid import Merge, spread
from harness.model.nn.relative import Block
from harness.model.randomness import Draw
from harness.model.shape import Shape
from harness.model.two_passes import TwoPasses
from harness.recipes.config import Knobs

Range = tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
MID_STAGE = 4  # blocks of the first stage before its own mask: EDT repository, models_edt.py


class Config(Knobs):
    stage_widths: tuple[int, ...] = Field((312, 416, 520), description="EDT repository, models_edt.py: S/2, going down")
    stage_heads: tuple[int, ...] = Field((6, 8, 10), description="EDT repository, models_edt.py: S/2, going down")
    stage_depths: tuple[int, ...] = Field((2, 2, 2, 3, 3), description="EDT repository, models_edt.py: S/2, down, up")
    first_mask: Range = Field((0.4, 0.5), description="EDT repository, models_edt.py: before the first down-sampling")
    later_mask: Range = Field((0.1, 0.2), description="EDT repository, models_edt.py: before each later one")
    stage_mask: Range | None = Field(None, description="EDT repository, models_edt.py: none within a stage but for XL")
    relative_position: bool = Field(False, description='"EDT-lite": off, so that all methods share one block')

    @model_validator(mode="after")
    def _stages_go_together(self) -> Self:
        down = len(self.stage_widths)
        if down < 2 or len(self.stage_heads) != down or len(self.stage_depths) != 2 * down - 1:
            raise ValueError("knobs with as many stage_heads as stage_widths, and a stage_depths for each down and up")
        return self

    @property
    def input_patches(self) -> str:
        return "100% + 100%"


class Network(DiT):
    """Stages down, with 2 x 2 tokens merged between them, and stages up, each joining what entered its twin."""

    stages: Any  # a ModuleList of the stages' ModuleLists

    def __init__(self, cfg: Config, shape: Shape, out_channels: int):
        own = replace(shape, width=cfg.stage_widths[0], depth=sum(cfg.stage_depths))
        steps = len(cfg.stage_widths) - 1
        if shape.grid % 2**steps:
            raise ValueError(f"{steps} down-samplings do not halve {shape.grid} x {shape.grid} tokens evenly")
        super().__init__(own, out_channels, add_blocks=lambda: self._add_stages(cfg, own))
        self.num_down = steps

    def _add_stages(self, cfg: Config, shape: Shape) -> None:
        scales = [
            replace(shape, width=width, num_heads=heads, side=shape.side // 2**i)
            for i, (width, heads) in enumerate(zip(cfg.stage_widths, cfg.stage_heads, strict=True))
        ]
        self.stages = nn.ModuleList(
            nn.ModuleList(Block(each, cfg.relative_position, cond_width=shape.width) for _ in range(depth))
            for each, depth in zip([*scales, *scales[-2::-1]], cfg.stage_depths, strict=True)
        )
        self.merges = nn.ModuleList(
            _modulated_from_the_start(
                Merge(4 * a.width, shape.width, linear(4 * a.width, b.width, bias=False), shape.norm)
            )
            for a, b in pairwise(scales)
        )
        self.spreads = nn.ModuleList(linear(a.width, 4 * b.width, bias=False) for a, b in pairwise(scales[::-1]))
        self.joins = nn.ModuleList(
            _modulated_from_the_start(
                ModulatedLinear(2 * b.width, shape.width, linear(2 * b.width, b.width), shape.norm)
            )
            for b in scales[-2::-1]
        )
        for i, each in enumerate(scales[1:], 1):
            self.register_buffer(f"position{i}", sincos_positions(each.width, each.grid), persistent=False)

    def process(self, x: Tensor, cond: Tensor, *context: Tensor) -> tuple[Tensor, list[Tensor]]:
        """With masks as context, those of the down-samplings and then the first stage's: true where a token is seen."""
        masks = context or (None,) * self.num_down
        within = masks[self.num_down] if len(masks) > self.num_down else None
        entered: list[Tensor] = []
        for i, (stage, merge) in enumerate(zip(self.stages, self.merges, strict=False)):
            entered.append(x)
            if i == 0 and within is not None:
                x, _ = through(stage[:MID_STAGE], x, cond, None)
                x, _ = through(stage[MID_STAGE:], torch.where(within[..., None], x, self.position), cond, None)
            else:
                x, _ = through(stage, x, cond, None)
            x = merge(x, cond, masks[i]) + getattr(self, f"position{i + 1}")
        x, _ = through(self.stages[self.num_down], x, cond, None)
        for spreading, join, stage in zip(self.spreads, self.joins, self.stages[self.num_down + 1 :], strict=True):
            above = torch.cat([spread(spreading(x)), entered.pop()], dim=-1)
            x = join(above, cond) + getattr(self, f"position{len(entered)}" if entered else "position")
            x, _ = through(stage, x, cond, None)
        return x, []


def _modulated_from_the_start(layer: ModulatedLinear) -> ModulatedLinear:
    """The layers between stages do not start unmodulated (EDT repository, models_edt.py)."""
    nn.init.xavier_uniform_(layer.adaln.weight)
    return layer


class Method(TwoPasses):
    def __init__(self, cfg: Config, shape: Shape, formulation: Formulation):
        if cfg.stage_mask is not None and cfg.stage_depths[0] <= MID_STAGE:
            raise ValueError(f"stage_mask comes after {MID_STAGE} blocks, and the first stage has no more")
        super().__init__(formulation, Network(cfg, shape, formulation.out_channels(shape.channels)))
        self.cfg, self.shape = cfg, shape

    def drawn(self, draw: Draw) -> list[Tensor]:
        """True where a token is seen: at each down-sampling, (B, L) of its stage, and then within the first stage."""
        ranges = [self.cfg.first_mask, *[self.cfg.later_mask] * (len(self.cfg.stage_widths) - 2)]
        lengths = [self.shape.num_tokens // 4**i for i in range(len(ranges))]
        if self.cfg.stage_mask is not None:
            ranges, lengths = [*ranges, self.cfg.stage_mask], [*lengths, self.shape.num_tokens]
        # A ratio for all images of the batch, and for each token whether it is among so many: their number varies.
        ratios = [low + (high - low) * draw.shared() for low, high in ranges]
        return [draw.uniform(length) >= ratio for length, ratio in zip(lengths, ratios, strict=True)]
