"""A set of images in memory.   N images, H height, W width, C channels."""

import torch
from torch import Tensor

from harness.evaluation.images.image_set import ImageSet


class TensorImages(ImageSet):
    """Images in memory."""

    def __init__(self, name: str, images: Tensor, labels: Tensor | None = None):  # (N, H, W, C) uint8, (N,)
        found = f"{images.dtype}, shape {tuple(images.shape)}"
        assert (images.dtype, images.ndim) == (torch.uint8, 4), f"images are uint8 (N, H, W, C), not {found}"
        height, width, channels = images.shape[1:]
        self.name, self.shape, self._images = name, (height, width, channels), images
        self.labels = None if labels is None else labels.long()

    def __len__(self) -> int:
        return len(self._images)

    def read(self, start: int, stop: int) -> Tensor:
        return self._images[start:stop]
