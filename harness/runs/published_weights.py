"""The official checkpoints of DiT, MaskDiT and MDT, and diffusers' of DiT, read into this project's networks.

Names and layouts were read from facebookresearch/DiT, Anima-Lab/MaskDiT and sail-sg/MDT (branch mdtv1, and main, which
is MDTv2); what differs from ours beside the names:
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
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import baselines
from harness.model.nn.embeddings import PatchEmbed
from harness.model.official import Names, Official
from harness.recipes import plugins
from harness.runs import diffusers_layout
from harness.system.errors import DataError, some_of, unknown
from harness.system.weights import load_saved, read_tensors, refuse_not_finite, refuse_views

# A fixed table that went through the averaging of DiT's train.py for 10,000 steps or more is off by 1.6e-4: each step
# multiplies it by 0.9999, adds it back times 0.0001, and rounds. A table stored in bf16 or fp16 is rounded besides, in
# proportion to each value. A wrong table is off by about 1.
TABLE_TOLERANCE = 1e-3
# The prefixes of DistributedDataParallel, of torch.compile and of MaskDiT's EDM wrapper.
WRAPPERS = re.compile(r"((module|_orig_mod|model)\.)*")
NAMED = 10  # an error names this many mismatches of each kind
READ = "DiT, MaskDiT, MDT, SiT and REPA can be imported, and DiT as diffusers has it"
SIT, REPA, LIGHTNING = "SiT", "REPA", "LightningDiT"  # as Official.releases names them
FOREIGN = {  # networks of other projects, by a name that only their weights have
    REPA: re.compile(r"(^|\.)projectors\."),
    LIGHTNING: re.compile(r"(^|\.)feat_rope\.|\.mlp\.w12\.|\.attn\.[qk]_norm\.|blocks\.\d+\.norm1\.weight$"),
}
WHAT = {
    SIT: "SiT (DiT's network, trained by flow matching, which its options or the file's name say): --as sit-xl",
    REPA: "REPA, or a method built on it (a SiT with projectors, trained by flow matching): --as sit-xl",
    LIGHTNING: "LightningDiT (rotary positions, SwiGLU, RMSNorm), which this project does not have yet",
}


# Reading ---------------------------------------------------------------------------------------------------------


def read(path: Path, method: str = "dit") -> dict[str, Tensor]:
    """The state dict in a published file for `method`, on the CPU: the averaged weights, "ema", where there are more.

    The released DiT and MDT files are plain state dicts; the official training scripts of DiT, fast-DiT and MaskDiT
    save {"model": ..., "ema": ..., "opt": ..., "args": ...}. Code in a file is never run.
    Raises DataError for anything that is no such file, for weights of another network that have the same names and
    shapes, and for weights that are not finite.
    """
    document: object = read_tensors(path) if path.suffix == ".safetensors" else _load(path)
    state = document.get("ema", document) if isinstance(document, Mapping) else None
    if not isinstance(state, Mapping) or not state:
        raise DataError(f"{path} holds no state dict; point to a file of weights as the official code saves it.")
    strangers = [str(k) for k, value in state.items() if not (isinstance(k, str) and isinstance(value, Tensor))]
    if strangers:
        raise DataError(
            f"{path} is no state dict, which names tensors: it has {some_of(strangers, NAMED)}. "
            'Point to a plain state dict, or to a file with one under "ema".'
        )
    options = document.get("args") if isinstance(document, Mapping) else None
    foreign = _foreign(path, state, vars(options) if isinstance(options, argparse.Namespace) else {})
    if foreign and foreign not in official_of(method).releases:
        raise DataError(f"{path} holds weights of {WHAT[foreign]}. {READ}.")
    try:
        refuse_views(state)
        refuse_not_finite(state)
    except ValueError as error:
        raise DataError(
            f"{path} is refused: {error}. Fetch the file again, take a checkpoint of before its training diverged, or "
            "save its state dict anew, of contiguous tensors."
        ) from None
    return dict(state)


def _foreign(path: Path, names: Iterable[str], options: Mapping[str, object]) -> str | None:
    """Which of the FOREIGN networks, or SIT, a file is of, or None where it may be DiT's, MaskDiT's or MDT's.

    SiT's weights have the names and shapes of DiT's: only the options that its training saves, and the name of its
    release, tell them apart.
    """
    for network, mark in FOREIGN.items():
        if any(mark.search(name) for name in names):
            return network
    if {"path_type", "prediction"} <= options.keys() or re.search(r"(?<![a-z])sit(?![a-z])", path.name.lower()):
        return SIT
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


Layout = Callable[[Tensor], Tensor]


class _Weight(NamedTuple):
    """One of our parameters: the official one it comes from, its shape there, and how it is laid out here."""

    ours: str
    official: str
    shape: tuple[int, ...]
    layout: Layout = Tensor.detach
    restore: Layout = Tensor.detach  # the inverse


def _weights(network: Any, names: Names) -> list[_Weight]:
    p = next(module.patch for module in network.modules() if isinstance(module, PatchEmbed))

    def weight(ours: str, shape: tuple[int, ...]) -> _Weight:
        module, _, leaf = ours.rpartition(".")
        official = names[ours] if ours in names else f"{names[module]}.{leaf}"
        if official == "x_embedder.proj.weight":  # (D, C, p, p) there, (D, C p^2) here
            kernel = (shape[0], shape[1] // p**2, p, p)
            return _Weight(ours, official, kernel, lambda v: v.flatten(1), lambda v: v.unflatten(1, (-1, p, p)))
        if official.startswith("final_layer.linear."):  # (p p C, ...) there, (C p p, ...) here
            swapped = partial(_with_first_axis_transposed, split=(p * p, -1))
            return _Weight(ours, official, shape, swapped, partial(_with_first_axis_transposed, split=(-1, p * p)))
        if official == "y_embedder.embedding_table.weight" and not network.condition.null_label_learned:
            return _Weight(ours, official, shape[::-1], Tensor.t, Tensor.t)
        return _Weight(ours, official, shape)

    return [weight(name, tuple(value.shape)) for name, value in network.state_dict().items()]


def _with_first_axis_transposed(value: Tensor, split: tuple[int, int]) -> Tensor:
    return value.unflatten(0, split).transpose(0, 1).flatten(0, 1)


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
    if adapted := official_of(method).adapted:
        found = adapted(network, found)
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
            f"these weights are not stored as floating-point numbers: {some_of(other, NAMED)}. A quantized copy "
            "cannot be read; take the official file as it was released."
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
    lines = [f"  {len(items)} {kind}: {some_of(items, NAMED)}" for kind, items in groups.items() if items]
    if lines:
        lines = [f"these weights do not fit this {method} network, by their official names:", *lines]
        raise DataError("\n".join([*lines, _hint(method, expected, found)]))


# The likely fix ----------------------------------------------------------------------------------------------------

_MARKS = {
    "en_inblocks.": "mdt",
    "sideblocks.": "mdt",
    "decoder_blocks.": "maskdit",
    "final_layer.": "dit",
}
_OF_THE_DEPTH = re.compile(r"(blocks|en_inblocks|en_outblocks|de_blocks)\.\d+")


def _facts(shapes: Shapes) -> dict[str, Any]:
    """What the shapes of a state dict say about its network, by the names of settings where there are any."""

    def axis(name: str, index: int) -> int:
        shape = shapes.get(name, ())
        return shape[index] if len(shape) > index else 0

    present = (kind for mark, kind in _MARKS.items() if any(name.startswith(mark) for name in shapes))
    patch = axis("x_embedder.proj.weight", 3)
    return {
        "method": next(present, "no network known here"),
        "version": 2 if any(name.startswith("en_inblocks.") for name in shapes) else 1,
        "depth": len({match[0] for name in shapes if (match := _OF_THE_DEPTH.match(name))}),
        "width": axis("x_embedder.proj.weight", 0),
        "patch": patch,
        "side": math.isqrt(axis("pos_embed", 1)) * patch,
        "relative_position": str(any(".rel_pos_bias." in name for name in shapes)).lower(),
        "channels of the output": axis("final_layer.linear.bias", 0) // (patch**2 or 1),
    }


def _hint(method: str, expected: Shapes, found: Shapes) -> str:
    """The likely fix, from what differs."""
    want, have = _facts(expected), _facts(found)
    if have["method"] != want["method"]:
        return f"They look like weights of {have['method']}; this network is {method}'s."
    differing = [f"{name} {have[name]} (here {want[name]})" for name in want if have[name] != want[name]]
    if not differing:
        return "They were changed after their release, or trained with other settings: compare the ones named above."
    return (
        f"They have {', '.join(differing)}. Choose the recipe of their size with --as ({method}-xl for images of 256 "
        f"pixels, which is side 32; {method}-xl-512 for 512), or the setting with --set. The formulation iddpm learns "
        "a variance beside the image, so its output has twice the channels of edm's."
    )
