"""Weights of a network: their hash, and reading a file of them that is not trusted."""

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from harness.system.errors import DataError, HarnessError
from harness.system.files import new_file

LARGEST_VIEW = 2**26  # bytes of a tensor that may repeat few stored values


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """sha256 of names and values, in the order of the names; it depends on no file format and no device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        if tensor.numel():
            digest.update(memoryview(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()))
    return digest.hexdigest()


def load_saved(source: Path | BinaryIO, *, mapped: bool = False) -> Any:
    """What torch.save wrote, on the CPU, or `mapped` from the file. No code in it is run.

    Raises ValueError for packed records, which torch.save never writes: a megabyte of them can unpack to a terabyte.
    For damaged bytes, raises whatever torch does, which is anything.
    """
    archive = zipfile.is_zipfile(source)
    if archive:
        with zipfile.ZipFile(source) as records:
            if any(record.compress_type != zipfile.ZIP_STORED for record in records.infolist()):
                raise ValueError("its records are packed, as torch.save never packs them")
    if not isinstance(source, Path):
        source.seek(0)
    return torch.load(source, map_location="cpu", weights_only=True, mmap=archive and mapped)


def refuse_views(tensors: Mapping[str, Tensor], *, small: int = 0) -> None:
    """ValueError for a tensor that repeats few stored values, or holds others than plain ones: a copy has any size.

    One of up to `small` bytes may repeat them.
    """
    for name, tensor in tensors.items():
        plain = tensor.layout == torch.strided and not tensor.is_quantized
        if not plain or tensor.numel() * tensor.element_size() > max(tensor.untyped_storage().nbytes(), small):
            raise ValueError(f"{name[:100]}, {tuple(tensor.shape)}, is not stored value by value")


def refuse_not_finite(tensors: Mapping[str, Tensor]) -> None:
    """ValueError for a value that is NaN or infinite, or will be in fp32; it names the tensor and the first place."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        wrong = (~torch.isfinite(tensor.float())).nonzero()
        if len(wrong):
            value = tensor[tuple(wrong[0])].item()
            raise ValueError(
                f"{name[:100]} has {len(wrong):,} of {tensor.numel():,} values that are not finite in fp32, the first, "
                f"{value:g}, at {wrong[0].tolist()}"
            )


def read_tensors(path: Path, *, pickled: bool = True) -> dict[str, Tensor]:
    """The named tensors of a .safetensors file or, where `pickled`, of a state dict of torch.save.

    No code in a file is run. Raises DataError when it is damaged, holds anything else, or may not be pickled.
    """
    if not pickled and path.suffix != ".safetensors":
        raise DataError(f"{path} is refused: only safetensors are read, never pickled files. Save it as safetensors.")
    try:
        found = load_file(path) if path.suffix == ".safetensors" else load_saved(path)
        refuse_views(found, small=LARGEST_VIEW)
    except HarnessError:
        raise  # a signal that arrived meanwhile
    except Exception:  # damaged pickles fail in any way, and torch's message about refused ones advises to run them
        found = None
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise DataError(
            f"{path} is refused: it is damaged or holds more than named tensors, whose code is never run. Fetch it "
            "again, or save your own weights as .safetensors."
        )
    return found


def write_checked(path: Path, tensors: Mapping[str, Tensor], **facts: str) -> str:
    """Tensors and what there is to say of them, as a .safetensors file that holds their hash, which is returned.

    Raises DataError when the disk refuses.
    """
    sha256 = fingerprint(tensors)
    with new_file(path) as temporary:
        temporary.write_bytes(save({n: t.contiguous() for n, t in tensors.items()}, {**facts, "sha256": sha256}))
    return sha256


def read_checked(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `write_checked` wrote: the tensors and the facts. Raises OSError or ValueError when that is not there."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            facts = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    if facts.get("sha256") != fingerprint(tensors):
        raise ValueError("its tensors do not have the hash that it names")
    return tensors, facts
