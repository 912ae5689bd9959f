"""How a method names the weights of its official checkpoints, which harness.runs.published_weights reads.

A method's `names` maps this project's modules and parameters to the official ones, and names the fixed tables that the
official files store, each with the table that our network computes.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

Names = dict[str, str]  # ours -> official
Tables = dict[str, Tensor]  # official name -> the table that our network computes


class Official(NamedTuple):
    """The official checkpoints of a method."""

    settings: tuple[str, ...]  # how the official code uses the weights where a recipe does otherwise, key=value
    names: Callable[[Any], tuple[Names, Tables]]  # of the method's network
    releases: tuple[str, ...] = ()  # which of the networks that are not DiT's, by their mark, are this method's
    adapted: Callable[[Any, Mapping[str, Tensor]], dict[str, Tensor]] | None = None  # (network, a release's weights)


BLOCK = {
    "attn.qkv": "attn.qkv",
    "attn.out": "attn.proj",
    "mlp.0": "mlp.fc1",
    "mlp.2": "mlp.fc2",
    "adaln": "adaLN_modulation.1",
}
MODULATED = {"adaln": "adaLN_modulation.1", "out": "linear"}
CONDITION = {
    "condition.noise.0": "t_embedder.mlp.0",
    "condition.noise.2": "t_embedder.mlp.2",
    "condition.label": "y_embedder.embedding_table",
}


def under(names: Names, ours: str, official: str) -> Names:
    """The names of modules within `ours` and `official`."""
    return {f"{ours}.{mine}": f"{official}.{theirs}" for mine, theirs in names.items()}


def blocks(ours: str, official: str, depth: int) -> Names:
    """The names of `depth` DiT blocks."""
    return {k: v for i in range(depth) for k, v in under(BLOCK, f"{ours}.{i}", f"{official}.{i}").items()}


def plain_names(network: Any) -> tuple[Names, Tables]:
    """DiT's network as its repository names its parts, and SiT's and REPA's after it."""
    names = {
        "patches.proj": "x_embedder.proj",
        **CONDITION,
        **blocks("blocks", "blocks", len(network.blocks)),
        **under(MODULATED, "readout", "final_layer"),
    }
    return names, {"pos_embed": network.position}
