"""The official checkpoints of DiT, MaskDiT and MDT v1, and diffusers' of DiT, read into this project's networks.

Names and layouts were read from facebookresearch/DiT, Anima-Lab/MaskDiT and the branch mdtv1 of sail-sg/MDT; what
differs from ours beside the names:
  patch embedding   a convolution (D, C, p, p); ours is a linear layer (D, C p^2) on the same order of values
  last layer        its rows are ordered row, column, channel of a patch; ours channel, row, column
  MaskDiT's labels  a linear layer on one-hot labels (D, classes); ours is a table (classes, D)
  fixed tables      are stored; ours are computed, so the stored ones are only compared
D width, C channels, p patch side, L tokens.
"""

import argparse
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import baselines
from harness.model.nn.embeddings import PatchEmbed
from harness.model.official import Names, Official
from harness.recipes import plugins
from harness.runs import diffusers_layout
from harness.system.errors import DataError, unknown
from harness.system.weights import load_saved, read_tensors, refuse_not_finite, refuse_views

# A fixed table that went through the averaging of DiT's train.py for 10,000 steps or more is off by 1.6e-4: each step
# multiplies it by 0.9999, adds it back times 0.0001, and rounds. A table stored in bf16 or fp16 is rounded besides, in
# proportion to each value. A wrong table is off by about 1.
TABLE_TOLERANCE = 1e-3
# The prefixes of DistributedDataParallel, of torch.compile and of MaskDiT's EDM wrapper.
WRAPPERS = re.compile(r"((module|_orig_mod|model)\.)*")
NAMED = 10  # of each kind of mismatch
READ = "DiT, MaskDiT and MDT v1 can be imported, and DiT as diffusers has it"
FOREIGN = {  # networks of other projects, by a name that only their weights have
    "REPA, or a method built on it (a SiT with projectors, trained by flow matching)": re.compile(
        r"(^|\.)projectors\."
    ),
    "LightningDiT (rotary positions, SwiGLU, RMSNorm)": re.compile(
        r"(^|\.)feat_rope\.|\.mlp\.w12\.|\.attn\.[qk]_norm\.|blocks\.\d+\.norm1\.weight$"
    ),
}
VAE_FACTOR = 8  # pixels along one side of a latent's


# Reading ---------------------------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, Tensor]:
    """The state dict in a published file, on the CPU: the averaged weights, "ema", where the file has more than one.

    The released DiT and MDT files are plain state dicts; the official training scripts of DiT, fast-DiT and MaskDiT
    save {"model": ..., "ema": ..., "opt": ..., "args": ...}. Code in a file is never run.
    Raises DataError for anything that is no such file, for weights of a network that this project does not have, and
    for weights that are not finite.
    """
    document: object = read_tensors(path) if path.suffix == ".safetensors" else _load(path)
    state = document.get("ema", document) if isinstance(document, Mapping) else None
    if not isinstance(state, Mapping) or not state:
        raise DataError(f"{path} holds no state dict; point to a file of weights as the official code saves it.")
    strangers = [str(k) for k, value in state.items() if not (isinstance(k, str) and isinstance(value, Tensor))]
    if strangers:
        raise DataError(
            f"{path} is no state dict, which names tensors: it has {_some(strangers)}. Point to a plain state dict, or "
            'to a file with one under "ema".'
        )
    options = document.get("args") if isinstance(document, Mapping) else None
    foreign = _foreign(path, state, vars(options) if isinstance(options, argparse.Namespace) else {})
    if foreign:
        raise DataError(f"{path} holds weights of {foreign}, which this project does not have yet. {READ}.")
    try:
        refuse_views(state)
    except ValueError as error:
        raise DataError(f"{path} is refused: {error}. Save its state dict anew, of contiguous tensors.") from None
    try:
        refuse_not_finite(state)
    except ValueError as error:
        raise DataError(
            f"{path} is refused: {error}. A network with such a weight computes nothing: fetch the file again, or take "
            "a checkpoint of before its training diverged."
        ) from None
    return dict(state)


def _foreign(path: Path, names: Iterable[str], options: Mapping[str, object]) -> str | None:
    """Which network, trained by flow matching, a file is of, or None where it may be one that is known here.

    SiT's weights have the names and shapes of DiT's: only the options that its training saves, and the name of its
    release, tell them apart.
    """
    for network, mark in FOREIGN.items():
        if any(mark.search(name) for name in names):
            return network
    if {"path_type", "prediction"} <= options.keys() or re.search(r"(?<![a-z])sit(?![a-z])", path.name.lower()):
        return "SiT (DiT's network, trained by flow matching, which its options or the file's name say)"
    return None


