"""The feature networks by name."""

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import torch

from harness.data import classifier, sources
from harness.data.dataset import Dataset
from harness.evaluation.networks import inception, transformers_networks
from harness.evaluation.networks.base import FeatureNetwork
from harness.model.nn.classifier import POOL_SIZE
from harness.recipes.metric_names import DIGITS, OWN, require_network
from harness.system.errors import UsageError


def _trained(name: str, data: Dataset, trained: classifier.Trained, device: torch.device) -> FeatureNetwork:
    return FeatureNetwork(
        name=name,
        sha256=trained.sha256,
        module=trained.module.to(device),
        image_shape=(data.side, data.side, data.channels),
        batch_size=256,
        pool_size=POOL_SIZE,
        spatial_size=trained.module.spatial_size,
        num_classes=data.num_classes,
        accuracy=trained.held_out_accuracy if name == OWN else None,
    )


_LOADERS: dict[str, Callable[[str | Path | None, torch.device], FeatureNetwork]] = {
    "inception": inception.load,
    **{name: partial(transformers_networks.load, name) for name in transformers_networks.ARCHITECTURES},
}


def load(
    name: str,
    weights: str | Path | None = None,
    device: torch.device | str = "cpu",
    data: Dataset | None = None,
) -> FeatureNetwork:
    """The feature network called `name`, loaded once a process.

    `weights`: None for the published ones, "random" for untrained ones, else a file. `data` are the training images of
    which "own" is made. Raises UsageError when there is no such network, SetupError when its published weights cannot
    be had, DataError when a file is damaged or of another network, or when `data` are none to make one of.
    """
    require_network(name)
    if name == OWN and data is None:
        raise UsageError(
            f"the feature network {OWN} is made of the images that a run trains on, and none are named. Measure a run, "
            "or name a data set with --reference."
        )
    return _loaded(name, None if weights is None else str(weights), torch.device(device), data if name == OWN else None)


@lru_cache(maxsize=4)  # a run evaluates several times; more networks than these no run needs
def _loaded(name: str, weights: str | None, device: torch.device, data: Dataset | None) -> FeatureNetwork:
    if name not in (OWN, DIGITS):
        return _LOADERS[name](weights, device)
    if weights is not None:
        raise UsageError(
            f"the feature network {name} trains its own weights and takes no others, {weights} or any. "
            "Leave --weights out."
        )
    return _trained(name, data or sources.digits(), classifier.load(data), device)
