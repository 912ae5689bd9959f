"""The data sets a run can name. A set is held in memory as tensors; the order is harness.data.order's.

N images, C channels, S side.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from harness.errors import unknown


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images or latents with labels.   clean (N, C, S, S) float32, labels (N,) int64 in [0, num_classes)."""

    name: str
    clean: Tensor
    labels: Tensor
    num_classes: int
    real: bool  # False: random numbers, for speed only; their metrics would mean nothing

    @property
    def channels(self) -> int:
        return self.clean.shape[1]

    @property
    def side(self) -> int:
        return self.clean.shape[-1]

    def __len__(self) -> int:
        return len(self.clean)

    @cached_property
    def sha256(self) -> str:
        """Of the values themselves, so that it does not depend on where they came from."""
        return hashlib.sha256(self.clean.numpy().tobytes() + self.labels.numpy().tobytes()).hexdigest()

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:  # (B,) -> (B, C, S, S), (B,)
        return self.clean[indices], self.labels[indices]


def _digits() -> Dataset:
    """1,797 handwritten digits, 8 x 8, 17 grey levels (UCI, shipped inside scikit-learn), scaled to [-1, 1]."""
    from sklearn.datasets import load_digits  # slow to import, and only this set needs it

    images, labels = load_digits(return_X_y=True)
    clean = torch.from_numpy(images).float().reshape(-1, 1, 8, 8) / 8 - 1
    return Dataset("digits", clean, torch.from_numpy(labels).long(), num_classes=10, real=True)


def _synthetic() -> Dataset:
    """512 Gaussian latents of the shape that a 256 x 256 image has behind the SD VAE: 4 x 32 x 32, 1,000 classes."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(512, 4, 32, 32, generator=generator)
    labels = torch.randint(1000, (512,), generator=generator)
    return Dataset("synthetic", clean, labels, num_classes=1000, real=False)


_SOURCES = {"digits": _digits, "synthetic": _synthetic}


def names() -> list[str]:
    return sorted(_SOURCES)


def load(name: str) -> Dataset:
    """The data set called `name`. Raises UsageError with the nearest names when there is none."""
    if name not in _SOURCES:
        raise unknown("data set", name, names())
    return _SOURCES[name]()