def _load(path: Path) -> object:
    try:
        path.open("rb").close()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}. Check the path to the weights.") from None
    try:
        # The training scripts store their options, a Namespace: a bag of values, harmless to restore.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return load_saved(path, mapped=True)
    except Exception as error:  # damaged bytes can fail in any way
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code:
            raise DataError(
                f"{path} is refused: loading it would call {code[1]}, and weights need no code. Nothing was run. "
                "Get the file from its official source, or save its state dict alone."
            ) from None
        raise DataError(
            f"{path} is no PyTorch checkpoint, or a damaged one ({type(error).__name__}). Fetch it again, and compare "
            "its size with the source's."
        ) from None


def official_of(method: str) -> Official:
    """Raises UsageError for a method of which no official checkpoint can be read."""
    found = baselines.load(method).Method.official if method in baselines.names() else None
    if found is None:
        known = [name for name in plugins.built_in() if baselines.load(name).Method.official]
        raise unknown("method with official weights", method, known)
    return found


# Layouts -----------------------------------------------------------------------------------------------------------


class _Weight(NamedTuple):
    """One of our parameters: the official one it comes from, its shape there, and how it is laid out here."""

    ours: str
    official: str
    shape: tuple[int, ...]
    layout: Callable[[Tensor], Tensor]
    restore: Callable[[Tensor], Tensor]  # the inverse


