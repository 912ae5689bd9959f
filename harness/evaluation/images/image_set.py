"""What a set of images is: N images of one shape, read in pieces.

N images, B of a piece, H height, W width, C channels.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from harness.data.dataset import Dataset
from harness.data.images.uint8 import to_uint8
from harness.model.randomness import Draw


class ImageSet(ABC):
    """N images of one shape, uint8, of which no more is held than what is read."""

    name: str  # for records: a file's or a folder's, never its path
    shape: tuple[int, int, int]  # (H, W, C)
    labels: Tensor | None = None  # (N,) int64, where known
    notes: tuple[str, ...] = ()  # what was read otherwise than it is in the files, for records

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, start: int, stop: int) -> Tensor:  # (B, H, W, C) uint8
        """Images start .. stop - 1. Raises DataError when they cannot be read."""


class DataImages(ImageSet):
    """The images of a data set that holds images, in its order, none mirrored."""

    def __init__(self, data: Dataset):
        self.data, self.name, self.labels = data, data.name, data.labels
        self.shape = (data.side, data.side, data.channels)

    def __len__(self) -> int:
        return len(self.data)

    def read(self, start: int, stop: int) -> Tensor:
        return self.rows(torch.arange(start, stop))

    def rows(self, rows: Tensor) -> Tensor:  # (B,) -> (B, H, W, C) uint8
        """Any of the images, in any order."""
        stored = self.data.read(rows)[0]
        return to_uint8(self.data.to_clean(stored, Draw.all_of(stored)))
