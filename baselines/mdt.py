"""MDT-lite (after MDT v1, Gao et al. 2023, arXiv:2303.14389): a full and a masked pass through a side-interpolator.

"Lite": MDT's relative-position bias is off unless asked for, so that all methods share one attention kernel.
B batch, L tokens, K kept tokens, D width, H heads.
"""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.model import method
from harness.model.formulations import Formulation
from harness.model.method import Batch, Progress
from harness.model.nn import tokens
from harness.model.nn.blocks import DiTBlock, through
from harness.model.nn.dit import DiT
from harness.model.nn.embeddings import sincos_positions
from harness.model.official import BLOCK, CONDITION, MODULATED, Names, Official, Tables, under
from harness.model.randomness import Draw
from harness.model.shape import Shape
from harness.recipes.config import Knobs


class Config(Knobs):
    mask_ratio: float = Field(
        0.3, ge=0, lt=1, description="MDT repository, branch mdtv1, run.sh; SD-DiT Fig. 3: 70% of the patches"
    )
    decoder_depth: int = Field(2, ge=1, description="MDT repository, branch mdtv1, run.sh: the last two blocks")
    relative_position: bool = Field(
        False, description='"MDT-lite": off, so that all methods share one block; true is MDT v1 (branch mdtv1)'
    )

    @property
    def input_patches(self) -> str:
        return f"100% + {1 - self.mask_ratio:.0%}"


class RelativePosition(nn.Module):
    """A learned attention bias for every difference of two patches' places (Swin, BEiT; MDT Sec. 3.3).

    The table has three rows more than there are differences, as BEiT keeps for [CLS]; they are never read, and stay so
    that the official weights fit.
    """

    index: Tensor  # (L, L)

    def __init__(self, grid: int, num_heads: int):
        super().__init__()
        self.table = nn.Parameter(torch.empty((2 * grid - 1) ** 2 + 3, num_heads))
        nn.init.trunc_normal_(self.table, std=0.02)  # repository branch mdtv1, as BEiT
        row, column = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
        place = torch.stack([row.flatten(), column.flatten()])  # (2, L)
        difference = place[:, :, None] - place[:, None, :] + grid - 1
        self.register_buffer("index", difference[0] * (2 * grid - 1) + difference[1], persistent=False)  # (L, L)

    def forward(self, keep: Tensor | None) -> Tensor:  # (B, K) -> (B, H, K, K), or (1, H, L, L) for all tokens
        index = self.index[None] if keep is None else self.index[keep[:, :, None], keep[:, None, :]]
        return self.table[index].permute(0, 3, 1, 2)


class Block(nn.Module):
    """The shared DiT block with its own relative positions, or with none."""

    def __init__(self, shape: Shape, relative_position: bool):
        super().__init__()
        self.block = DiTBlock(shape.width, shape.num_heads)
        self.bias = RelativePosition(shape.grid, shape.num_heads) if relative_position else None

    def forward(self, x: Tensor, cond: Tensor, keep: Tensor | None) -> Tensor:  # (B, L or K, D), (B, D)
        return self.block(x, cond, None if self.bias is None else self.bias(keep))


class Network(DiT):
    """An encoder and a decoder of DiT blocks at one width; a masked pass fills the masked places between them."""

    def __init__(self, cfg: Config, shape: Shape, out_channels: int):
        if cfg.decoder_depth >= shape.depth:
            raise ValueError(
                f"decoder_depth {cfg.decoder_depth} leaves no encoder: the network has {shape.depth} blocks"
            )
        super().__init__(shape, out_channels, learned_positions=True, add_blocks=lambda: self._add_blocks(cfg, shape))

    def _add_blocks(self, cfg: Config, shape: Shape) -> None:
        self.decoder_position = nn.Parameter(sincos_positions(shape.width, shape.grid))
        blocks = [Block(shape, cfg.relative_position) for _ in range(shape.depth)]
        self.encoder = nn.ModuleList(blocks[: -cfg.decoder_depth])
        self.decoder = nn.ModuleList(blocks[-cfg.decoder_depth :])
        self.interpolator = Block(shape, cfg.relative_position)
        self.mask_token = nn.Parameter(torch.randn(1, 1, shape.width) * 0.02)

    def process(self, x: Tensor, cond: Tensor, *context: Tensor) -> tuple[Tensor, list[Tensor]]:
        """With `keep` (B, K) as context, the encoder sees those tokens alone; the decoder sees all."""
        keep, length = context[0] if context else None, x.shape[1]
        if keep is not None:
            x = tokens.gather(x, keep)  # (B, K, D)
        x, _ = through(self.encoder, x, cond, keep)
        x = x + self.decoder_position if keep is None else self._interpolate(x, cond, keep, length)
        return through(self.decoder, x, cond, None)

    def _interpolate(self, x: Tensor, cond: Tensor, keep: Tensor, length: int) -> Tensor:  # (B, K, D) -> (B, L, D)
        """The side-interpolator (MDT Sec. 3.2): predicts the masked tokens, and leaves the kept ones as they are."""
        x = tokens.scatter(x, keep, onto=self.mask_token.expand(len(x), length, -1)) + self.decoder_position
        kept = tokens.visible(keep, length)[..., None].bool()
        return torch.where(kept, x, self.interpolator(x, cond, None))


def _official_names(network: Any) -> tuple[Names, Tables]:
    """The official blocks are one list, whose last ones are the decoder; each has its own copy of the same index."""
    names = {
        "patches.proj": "x_embedder.proj",
        "position": "pos_embed",
        "decoder_position": "decoder_pos_embed",
        "mask_token": "mask_token",
        **CONDITION,
        **under(MODULATED, "readout", "final_layer"),
    }
    places = [f"encoder.{i}" for i in range(len(network.encoder))]
    places += [f"decoder.{i}" for i in range(len(network.decoder))]
    tables: Tables = {}
    pairs = [(place, f"blocks.{i}") for i, place in enumerate(places)]
    for ours, official in [*pairs, ("interpolator", "sideblocks.0")]:
        names |= under(BLOCK, f"{ours}.block", official)
        names[f"{ours}.bias.table"] = f"{official}.attn.rel_pos_bias.relative_position_bias_table"
        bias = network.get_submodule(ours).bias
        if bias is not None:
            tables[f"{official}.attn.rel_pos_bias.relative_position_index"] = bias.index
    return names, tables


class Method(method.Method):
    official = Official(
        settings=("relative_position=true", "sampling.guidance_channels=3", "sampling.guidance_power=4"),
        names=_official_names,
    )

    def __init__(self, cfg: Config, shape: Shape, formulation: Formulation):
        super().__init__()
        self.shape, self.formulation = shape, formulation
        self.num_keep = tokens.num_kept(shape.num_tokens, cfg.mask_ratio)
        self.network = Network(cfg, shape, formulation.out_channels(shape.channels))

    def forward(self, batch: Batch, progress: Progress, draw: Draw) -> dict[str, Tensor]:
        noised = self.formulation.noised(batch.clean, draw)  # both passes see the same noise at the same level
        keep = tokens.random_keep(draw, self.shape.num_tokens, self.num_keep)
        inputs = noised.net_input, noised.net_noise, batch.labels
        full = self.formulation.loss_map(self.network(*inputs), noised).mean()
        masked = self.formulation.loss_map(self.network(*inputs, keep), noised).mean()
        return {"loss": full + masked, "loss/full": full.detach(), "loss/masked": masked.detach()}
