"""The feature networks by name."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch

from harness.evaluation.networks import digits_classifier, inception, transformers_networks
from harness.evaluation.networks.base import FeatureNetwork, TappedNetwork
from harness.recipes.metric_names import require_network
from harness.system.errors import UsageError


def _digits(weights: str | Path | None, device: torch.device) -> FeatureNetwork:
    if weights is not None:
        raise UsageError(
            f"the feature network digits trains its own weights and takes no others, {weights} or any. "
            "Leave --weights out."
        )
    trained = digits_classifier.load()
    return TappedNetwork(
        name="digits",
        sha256=trained.sha256,
        module=trained.module.to(device),
        image_shape=digits_classifier.IMAGE_SHAPE,
        batch_size=256,
        pool_size=digits_classifier.POOL_SIZE,
        spatial_size=digits_classifier.SPATIAL_SIZE,
        classes_of="digits",
    )


_LOADERS: dict[str, Callable[[str | Path | None, torch.device], FeatureNetwork]] = {
    "digits": _digits,
    "inception": inception.load,
    "dinov2": transformers_networks.load_dinov2,
    "clip": transformers_networks.load_clip,
}


def load(name: str, weights: str | Path | None = None, device: torch.device | str = "cpu") -> FeatureNetwork:
    """The feature network called `name`, loaded once a process.

    `weights`: None for the published ones, "random" for untrained ones, else a file. Raises UsageError when there is no
    such network, SetupError when its published weights cannot be had, DataError when a file is damaged or of another
    network.
    """
    require_network(name)
    return _loaded(name, None if weights is None else str(weights), torch.device(device))


@lru_cache(maxsize=4)  # a run evaluates several times; more networks than these no run needs
def _loaded(name: str, weights: str | None, device: torch.device) -> FeatureNetwork:
    return _LOADERS[name](weights, device)
