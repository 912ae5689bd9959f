"""One trained feature network for all tests of this folder."""

import pytest

from harness.data.images.uint8 import to_uint8
from harness.data.sources import Dataset
from harness.evaluation.networks import features
from harness.evaluation.networks.base import FeatureNetwork, Features


@pytest.fixture(scope="session")
def network(cache) -> FeatureNetwork:
    return features.load("digits")


@pytest.fixture(scope="session")
def real(network: FeatureNetwork, digits: Dataset) -> Features:
    return network(to_uint8(digits.clean))
