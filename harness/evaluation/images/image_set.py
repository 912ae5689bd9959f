"""What a set of images is: N images of one shape, read in pieces.

N images, B of a piece, H height, W width, C channels.
"""

from abc import ABC, abstractmethod

from torch import Tensor


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
