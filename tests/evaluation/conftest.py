"""One trained feature network for all tests of this folder."""

import pytest

from harness.data.sources import Dataset
from harness.evaluation import features
from harness.evaluation.features import FeatureNetwork, Features
from harness.evaluation.images import to_uint8


@pytest.fixture(scope="session")
def network(cache) -> FeatureNetwork:
    return features.load("digits")


@pytest.fixture(scope="session")
def real(network: FeatureNetwork, digits: Dataset) -> Features:
    return network(to_uint8(digits.clean))
