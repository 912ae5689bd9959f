"""Random weights in the official files' names and shapes.   C channels, S side, L tokens, D width."""

import math

import torch
from torch import Tensor

from harness.model.shape import Shape

SHAPE = Shape(channels=4, side=8, num_classes=5, patch=2, width=16, depth=4, num_heads=2)
DECODER = {"decoder_width": 8, "decoder_depth": 2, "decoder_heads": 4}
MDTV2_LISTS = {"en_inblocks": 1, "en_outblocks": 1, "de_blocks": 2}  # of four blocks
State = dict[str, Tensor]


def official_state(method: str, shape: Shape = SHAPE) -> State:
    """A random state dict as the official code of `method` ("mdtv2" is MDT's version 2) saves it, with its tables."""
    width, patch, generator = shape.width, shape.patch, torch.Generator().manual_seed(0)
    sizes: dict[str, tuple[int, ...]] = {"x_embedder.proj.weight": (width, shape.channels, patch, patch)}
    sizes["x_embedder.proj.bias"] = (width,)
    classes = shape.num_classes
    sizes["y_embedder.embedding_table.weight"] = (width, classes) if method == "maskdit" else (classes + 1, width)

    def linear(name: str, inputs: int, outputs: int) -> None:
        sizes[f"{name}.weight"], sizes[f"{name}.bias"] = (outputs, inputs), (outputs,)

    def block(name: str, inner: int) -> None:
        linear(f"{name}.attn.qkv", inner, 3 * inner)
        linear(f"{name}.attn.proj", inner, inner)
        linear(f"{name}.mlp.fc1", inner, 4 * inner)
        linear(f"{name}.mlp.fc2", 4 * inner, inner)
        linear(f"{name}.adaLN_modulation.1", width, 6 * inner)
        if method in ("mdt", "mdtv2"):
            rows = (2 * shape.grid - 1) ** 2 + 3
            sizes[f"{name}.attn.rel_pos_bias.relative_position_bias_table"] = (rows, shape.num_heads)

    linear("t_embedder.mlp.0", 256, width)
    linear("t_embedder.mlp.2", width, width)
    names = [f"blocks.{i}" for i in range(shape.depth)]
    if method == "mdtv2":
        names = [f"{part}.{i}" for part, depth in MDTV2_LISTS.items() for i in range(depth)]
        for name in names[1:]:
            linear(f"{name}.skip_linear", 2 * width, width)
    for name in names:
        block(name, width)
    last, tables = width, {"pos_embed": positions(shape.grid, width)}
    if method == "maskdit":
        last = DECODER["decoder_width"]
        sizes["mask_token"] = (1, 1, last)
        linear("decoder_layer.adaLN_modulation.1", width, 2 * width)
        linear("decoder_layer.linear", width, last)
        for i in range(DECODER["decoder_depth"]):
            block(f"decoder_blocks.{i}", last)
        tables["decoder_pos_embed"] = positions(shape.grid, last)
    if method in ("mdt", "mdtv2"):
        block("sideblocks.0", width)
        sizes |= {"mask_token": (1, 1, width)}
        sizes |= dict.fromkeys(("pos_embed", "decoder_pos_embed"), (1, shape.num_tokens, width))  # learned
        index = relative_index(shape.grid)
        tables = {f"{n}.attn.rel_pos_bias.relative_position_index": index.clone() for n in [*names, "sideblocks.0"]}
    linear("final_layer.adaLN_modulation.1", width, 2 * last)
    linear("final_layer.linear", last, patch * patch * shape.channels * (1 if method == "maskdit" else 2))
    return {k: torch.randn(v, generator=generator) * 0.3 for k, v in sizes.items()} | tables


def positions(grid: int, width: int) -> Tensor:  # (1, L, D)
    """Sines and cosines of the column, then of the row."""
    frequency = [10_000 ** -(i / (width // 4)) for i in range(width // 4)]
    table = [
        [f(place * w) for place in (column, row) for f in (math.sin, math.cos) for w in frequency]
        for row in range(grid)
        for column in range(grid)
    ]
    return torch.tensor(table)[None]


def relative_index(grid: int) -> Tensor:  # (L, L)
    places = [(row, column) for row in range(grid) for column in range(grid)]
    span = 2 * grid - 1
    return torch.tensor([[(a - c + grid - 1) * span + b - d + grid - 1 for c, d in places] for a, b in places])