def _weights(network: Any, names: Names) -> list[_Weight]:
    patch = next(module.patch for module in network.modules() if isinstance(module, PatchEmbed))
    weights = []
    for ours, value in network.state_dict().items():
        module, _, leaf = ours.rpartition(".")
        official = names[ours] if ours in names else f"{names[module]}.{leaf}"
        shape: tuple[int, ...] = tuple(value.shape)
        layout: Callable[[Tensor], Tensor] = _as_it_is
        restore: Callable[[Tensor], Tensor] = _as_it_is
        if official == "x_embedder.proj.weight":
            shape = (shape[0], shape[1] // patch**2, patch, patch)
            layout, restore = _flat, _kernels(patch)
        elif official.startswith("final_layer.linear."):
            layout, restore = _channel_first(patch), _channel_last(patch)
        elif official == "y_embedder.embedding_table.weight" and not network.condition.null_label_learned:
            shape, layout, restore = shape[::-1], Tensor.t, Tensor.t
        weights.append(_Weight(ours, official, shape, layout, restore))
    return weights


def _as_it_is(value: Tensor) -> Tensor:
    return value


def _flat(kernel: Tensor) -> Tensor:  # (D, C, p, p) -> (D, C p^2)
    return kernel.flatten(1)


def _kernels(patch: int) -> Callable[[Tensor], Tensor]:
    def restore(flat: Tensor) -> Tensor:  # (D, C p^2) -> (D, C, p, p)
        return flat.unflatten(1, (-1, patch, patch))

    return restore


def _channel_first(patch: int) -> Callable[[Tensor], Tensor]:
    def layout(rows: Tensor) -> Tensor:  # (p p C, ...) -> (C p p, ...)
        return rows.unflatten(0, (patch * patch, -1)).transpose(0, 1).flatten(0, 1)

    return layout


def _channel_last(patch: int) -> Callable[[Tensor], Tensor]:
    def restore(rows: Tensor) -> Tensor:  # (C p p, ...) -> (p p C, ...)
        return rows.unflatten(0, (-1, patch * patch)).transpose(0, 1).flatten(0, 1)

    return restore


# Conversion --------------------------------------------------------------------------------------------------------


def convert(method: str, network: nn.Module, official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`official` under this project's names and layouts, for network.load_state_dict; `network` itself stays as it is.

    A DiT may also have diffusers' names and layouts, which hold no fixed table.
    `method` is the name of the file in baselines/ that `network` is from; MDT needs its knob relative_position. Values
    may share memory with `official`. Raises DataError when the two are not the same network: it lists the names that
    are unexpected, missing or of another shape, or the fixed table that differs.
    """
    names, tables = official_of(method).names(network)
    weights = _weights(network, names)
    found = _unwrapped(official)
    if diffusers_layout.recognised(found):
        found = {**tables, **diffusers_layout.to_official(found)}
    expected = {w.official: w.shape for w in weights} | {name: tuple(table.shape) for name, table in tables.items()}
    _same_names_and_shapes(method, expected, {name: tuple(value.shape) for name, value in found.items()})
    for name, table in tables.items():
        _same_table(name, table, found[name])
    _same_kind_of_number(weights, found)
    return {w.ours: w.layout(found[w.official]) for w in weights}


def _same_kind_of_number(weights: Sequence["_Weight"], found: Mapping[str, Tensor]) -> None:
    other = [f"{w.official} ({found[w.official].dtype})" for w in weights if not found[w.official].is_floating_point()]
    if other:
        raise DataError(
            f"these weights are not stored as floating-point numbers: {_some(other)}. A quantized copy cannot be read; "
            "take the official file as it was released."
        )


def official_weights(method: str, network: nn.Module) -> dict[str, Tensor]:
    """The weights of `network`, which is from baselines/`method`.py, as `convert` reads them; no fixed tables."""
    names, _ = official_of(method).names(network)
    state = network.state_dict()
    return {w.official: w.restore(state[w.ours]) for w in _weights(network, names)}


def _unwrapped(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefix that a wrapper gave to every name."""
    wrapped = WRAPPERS.match(next(iter(official), ""))
    prefix = wrapped[0] if wrapped else ""
    if not all(name.startswith(prefix) for name in official):
        return dict(official)
    return {name.removeprefix(prefix): value for name, value in official.items()}


def _same_table(name: str, ours: Tensor, stored: Tensor) -> None:
    expected = ours.to(stored.device).double()
    difference = (stored.double() - expected).abs()
    rounding = torch.finfo(stored.dtype).eps if stored.is_floating_point() else 0.0
    if not (difference <= TABLE_TOLERANCE + rounding * expected.abs()).all():  # so that NaN is refused too
        raise DataError(
            f"{name} in the file differs by {difference.max().item():.3g} from the fixed table that this network "
            "computes, so the weights were trained with other positions than it would use them with. Take the official "
            "file as it was released, for images of this size."
        )


Shapes = Mapping[str, tuple[int, ...]]


def _same_names_and_shapes(method: str, expected: Shapes, found: Shapes) -> None:
    unexpected = [f"{name} {shape}" for name, shape in found.items() if name not in expected]
    missing = [f"{name} {shape}" for name, shape in expected.items() if name not in found]
    misshaped = [
        f"{name} is {found[name]}, not {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    groups = {"unexpected": unexpected, "missing": missing, "of another shape": misshaped}
    lines = [f"  {len(items)} {kind}: {_some(items)}" for kind, items in groups.items() if items]
    if lines:
        lines = [f"these weights do not fit this {method} network, by their official names:", *lines]
        raise DataError("\n".join([*lines, _hint(method, expected, found)]))


def _some(items: list[str]) -> str:
    left = len(items) - NAMED
    return ", ".join(items[:NAMED]) + (f" and {left} more" if left > 0 else "")


# The likely fix ----------------------------------------------------------------------------------------------------


class _Facts(NamedTuple):
    """What the shapes of a state dict say about its network."""

    kind: str
    depth: int
    width: int
    patch: int
    side: int
    outputs: int
    relative_position: bool

    @classmethod
    def of(cls, shapes: Shapes) -> "_Facts":
        def axis(name: str, index: int) -> int:
            shape = shapes.get(name, ())
            return shape[index] if len(shape) > index else 0

        depth = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
        patch = axis("x_embedder.proj.weight", 3)
        side = math.isqrt(axis("pos_embed", 1)) * patch
        outputs = axis("final_layer.linear.bias", 0) // (patch**2 or 1)
        relative = any(".rel_pos_bias." in name for name in shapes)
        return cls(_kind(shapes), depth, axis("x_embedder.proj.weight", 0), patch, side, outputs, relative)


_MARKS = {
    "en_inblocks.": "MDT v2, which this project does not have",
    "sideblocks.": "mdt",
    "decoder_blocks.": "maskdit",
    "final_layer.": "dit",
}


def _kind(shapes: Shapes) -> str:
    present = (kind for mark, kind in _MARKS.items() if any(name.startswith(mark) for name in shapes))
    return next(present, "no network known here")


def _hint(method: str, expected: Shapes, found: Shapes) -> str:
    """The likely fix, from what differs most."""
    want, have = _Facts.of(expected), _Facts.of(found)
    if have.kind != want.kind:
        return f"They look like weights of {have.kind}; this network is {method}'s."
    if have[1:4] != want[1:4]:
        return (
            f"They are of {have.depth} blocks of width {have.width} on patches of {have.patch}, this network is of "
            f"{want.depth}, {want.width} and {want.patch}: choose the recipe of their size with --as."
        )
    if have.side != want.side:
        return (
            f"They are for latents of {have.side} x {have.side}, images of {have.side * VAE_FACTOR} pixels; this "
            f"network is for {want.side} x {want.side}: choose the recipe of their size with --as ({method}-xl is for "
            f"256 pixels, {method}-xl-512 for 512)."
        )
    if have.relative_position != want.relative_position:
        value = str(have.relative_position).lower()
        return f"They were trained with relative_position={value}: add --set relative_position={value}."
    if have.outputs != want.outputs:
        return (
            f"Their last layer gives {have.outputs} channels, this network's {want.outputs}: iddpm learns a variance "
            "beside the image and edm does not, so set the formulation that they were trained with."
        )
    return "They were changed after their release, or trained with other settings: compare the ones named above."
