"""MDT-lite (after MDT, Gao et al. 2023, arXiv:2303.14389): a full and a masked pass through a side-interpolator.

"Lite": MDT's relative-position bias is off unless asked for, so that all methods share one attention kernel. Version 1
is the one that SD-DiT compares with; version 2 is MDTv2, which has long skips and draws its mask ratio anew every step.
B batch, L tokens, K kept tokens, D width, H heads.
"""

from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from harness.model.formulations import Formulation
from harness.model.nn import tokens
from harness.model.nn.blocks import through
from harness.model.nn.dit import DiT
from harness.model.nn.embeddings import sincos_positions
from harness.model.nn.relative import Block, with_long_skips
from harness.model.official import BLOCK, CONDITION, MODULATED, Names, Official, Tables, under
from harness.model.randomness import Draw
from harness.model.shape import Shape
from harness.model.two_passes import TwoPasses
from harness.recipes.config import Knobs

RATIO_SPAN = 0.2  # MDT repository, main, masked_diffusion/models.py: version 2 draws up to mask_ratio + 0.2


class Config(Knobs):
    mask_ratio: float = Field(
        0.3, ge=0, lt=1, description="MDT repository, branch mdtv1, run.sh; SD-DiT Fig. 3: 70% of the patches"
    )
    decoder_depth: int | None = Field(
        2,
        ge=1,
        description="MDT repository, branch mdtv1, run.sh: the last two blocks; version 2: null, half of up to 12 "
        "blocks (README and run.sh of main: 6 of S/2's), 4 of more (README: XL/2's; the default of models.py)",
    )
    relative_position: bool = Field(
        False, description='"MDT-lite": off, so that all methods share one block; true is MDT v1 (branch mdtv1)'
    )
    version: Literal[1, 2] = Field(1, description="1: MDT (branch mdtv1), which SD-DiT compares with; 2: MDTv2 (main)")

    @model_validator(mode="before")
    @classmethod
    def _decoder_of_the_version(cls, knobs: Any) -> Any:
        return {"decoder_depth": None, **knobs} if isinstance(knobs, dict) and knobs.get("version") == 2 else knobs

    @model_validator(mode="after")
    def _version_1_says_its_decoder(self) -> Self:
        if self.version == 1 and self.decoder_depth is None:
            raise ValueError("knobs with a number of blocks as decoder_depth: null is version 2's")
        return self

    @property
    def input_patches(self) -> str:
        least = f"{1 - self.mask_ratio - RATIO_SPAN:.0%} to " if self.version == 2 else ""
        return f"100% + {least}{1 - self.mask_ratio:.0%}"

    def blocks_of_decoder(self, depth: int) -> int:
        """How many of `depth` blocks are the decoder. Raises ValueError where they leave no encoder, or an odd one."""
        decoder = self.decoder_depth or (depth // 2 if depth <= 12 else 4)
        if decoder >= depth:
            raise ValueError(f"decoder_depth {decoder} leaves no encoder: the network has {depth} blocks")
        if self.version == 2 and (depth - decoder) % 2:
            raise ValueError(
                f"decoder_depth {decoder} of {depth} blocks leaves an encoder of {depth - decoder}; with version 2 the "
                "encoder must have two halves"
            )
        return decoder


class Network(DiT):
    """An encoder and a decoder of DiT blocks at one width; a masked pass fills the masked places between them.

    In version 2 each block of the encoder's second half joins the output of one of the first half, and each block of
    the decoder the embedded tokens.
    """

    def __init__(self, cfg: Config, shape: Shape, out_channels: int):
        encoder = shape.depth - cfg.blocks_of_decoder(shape.depth)
        super().__init__(
            shape, out_channels, learned_positions=True, add_blocks=lambda: self._add_blocks(cfg, shape, encoder)
        )
        self.version = cfg.version

    def _add_blocks(self, cfg: Config, shape: Shape, encoder: int) -> None:
        self.decoder_position = nn.Parameter(sincos_positions(shape.width, shape.grid))
        joined = range(encoder // 2 if cfg.version == 2 else shape.depth, shape.depth)
        blocks = [Block(shape, cfg.relative_position, joins=i in joined) for i in range(shape.depth)]
        self.encoder = nn.ModuleList(blocks[:encoder])
        self.decoder = nn.ModuleList(blocks[encoder:])
        self.interpolator = Block(shape, cfg.relative_position)
        self.mask_token = nn.Parameter(torch.randn(1, 1, shape.width) * 0.02)

    def process(self, x: Tensor, cond: Tensor, *context: Tensor) -> tuple[Tensor, list[Tensor]]:
        """With `keep` (B, K) as context, the encoder sees those tokens alone; the decoder sees all.

        With `seen` (K,) besides, it sees those of `keep` alone for which it is true: the number may differ from step to
        step where K, which a compiler takes for fixed, does not.
        """
        keep, seen = (*context, None, None)[:2]
        embedded, hidden = x, None
        if keep is not None:
            x = tokens.gather(x, keep)  # (B, K, D)
        if seen is not None:
            hidden = torch.zeros_like(seen, dtype=x.dtype).masked_fill(~seen, -torch.inf)[None, None, None]
        if self.version == 2:
            x = with_long_skips(self.encoder, x, cond, keep, hidden)
        else:
            x, _ = through(self.encoder, x, cond, keep, hidden)
        x = x + self.decoder_position if keep is None else self._interpolate(x, cond, keep, seen, embedded.shape[1])
        return through(self.decoder, x, cond, None, None, *([embedded] if self.version == 2 else []))

    def _interpolate(self, x: Tensor, cond: Tensor, keep: Tensor, seen: Tensor | None, length: int) -> Tensor:
        """The side-interpolator (MDT Sec. 3.2): predicts the masked tokens, and leaves the kept ones as they are.

        (B, K, D), (B, D), (B, K), (K,) -> (B, L, D)
        """
        if seen is not None:
            x = torch.where(seen[:, None], x, self.mask_token.to(x.dtype))
        x = tokens.scatter(x, keep, onto=self.mask_token.expand(len(x), length, -1)) + self.decoder_position
        kept = tokens.visible(keep, length, seen)[..., None].bool()
        return torch.where(kept, x, self.interpolator(x, cond, None))


def _official_names(network: Any) -> tuple[Names, Tables]:
    """The official blocks are one list, whose last ones are the decoder; in version 2 they are three.

    Each block has its own copy of the same index.
    """
    names = {
        "patches.proj": "x_embedder.proj",
        "position": "pos_embed",
        "decoder_position": "decoder_pos_embed",
        "mask_token": "mask_token",
        **CONDITION,
        **under(MODULATED, "readout", "final_layer"),
    }
    encoder, decoder = len(network.encoder), len(network.decoder)
    places = [f"encoder.{i}" for i in range(encoder)] + [f"decoder.{i}" for i in range(decoder)]
    if network.version == 2:
        lists = {"en_inblocks": encoder // 2, "en_outblocks": encoder // 2, "de_blocks": decoder}
    else:
        lists = {"blocks": encoder + decoder}
    official_places = [f"{name}.{i}" for name, depth in lists.items() for i in range(depth)]
    tables: Tables = {}
    for ours, official in [*zip(places, official_places, strict=True), ("interpolator", "sideblocks.0")]:
        names |= under(BLOCK, f"{ours}.block", official)
        names[f"{ours}.join.linear"] = f"{official}.skip_linear"
        names[f"{ours}.bias.table"] = f"{official}.attn.rel_pos_bias.relative_position_bias_table"
        bias = network.get_submodule(ours).bias
        if bias is not None:
            tables[f"{official}.attn.rel_pos_bias.relative_position_index"] = bias.index
    return names, tables


class Method(TwoPasses):
    official = Official(
        settings=("relative_position=true", "sampling.guidance_channels=3", "sampling.guidance_power=4"),
        names=_official_names,
    )

    def __init__(self, cfg: Config, shape: Shape, formulation: Formulation):
        super().__init__(formulation, Network(cfg, shape, formulation.out_channels(shape.channels)))
        self.cfg, self.shape = cfg, shape
        self.num_keep = tokens.num_kept(shape.num_tokens, cfg.mask_ratio)  # in version 2 the most
        if cfg.version == 2:
            tokens.num_kept(shape.num_tokens, cfg.mask_ratio + RATIO_SPAN)

    def drawn(self, draw: Draw) -> tuple[Tensor, ...]:
        """The tokens that a masked pass keeps, (B, K); in version 2 also which of these K places it sees, (K,)."""
        if self.cfg.version == 1:
            return (tokens.random_keep(draw, self.shape.num_tokens, self.num_keep),)
        return tokens.random_keep_of(
            draw, self.shape.num_tokens, self.num_keep, self.cfg.mask_ratio + RATIO_SPAN * draw.shared()
        )
