import pytest
import torch
from torch import nn

from harness.data.sources import Dataset
from harness.errors import DataError, UsageError
from harness.evaluation import features
from harness.evaluation.features import FeatureNetwork, Features, TappedNetwork
from harness.evaluation.images import to_uint8


class CountsItsBatch(nn.Module):
    """Returns the number of images it saw at once and each image's first pixel."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images):
        first = images[:, 0, 0, :1].double() * self.weight
        return torch.full_like(first, len(images)), first, first


def test_features_are_float32_on_the_cpu_in_the_sizes_the_network_states(network: FeatureNetwork, real: Features):
    assert [tuple(part.shape) for part in real] == [(1797, network.pool_size), (1797, network.spatial_size), (1797, 10)]
    assert {(part.dtype, part.device.type, part.requires_grad) for part in real} == {(torch.float32, "cpu", False)}


@pytest.mark.parametrize("size", [7, 100, 256])
def test_features_do_not_depend_on_how_the_caller_cuts_the_images(network, real, digits: Dataset, size):
    images = to_uint8(digits.clean)[:300]
    parts = [network(images[start : start + size]) for start in range(0, 300, size)]
    for whole, cut in zip(real, zip(*parts, strict=True), strict=True):
        assert torch.equal(torch.cat(cut), whole[:300])


def test_a_module_always_sees_full_batches_and_each_image_keeps_its_place():
    network = TappedNetwork("counting", "", CountsItsBatch(), (2, 2, 1), pool_size=1, spatial_size=1, batch_size=4)
    images = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1).expand(10, 2, 2, 1)
    seen = network(images)
    assert seen.pool.unique().tolist() == [4]
    assert seen.spatial.flatten().tolist() == list(range(10))


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(3, 8, 8, 3, dtype=torch.uint8),
        torch.zeros(3, 1, 8, 8, dtype=torch.uint8),
        torch.zeros(3, 8, 8, 1),
        torch.zeros(0, 8, 8, 1, dtype=torch.uint8),
    ],
    ids=["colour", "channels first", "floats", "none"],
)
def test_images_of_another_kind_are_refused_with_the_shape_they_should_have(network, images):
    with pytest.raises(DataError, match=r"takes uint8 images of shape \(N, 8, 8, 1\)"):
        network(images)


def test_an_unknown_feature_network_is_answered_with_the_known_ones():
    with pytest.raises(UsageError, match=r"no feature network is called 'digit'. Did you mean digits\?"):
        features.load("digit")
    features.require("digits")
