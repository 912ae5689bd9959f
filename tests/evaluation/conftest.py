"""One trained feature network for all tests, in a cache of their own: the user's is neither read nor written."""

import pytest

from harness.data.sources import Dataset
from harness.evaluation import features
from harness.evaluation.features import FeatureNetwork, Features
from harness.evaluation.images import to_uint8


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def network(cache) -> FeatureNetwork:
    return features.load("digits")


@pytest.fixture(scope="session")
def real(network: FeatureNetwork, digits: Dataset) -> Features:
    return network(to_uint8(digits.clean))
