"""Random weights in the official files' names and shapes, and what the official networks compute with them.

B batch, C channels, S side, L tokens, D width, H heads, E width of the conditioning.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

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


# The official forward passes -------------------------------------------------------------------------------------


def dense(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def shifted_and_scaled(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / (variance + 1e-6).sqrt() * (1 + scale[:, None]) + shift[:, None]


def tokens_of(state: State, x: Tensor) -> Tensor:  # (B, C, S, S) -> (B, L, D)
    kernel = state["x_embedder.proj.weight"]
    return F.conv2d(x, kernel, state["x_embedder.proj.bias"], stride=kernel.shape[-1]).flatten(2).transpose(1, 2)


def condition(state: State, level: Tensor, label: Tensor) -> Tensor:  # (B,), (B, E) -> (B, E)
    angle = level[:, None] * torch.exp(-math.log(10_000) * torch.arange(128) / 128)
    hidden = dense(state, "t_embedder.mlp.0", torch.cat([angle.cos(), angle.sin()], 1))
    return dense(state, "t_embedder.mlp.2", F.silu(hidden)) + label


def attend(state: State, name: str, x: Tensor, heads: int) -> Tensor:  # (B, L, D) -> (B, L, D)
    batch, length, width = x.shape
    q, k, v = dense(state, f"{name}.qkv", x).reshape(batch, length, 3, heads, width // heads).unbind(2)
    logits = torch.einsum("blhd,bmhd->bhlm", q, k) / math.sqrt(width // heads)
    if f"{name}.rel_pos_bias.relative_position_index" in state:
        table = state[f"{name}.rel_pos_bias.relative_position_bias_table"]
        logits = logits + torch.einsum("lmh->hlm", table[state[f"{name}.rel_pos_bias.relative_position_index"]])
    return dense(state, f"{name}.proj", torch.einsum("bhlm,bmhd->blhd", logits.softmax(-1), v).flatten(2))


def transformer_block(state: State, name: str, x: Tensor, cond: Tensor, heads: int) -> Tensor:
    a, b, gate, c, d, gate_mlp = dense(state, f"{name}.adaLN_modulation.1", F.silu(cond)).chunk(6, 1)
    x = x + gate[:, None] * attend(state, f"{name}.attn", shifted_and_scaled(x, a, b), heads)
    hidden = F.gelu(dense(state, f"{name}.mlp.fc1", shifted_and_scaled(x, c, d)), approximate="tanh")
    return x + gate_mlp[:, None] * dense(state, f"{name}.mlp.fc2", hidden)


def modulated(state: State, name: str, x: Tensor, cond: Tensor) -> Tensor:
    return dense(state, f"{name}.linear", shifted_and_scaled(x, *dense_chunks(state, name, cond)))


def dense_chunks(state: State, name: str, cond: Tensor) -> tuple[Tensor, Tensor]:
    return dense(state, f"{name}.adaLN_modulation.1", F.silu(cond)).chunk(2, 1)


def image_of(patches: Tensor, patch: int) -> Tensor:  # (B, L, p p C) -> (B, C, S, S)
    grid = math.isqrt(patches.shape[1])
    patches = patches.reshape(len(patches), grid, grid, patch, patch, -1)
    return torch.einsum("brspqc->bcrpsq", patches).reshape(len(patches), -1, grid * patch, grid * patch)


def official_forward(method: str, state: State, x: Tensor, level: Tensor, labels: Tensor) -> Tensor:
    """The published network at sampling, without its EDM wrapper: (B, C, S, S) -> (B, C or 2C, S, S)."""
    table, heads = state["y_embedder.embedding_table.weight"], SHAPE.num_heads
    label = F.one_hot(labels, 6)[:, :5].float() @ table.T if method == "maskdit" else table[labels]
    cond = condition(state, level, label)
    x = tokens_of(state, x) + state["pos_embed"]
    for i in range(SHAPE.depth):
        if method == "mdt" and i == SHAPE.depth - 2:
            x = x + state["decoder_pos_embed"]
        x = transformer_block(state, f"blocks.{i}", x, cond, heads)
    if method == "maskdit":
        x = modulated(state, "decoder_layer", x, cond) + state["decoder_pos_embed"]
        for i in range(DECODER["decoder_depth"]):
            x = transformer_block(state, f"decoder_blocks.{i}", x, cond, DECODER["decoder_heads"])
    return image_of(modulated(state, "final_layer", x, cond), SHAPE.patch)


def mdtv2_forward(
    state: State, x: Tensor, level: Tensor, labels: Tensor, keep: list[list[int]] | None = None
) -> Tensor:
    """MDT's version 2, of four blocks; with the places to keep of each image, as its masked pass in training."""
    heads, cond = SHAPE.num_heads, condition(state, level, state["y_embedder.embedding_table.weight"][labels])
    embedded = tokens_of(state, x) + state["pos_embed"]

    def joined(name: str, x: Tensor, skip: Tensor, *kept: list[int]) -> Tensor:
        return block(name, dense(state, f"{name}.skip_linear", torch.cat([x, skip], 2)), *kept)

    def block(name: str, x: Tensor, kept: list[int] | None = None) -> Tensor:
        index, own = f"{name}.attn.rel_pos_bias.relative_position_index", state
        if kept is not None:
            own = state | {index: state[index][kept][:, kept]}
        return transformer_block(own, name, x, given, heads)

    out = []
    for image in range(len(x)):
        given = cond[image : image + 1]
        kept = None if keep is None else keep[image]
        x = embedded[image : image + 1] if kept is None else embedded[image : image + 1, kept]
        first = block("en_inblocks.0", x, kept)
        x = joined("en_outblocks.0", first, first, kept)
        if kept is None:
            x = x + state["decoder_pos_embed"]
        else:
            whole = state["mask_token"].repeat(1, SHAPE.num_tokens, 1)
            whole[:, kept] = x
            x = block("sideblocks.0", whole + state["decoder_pos_embed"])
            x[:, kept] = (whole + state["decoder_pos_embed"])[:, kept]
        for i in range(MDTV2_LISTS["de_blocks"]):
            x = joined(f"de_blocks.{i}", x, embedded[image : image + 1])
        out.append(image_of(modulated(state, "final_layer", x, given), SHAPE.patch))
    return torch.cat(out)


def official_denoised(state: State, x: Tensor, sigma: float, labels: Tensor) -> Tensor:
    """MaskDiT's network in its EDM wrapper."""
    inner = official_forward(
        "maskdit", state, x / math.hypot(sigma, 0.5), torch.full((2,), math.log(sigma) / 4), labels
    )
    return (0.25 * x + sigma * 0.5 * math.hypot(sigma, 0.5) * inner) / (sigma**2 + 0.25)


def assert_same(ours: Tensor, official: Tensor) -> None:
    assert official.abs().max() > 0.1
    assert (ours - official).abs().max() <= 1e-4 * official.abs().max()
