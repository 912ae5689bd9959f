"""Pickles that leave a mark when they are opened, in the shape of every file the harness reads."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import torch


class Planted:
    """Opened as a pickle, it makes the file `mark`."""

    def __init__(self, mark: Path):
        self._mark = mark

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self._mark}",)


def pickled(mark: Path) -> bytes:
    return pickle.dumps(Planted(mark))


def npy(mark: Path) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Planted(mark)], dtype=object), allow_pickle=True)
    return file.getvalue()


def npz(path: Path, mark: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(f"{name}.npy", npy(mark))
    return path


def saved(path: Path, mark: Path, *, legacy: bool = False, beside: dict | None = None) -> Path:
    torch.save({**(beside or {}), "x": Planted(mark)}, path, _use_new_zipfile_serialization=not legacy)
    return path


YAML = "method: dit\nrecipe: !!python/object/apply:os.system ['touch {mark}']\n"
