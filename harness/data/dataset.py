"""What a run trains on: images or latents with labels, read by index and turned into what the network sees.

N images, B indices of a batch, C channels, S side.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from torch import Tensor

from harness.model.randomness import Draw
from harness.recipes.config import InputShape
from harness.records.schema import DataIdentity, HeldOut
from harness.system.errors import UsageError


class Dataset(ABC):
    """A labelled set. `read` happens ahead of the step, on the CPU; `to_clean` inside the step, on its device.

    Where `has_flips`, index i + N reads the mirror image of i.
    """

    name: str
    labels: Tensor  # (N,) int64 in [0, num_classes)
    num_classes: int
    channels: int  # of what the network sees
    side: int
    real: bool  # False: random numbers, for speed only; their metrics would mean nothing
    in_memory: bool = False  # reading costs nothing, so the loader does not read ahead
    has_flips: bool = False
    vae: str | None = None  # the VAE between pixels and latents, by its id; None: the network sees pixels
    vae_sha256: str | None = None  # of its weights, where known
    extra: tuple[str, ...] = ()  # names of what read_extra gives
    fitting: str | None = None  # how images were brought to `side`; None: they are as they were
    held_out: "Dataset | None" = None  # images of the same classes that no run trains on; None: all are trained on
    held_out_by: str | None = None  # which images those are, in words

    @property
    def shape(self) -> InputShape:
        """What a network for this data takes."""
        return InputShape(channels=self.channels, side=self.side, num_classes=self.num_classes)

    @property
    @abstractmethod
    def sha256(self) -> str:
        """Of the content, so that it does not depend on where it lies."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """What is stored of these images, and their labels.   (B,) -> (B, ...), (B,) int64 in [0, num_classes)"""

    def read_extra(self, indices: Tensor) -> dict[str, Tensor]:
        """What the set has of these images besides, by the names in `extra`: mirrored where the image is and it has
        places, (B, C, H, W), and as it is otherwise.   (B,) -> each (B, ...)"""
        return {}

    def check(self, advance: Callable[[int], None]) -> None:
        """Checks that are too slow for opening, made before the first step. Raises DataError.

        `advance` gets how many of num_files are done.
        """
        return

    @property
    def identity(self) -> DataIdentity:
        """What a run's manifest says of this set."""
        return DataIdentity(
            name=self.name,
            sha256=self.sha256,
            num_images=len(self),
            real=self.real,
            vae=self.vae,
            vae_sha256=self.vae_sha256,
            fitting=self.fitting,
            held_out=self._held_out_identity,
        )

    @property
    def _held_out_identity(self) -> HeldOut | None:
        if self.held_out is None or self.held_out_by is None:
            return None
        return HeldOut(by=self.held_out_by, num_images=len(self.held_out), sha256=self.held_out.sha256)

    @property
    def num_files(self) -> int:
        return 0

    def everything(self) -> Tensor:
        """All that is stored, for keeping it on a GPU.   (N, ...), or (2 N, ...) with the mirror images behind

        Raises UsageError when the set is not of a kind that can be.
        """
        raise UsageError(f"{self.name} cannot be held on the device as a whole; say --set residency=host.")

    def to_clean(self, stored: Tensor, draw: Draw) -> Tensor:  # (B, ...) -> (B, C, S, S) float32
        """What was read, as training images; a latent's posterior is sampled with `draw`."""
        return stored


class InMemory(Dataset):
    """Images held as one tensor, with any further tensors of theirs.   clean (N, C, S, S) float32, labels (N,) int64"""

    in_memory = True
    has_flips = True

    def __init__(
        self,
        name: str,
        clean: Tensor,
        labels: Tensor,
        num_classes: int,
        *,
        real: bool = True,
        extra: Mapping[str, Tensor] | None = None,  # each (N, ...)
    ):
        self.name, self.clean, self.labels, self.num_classes, self.real = name, clean, labels, num_classes, real
        self.channels, self.side = clean.shape[1], clean.shape[-1]
        self._extra = dict(extra or {})
        self.extra = tuple(self._extra)

    def beside(self, extra: Mapping[str, tuple[int, ...]]) -> "InMemory":
        """The same images with tensors of these shapes beside each: one of random numbers, the same for all."""
        generator = torch.Generator().manual_seed(0)
        drawn = {name: torch.randn(1, *sides, generator=generator) for name, sides in extra.items()}
        beside = {name: one.expand(len(self), *one.shape[1:]) for name, one in drawn.items()}
        return InMemory(self.name, self.clean, self.labels, self.num_classes, real=False, extra=beside)

    @cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256(self.clean.numpy().tobytes() + self.labels.numpy().tobytes())
        for name, values in sorted(self._extra.items()):
            digest.update(name.encode() + values.numpy().tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.clean)

    def everything(self) -> Tensor:
        """All images, then all mirror images.   (2 N, C, S, S)"""
        return torch.cat([self.clean, self.clean.flip(-1)])

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self._mirrored(self.clean, indices), self.labels[indices % len(self)]

    def read_extra(self, indices: Tensor) -> dict[str, Tensor]:
        return {name: self._mirrored(values, indices) for name, values in self._extra.items()}

    def _mirrored(self, values: Tensor, indices: Tensor) -> Tensor:  # (N, ...), (B,) -> (B, ...)
        """The values of these images; mirrored, where they have places, for an index from N on."""
        chosen = values[indices % len(self)]
        return mirrored_where(indices >= len(self), chosen) if values.dim() == 4 else chosen


def mirrored_where(mirrored: Tensor, images: Tensor) -> Tensor:  # (B,) bool, (B, C, S, S) -> the same
    """Those images mirrored, the others as they are."""
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images) if mirrored.any() else images
