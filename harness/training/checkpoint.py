"""Checkpoints that are whole or absent: written aside, synced, renamed, and verified before they are used.

checkpoints/step-<number>/ holds
  method.safetensors  every weight and buffer of the method; the raw network's begin with "network."
  ema.safetensors     the averaged network
  optimizer.pt        loadable with weights_only=True
  state.json          step, config hash, seconds so far, and the sha256 of the other three
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.errors import DataError
from harness.results.schema import SCHEMA_VERSION

KEPT = 2  # the newest, and the one before it in case the newest is damaged
FILES = ("method.safetensors", "ema.safetensors", "optimizer.pt")


class Checkpoint(NamedTuple):
    """Training after `step` steps. Tensors are on the CPU."""

    step: int
    seconds: float  # wall time of training so far, over all the processes that worked on the run
    method: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: dict


def save(folder: Path, checkpoint: Checkpoint, config_sha256: str) -> None:
    """Write `checkpoint` under `folder`, then remove all but the newest two. Raises DataError when the disk refuses."""
    final = folder / f"step-{checkpoint.step:09d}"
    temporary = folder / f".{final.name}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(_plain(checkpoint.method), temporary / "method.safetensors")
        save_file(_plain(checkpoint.ema), temporary / "ema.safetensors")
        torch.save(checkpoint.optimizer, temporary / "optimizer.pt")
        state = {
            "schema_version": SCHEMA_VERSION,
            "step": checkpoint.step,
            "seconds": checkpoint.seconds,
            "config_sha256": config_sha256,
            "files": {name: _sha256(temporary / name) for name in FILES},
        }
        (temporary / "state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        for path in [*temporary.iterdir(), temporary]:
            _sync(path)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        _sync(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise DataError(
            f"the checkpoint of step {checkpoint.step} could not be written to {folder}: {error.strerror or error}. "
            "Free some space or choose another --out, then repeat the command: it continues from the last checkpoint."
        ) from error
    for old in _folders(folder)[:-KEPT]:
        shutil.rmtree(old)


def load_newest(folder: Path, config_sha256: str, note: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that verifies, or None. Each one that does not is passed over with a note."""
    for path in reversed(_folders(folder)):
        try:
            return _load(path, config_sha256)
        except DataError as error:
            note(f"checkpoint {path.name} is left out: {error}")
    return None


def _load(path: Path, config_sha256: str) -> Checkpoint:
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        damaged = [name for name in FILES if _sha256(path / name) != state["files"][name]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"it cannot be read: {error}.") from None
    if damaged:
        raise DataError(f"{', '.join(damaged)} differs from the sha256 written with it.")
    if state["config_sha256"] != config_sha256:
        raise DataError("it belongs to another configuration.")
    return Checkpoint(
        state["step"],
        state["seconds"],
        load_file(path / "method.safetensors"),
        load_file(path / "ema.safetensors"),
        torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True),
    )


def _folders(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
