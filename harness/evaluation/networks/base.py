"""What a feature network is, and what it gives: the interface between images and every metric.

N images, B images of an internal batch, D, S and K numbers of pooled, spatial and class outputs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.system.errors import DataError
from harness.system.precision import plain_fp32

RANDOM = "random"  # in place of a file of weights: reproducible untrained ones


class Features(NamedTuple):
    """What the metrics read, all float32 on the CPU. None where the network has none."""

    pool: Tensor  # (N, D) averaged over the image: Frechet distance, precision, recall
    spatial: Tensor | None = None  # (N, S) part of a feature map, flattened (H, W, C): sFID
    logits: Tensor | None = None  # (N, K) inception score, class accuracy

    def rows(self, rows: Tensor) -> "Features":
        """Those of some of the images."""
        spatial = None if self.spatial is None else self.spatial[rows]
        return Features(self.pool[rows], spatial, None if self.logits is None else self.logits[rows])

    @classmethod
    def of_kinds(cls, kinds: Iterable[Sequence[Tensor | None]]) -> "Features":
        """One tensor for each kind, of its parts. `kinds` is read one by one, so that parts can be freed between."""
        pool, spatial, logits = (
            None if kind[0] is None else torch.cat([part for part in kind if part is not None]) for kind in kinds
        )
        assert pool is not None, "every network gives pooled features"
        return cls(pool, spatial, logits)


@dataclass(frozen=True)
class FeatureNetwork:
    """A frozen module that returns (pool, spatial, logits) for (B, H, W, C) uint8 images, as every metric sees it.

    The module always sees exactly `batch_size` images, the last batch filled up with black ones: sums are rounded
    differently in batches of different size, and a metric must not depend on how its caller cut the images.
    """

    name: str  # "inception" only with the published weights; others carry part of their hash
    sha256: str  # of the weights
    module: nn.Module
    image_shape: tuple[int | None, int | None, int | None]  # (H, W, C); None: any
    batch_size: int  # images the module always sees at once
    pool_size: int  # D
    spatial_size: int | None  # S
    num_classes: int | None = None  # of the labels that number its logits; None: they number none here
    accuracy: float | None = None  # on held-out images; None: it was not made for these images

    @property
    def precision(self) -> str:
        """What the module computes in, "fp32" or "fp64"."""
        return f"fp{8 * next(self.module.parameters()).element_size()}"

    def refuse(self, shape: tuple[int, ...]) -> None:
        """Raises DataError unless the network takes images of `shape` (H, W, C)."""
        shape = tuple(shape)
        seen = (*shape[:2], 3) if self.repeats(shape) else shape
        fits = len(shape) == 3 and all(
            side == wanted or (wanted is None and side > 0) for side, wanted in zip(seen, self.image_shape, strict=True)
        )
        if not fits:
            sides = ", ".join(str(wanted or letter) for wanted, letter in zip(self.image_shape, "HWC", strict=True))
            grey = self.image_shape[2] == 1 and shape == (*self.image_shape[:2], 3)
            how = " Or save one channel of them, x[..., :1], if they are grey." if grey else ""
            raise DataError(
                f"the feature network {self.name!r} takes images of shape ({sides}); these are {shape}. "
                f"Evaluate with the feature network that belongs to these images.{how}"
            )

    def repeats(self, shape: tuple[int, ...]) -> bool:
        """Whether these are grey images (H, W, 1) for a network that takes three channels: it sees the one in each."""
        return self.image_shape[2] == 3 and len(shape) == 3 and shape[2] == 1

    def __call__(self, images: Tensor) -> Features:
        """The features of at least one image. Raises DataError for images of another kind."""
        self.refuse(tuple(images.shape[1:]))
        if images.dtype != torch.uint8 or len(images) == 0:
            raise DataError(
                f"the feature network {self.name!r} takes at least one uint8 image; it got {len(images)} of "
                f"{str(images.dtype).removeprefix('torch.')}. Store images as uint8, 0 to 255."
            )
        if self.repeats(tuple(images.shape[1:])):
            images = images.expand(-1, -1, -1, 3)
        device = next(self.module.parameters()).device
        with plain_fp32(device):
            batches = [self._batch(part, device) for part in images.split(self.batch_size)]
        return Features.of_kinds(zip(*batches, strict=True))

    def _batch(self, images: Tensor, device: torch.device) -> list[Tensor | None]:
        missing = self.batch_size - len(images)
        outputs = self.module(F.pad(images.to(device), (0, 0) * 3 + (0, missing)))
        return [None if output is None else output[: len(images)].float().cpu() for output in outputs]
