"""Data and a cache that many tests share."""

import pytest
import torch

from harness.data import sources
from harness.model.shape import Shape

torch.set_num_threads(1)  # the networks are so small that a second thread costs more than it gives


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """A cache of the tests' own, also for the processes they start: the user's is neither read nor written."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def digits() -> sources.Dataset:
    return sources.load("digits")


@pytest.fixture
def shape() -> Shape:
    return Shape(channels=2, side=8, num_classes=5, patch=2, width=16, depth=3, num_heads=2)
