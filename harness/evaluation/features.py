"""Feature networks: what stands between images and every metric.

N images, B images of an internal batch, D, S and K numbers of pooled, spatial and class outputs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import DataError, SetupError, unknown
from harness.evaluation import digits_classifier


class Features(NamedTuple):
    """What the metrics read, all float32 on the CPU."""

    pool: Tensor  # (N, D) averaged over the image: Frechet distance, precision, recall
    spatial: Tensor  # (N, S) part of a feature map, flattened (H, W, C): sFID
    logits: Tensor  # (N, K) inception score, class accuracy


class FeatureNetwork(Protocol):
    """A frozen network with a name for the metric and a hash for the record."""

    @property
    def name(self) -> str: ...
    @property
    def sha256(self) -> str: ...  # of the weights
    @property
    def image_shape(self) -> tuple[int, int, int]: ...  # (H, W, C)
    @property
    def pool_size(self) -> int: ...  # D
    @property
    def spatial_size(self) -> int: ...  # S

    def __call__(self, images: Tensor) -> Features: ...  # (N, H, W, C) uint8


@dataclass(frozen=True)
class TappedNetwork:
    """A FeatureNetwork made of a module that returns (pool, spatial, logits) for (B, H, W, C) uint8 images.

    The module always sees exactly `batch_size` images, the last batch filled up with black ones: sums are rounded
    differently in batches of different size, and a metric must not depend on how its caller cut the images.
    """

    name: str
    sha256: str
    module: nn.Module
    image_shape: tuple[int, int, int]  # (H, W, C)
    pool_size: int
    spatial_size: int
    batch_size: int

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Raises DataError when there is no image, or when they are not uint8 images of `image_shape`."""
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != self.image_shape or len(images) == 0:
            raise DataError(
                f"the feature network {self.name!r} takes uint8 images of shape (N, {self._shape_text}), N at least 1; "
                f"it got {str(images.dtype).removeprefix('torch.')} of shape {tuple(images.shape)}. "
                "Evaluate with the feature network that belongs to these images."
            )
        batches = [self._batch(images[i : i + self.batch_size]) for i in range(0, len(images), self.batch_size)]
        return Features(*(torch.cat(parts) for parts in zip(*batches, strict=True)))

    @property
    def _shape_text(self) -> str:
        return ", ".join(map(str, self.image_shape))

    def _batch(self, images: Tensor) -> tuple[Tensor, ...]:
        missing = self.batch_size - len(images)
        device = next(self.module.parameters()).device
        outputs = self.module(F.pad(images, (0, 0) * 3 + (0, missing)).to(device))
        return tuple(output[: len(images)].float().cpu() for output in outputs)


def _digits() -> FeatureNetwork:
    trained = digits_classifier.load()
    return TappedNetwork(
        name="digits",
        sha256=trained.sha256,
        module=trained.module,
        image_shape=digits_classifier.IMAGE_SHAPE,
        pool_size=digits_classifier.POOL_SIZE,
        spatial_size=digits_classifier.SPATIAL_SIZE,
        batch_size=256,
    )


_NETWORKS: dict[str, Callable[[], FeatureNetwork]] = {"digits": _digits}
PLANNED = ("inception",)  # what the papers' evaluations name; recipes say so, and this version cannot measure with it


def names() -> list[str]:
    return sorted(_NETWORKS)


def require(name: str) -> None:
    """Raises UsageError with the nearest names when there is no feature network called `name`. Loads nothing."""
    if name not in _NETWORKS and name not in PLANNED:
        raise unknown("feature network", name, names())


def require_available(name: str) -> None:
    """As `require`; raises SetupError for a network that recipes name and this version does not have. Loads nothing."""
    require(name)
    if name in PLANNED:
        raise SetupError(
            f"this version cannot evaluate with {name} features yet. Train with --no-eval; `harness sample` draws "
            "images."
        )


def load(name: str) -> FeatureNetwork:
    """The feature network called `name`. Raises UsageError when there is none."""
    require_available(name)
    return _NETWORKS[name]()
