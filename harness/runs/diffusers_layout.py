"""DiT as the diffusers library stores it, `DiTTransformer2DModel`, under the official names and back.

What differs from the official layout beside the names:
  queries, keys, values  three linear layers; officially one, fused
  conditioning           every block has its own copy of the embedders of the noise level and of the label
  positions              are not stored; config.json has the side of the latents
  frequencies            diffusers divides the exponents of the noise level's sinusoids by 127, the official code by
                         128. It is no weight, so it cannot be stored: see `SAME_FREQUENCIES`
D width, C channels, p patch side.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.recipes.config import LARGEST_CONFIG, RunConfig
from harness.records.schema import read_json
from harness.system.errors import DataError

FOLDER, CONFIG, WEIGHTS = "transformer", "config.json", "diffusion_pytorch_model.safetensors"
CLASSES = ("DiTTransformer2DModel", "Transformer2DModel")  # the second is the older name, which the hub's files have
SAME_FREQUENCIES = """\
for block in model.transformer_blocks:
    block.norm1.emb.time_proj.downscale_freq_shift = 0
"""

EMBEDDERS = {  # in every block, under norm1.emb
    "timestep_embedder.linear_1": "t_embedder.mlp.0",
    "timestep_embedder.linear_2": "t_embedder.mlp.2",
    "class_embedder.embedding_table": "y_embedder.embedding_table",
}
IN_BLOCK = {
    "norm1.linear": "adaLN_modulation.1",
    "attn1.to_out.0": "attn.proj",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
}
PARTS = ("attn1.to_q", "attn1.to_k", "attn1.to_v")  # attn.qkv holds them in this order
OUTSIDE = {
    "pos_embed.proj": "x_embedder.proj",
    "proj_out_1": "final_layer.adaLN_modulation.1",
    "proj_out_2": "final_layer.linear",
}
LEAVES = ("weight", "bias")


def recognised(names: Mapping[str, object]) -> bool:
    return any(name.startswith("transformer_blocks.") for name in names)


def _names(depth: int) -> dict[str, str]:
    """The official name of each of diffusers' tensors, of a DiT of `depth` blocks, but for queries, keys and values."""
    modules = dict(OUTSIDE)
    for i in range(depth):
        modules |= {f"transformer_blocks.{i}.norm1.emb.{name}": official for name, official in EMBEDDERS.items()}
        modules |= {f"transformer_blocks.{i}.{name}": f"blocks.{i}.{official}" for name, official in IN_BLOCK.items()}
    return {f"{name}.{leaf}": f"{official}.{leaf}" for name, official in modules.items() for leaf in LEAVES}


def _fused(depth: int) -> dict[str, list[str]]:
    """diffusers' tensors, of queries, keys and values, that make up one official tensor."""
    return {
        f"blocks.{i}.attn.qkv.{leaf}": [f"transformer_blocks.{i}.{part}.{leaf}" for part in PARTS]
        for i in range(depth)
        for leaf in LEAVES
    }


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the official names; a name that is none of DiT's stays as it is.

    Raises DataError where the blocks have different embedders: the official network has one for all.
    """
    depth = len({name.split(".")[1] for name in state if name.startswith("transformer_blocks.")})
    names, left, found = _names(depth), dict(state), dict[str, Tensor]()
    for official, parts in _fused(depth).items():
        tensors = [left[part] for part in parts if part in left]
        if len(tensors) == len(PARTS) and len({tensor.shape for tensor in tensors}) == 1:
            found[official] = torch.cat(tensors)
            for part in parts:
                del left[part]
    for name, value in left.items():
        first = found.setdefault(names.get(name, name), value)
        if first is not value and not torch.equal(first, value):
            raise DataError(
                f"{name} differs from that of another block: diffusers trained each block's embedder by itself, and "
                "DiT has one for all. Such a network cannot be computed here; take one that was converted from the "
                "official weights."
            )
    return found


def from_official(state: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Official weights of a DiT of `depth` blocks, as diffusers names and lays them out."""
    found = {name: state[official].clone() for name, official in _names(depth).items() if official in state}
    for official, parts in _fused(depth).items():
        chunks = (chunk.clone() for chunk in state[official].chunk(len(PARTS)))
        found |= dict(zip(parts, chunks, strict=True))
    return found


def config_of(cfg: RunConfig, out_channels: int) -> dict[str, Any]:
    """config.json of a DiT, for `DiTTransformer2DModel.from_pretrained`."""
    size = cfg.network
    return {
        "_class_name": CLASSES[0],
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_head_dim": size.width // size.num_heads,
        "dropout": 0.0,
        "in_channels": cfg.input.channels,
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "norm_type": "ada_norm_zero",
        "num_attention_heads": size.num_heads,
        "num_embeds_ada_norm": cfg.input.num_classes,
        "num_layers": size.depth,
        "out_channels": out_channels,
        "patch_size": size.patch,
        "sample_size": cfg.input.side,
        "upcast_attention": False,
    }


# Files -----------------------------------------------------------------------------------------------------------


def weights_file(path: Path) -> Path:
    """The file of weights that `path` means: itself, or the one in a folder that diffusers saved.

    Raises DataError for a folder with none, or with several.
    """
    if not path.is_dir():
        return path
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    for ending in ("safetensors", "bin"):
        whole = folder / f"diffusion_pytorch_model.{ending}"
        if whole.is_file():
            return whole
        found = sorted(folder.glob(f"diffusion_pytorch_model*.{ending}"))
        if len(found) == 1:
            return found[0]
        if found:
            raise DataError(
                f"{folder} has several files of weights: {', '.join(file.name for file in found)}. Name one that is "
                "whole; parts of one network are joined by diffusers' save_pretrained(max_shard_size='100GB')."
            )
    raise DataError(
        f"{path} is a folder without diffusers' weights: it has no {FOLDER}/{WEIGHTS}, nor this file itself. Name the "
        "file of the weights."
    )


def require_same_network(file: Path, cfg: RunConfig) -> None:
    """Raises DataError where config.json beside `file` describes another network than `cfg`'s.

    The number of heads and the side of the latents cannot be seen from the weights. Without such a file, nothing is
    known of them.
    """
    path = file.parent / CONFIG
    if not path.is_file():
        return
    try:
        said = read_json(path, LARGEST_CONFIG)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}. Fetch it again, or import the weights' file alone.") from None
    if not isinstance(said, dict) or said.get("_class_name") not in CLASSES:
        kind = said.get("_class_name") if isinstance(said, dict) else None
        raise DataError(f"{path} describes {kind!r}; of diffusers' networks only {CLASSES[0]} can be imported.")
    wanted = config_of(cfg, 0)
    checked = ("num_attention_heads", "attention_head_dim", "sample_size", "activation_fn", "norm_type")
    other = [
        f"{key} {said[key]!r}, not {wanted[key]!r}" for key in checked if said.get(key, wanted[key]) != wanted[key]
    ]
    if other:
        raise DataError(
            f"{path} describes another network than {cfg.recipe}: {', '.join(other)}. Choose the recipe of its size "
            "with --as (dit-xl is for sample_size 32, dit-xl-512 for 64)."
        )
