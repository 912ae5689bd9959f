"""Images as a network sees them without a VAE: eight-bit pixels, a part of them held out.

N images, B of a batch, C channels, S side in pixels.
"""

import hashlib
from collections.abc import Callable
from functools import cached_property, partial

import torch
from torch import Tensor

from harness.data.dataset import Dataset, mirrored_where
from harness.model.randomness import Draw
from harness.recipes.seeds import mix
from harness.system.errors import DataError, UsageError

IN_MEMORY_BYTES = 2**31  # of pixels: a larger set is read from its files, batch by batch
PIECE_IMAGES = 1024  # read at once
SEEDED_TENTH = "a seeded tenth of each class"

Read = Callable[[Tensor], Tensor]  # places of images in a source, (B,) -> (B, C, S, S) uint8


class Pixels(Dataset):
    """Images of which each is read by its place in a source; held in memory where they take at most 2 GiB.

    Reading raises DataError for an image that cannot be read exactly.
    """

    real = True
    has_flips = True

    def __init__(
        self,
        name: str,
        read: Read,
        places: Tensor,  # (N,) int64
        labels: Tensor,  # (N,) int64
        *,
        shape: tuple[int, int, int],  # channels, side, number of classes
        fitting: str | None = None,
        held_out: "Pixels | None" = None,
        held_out_by: str | None = None,
        known_by: str | None = None,  # hash of what stands for the content where that is too large to be read for one
    ):
        self.name, self.labels, self.fitting = name, labels, fitting
        self.held_out, self.held_out_by = held_out, held_out_by
        self.channels, self.side, self.num_classes = shape
        self.in_memory = len(places) * self.channels * self.side**2 <= IN_MEMORY_BYTES
        self._source, self._places, self._known_by = read, places, known_by

    def __len__(self) -> int:
        return len(self._places)

    @cached_property
    def _held(self) -> Tensor:  # (N, C, S, S) uint8
        held = torch.empty(len(self), self.channels, self.side, self.side, dtype=torch.uint8)
        for start in range(0, len(self), PIECE_IMAGES):
            held[start : start + PIECE_IMAGES] = self._source(self._places[start : start + PIECE_IMAGES])
        return held

    @cached_property
    def sha256(self) -> str:
        """Of shape, labels and pixels; of a set too large to be held, what its source says instead of the pixels."""
        digest = hashlib.sha256(repr((len(self), self.channels, self.side, self.num_classes)).encode())
        digest.update(self.labels.numpy().tobytes())
        if self.in_memory:
            digest.update(self._held.numpy())
        elif self._known_by is not None:
            digest.update(f"{self._known_by} {self.fitting}".encode() + self._places.numpy().tobytes())
        else:
            for start in range(0, len(self), PIECE_IMAGES):
                digest.update(self._source(self._places[start : start + PIECE_IMAGES]).contiguous().numpy())
        return digest.hexdigest()

    def everything(self) -> Tensor:  # (2 N, C, S, S) uint8
        if not self.in_memory:
            raise UsageError(f"{self.name} cannot be held on the device as a whole; say --set residency=host.")
        return torch.cat([self._held, self._held.flip(-1)])

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:  # (B,) -> (B, C, S, S) uint8, (B,) int64
        rows = indices % len(self)
        images = self._held[rows] if self.in_memory else self._source(self._places[rows])
        return mirrored_where(indices >= len(self), images), self.labels[rows]

    def to_clean(self, stored: Tensor, draw: Draw) -> Tensor:  # (B, C, S, S) uint8 -> float32 in [-1, 1]
        return stored.float() / 127.5 - 1


def with_tenth_held_out(
    name: str, read: Read, labels: Tensor, *, shape: tuple[int, int, int], fitting: str | None, known_by: str | None
) -> Pixels:
    """The images of a source without a test set of its own, the tenth that `held_out_tenth` chooses held out."""
    chosen = held_out_tenth(name, labels)
    seen = torch.ones(len(labels), dtype=torch.bool)
    seen[chosen] = False
    kept = seen.nonzero()[:, 0]
    part = partial(Pixels, shape=shape, fitting=fitting, known_by=known_by)
    held_out = part(f"{name}, held out", read, chosen, labels[chosen])
    return part(name, read, kept, labels[kept], held_out=held_out, held_out_by=SEEDED_TENTH)


def held_out_tenth(name: str, labels: Tensor) -> Tensor:  # (N,) -> (N / 10,), sorted
    """Which images to hold out: every tenth, at least one, evenly over the classes, each class shuffled by a seed.

    One image of every class always stays. Raises DataError where no class has a second one.
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(mix("held out", len(labels))))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    first = torch.ones(len(labels), dtype=torch.bool)
    first[1:] = labels[by_class][1:] != labels[by_class][:-1]
    free = by_class[~first]
    if not len(free):
        raise DataError(
            f"{name} holds {len(labels):,} image(s), no two of one class. A tenth is held out for measuring, so at "
            "least one class needs two images."
        )
    wanted = max(1, min(len(labels) // 10, len(free)))
    return free[((torch.arange(wanted) + 0.5) * len(free) / wanted).long()].sort().values
