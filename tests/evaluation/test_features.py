import dataclasses
import re

import pytest
import torch
from torch import nn

from harness.data.images.uint8 import to_uint8
from harness.data.sources import Dataset
from harness.evaluation.networks import features
from harness.evaluation.networks.base import FeatureNetwork, Features
from harness.recipes import metric_names
from harness.system.errors import DataError, UsageError


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


def counting(**changes) -> FeatureNetwork:
    network = FeatureNetwork("counting", "", CountsItsBatch(), (2, 2, 1), batch_size=4, pool_size=1, spatial_size=1)
    return dataclasses.replace(network, **changes)


def test_a_module_always_sees_full_batches_and_each_image_keeps_its_place():
    images = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1).expand(10, 2, 2, 1)
    seen = counting()(images)
    assert seen.pool.unique().tolist() == [4]
    assert seen.spatial.flatten().tolist() == list(range(10))


class OnlyPools(CountsItsBatch):
    def forward(self, images):
        return super().forward(images)[0], None, None


def test_what_a_network_does_not_have_is_none():
    seen = counting(module=OnlyPools(), spatial_size=None)(torch.zeros(6, 2, 2, 1, dtype=torch.uint8))
    assert (seen.pool.shape, seen.spatial, seen.logits) == ((6, 1), None, None)
    assert Features(seen.pool) == seen


class TellsItsPrecision(CountsItsBatch):
    def forward(self, images):
        product = images[:, 0, 0, :1].float() @ self.weight[None, None]
        state = (product.dtype, torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
        assert state == (torch.float32, "highest", False)
        return super().forward(images)


def test_the_precision_around_it_is_kept_out_and_left_as_it_was():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            counting(module=TellsItsPrecision())(torch.zeros(3, 2, 2, 1, dtype=torch.uint8))
            assert torch.is_autocast_enabled("cpu")
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("medium", True)
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.parametrize("shape", [(8, 8, 3), (1, 8, 8), (8, 8), (8, 8, 1, 1)])
def test_images_of_another_shape_are_refused_with_the_shape_they_should_have(network, shape):
    message = rf"'digits' takes images of shape \(8, 8, 1\); these are {re.escape(str(shape))}"
    with pytest.raises(DataError, match=message):
        network.refuse(shape)
    with pytest.raises(DataError, match=message):
        network(torch.zeros(3, *shape, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("shape", "fits"), [((2, 9, 3), True), ((2, 9, 1), True), ((2, 9, 2), False), ((0, 9, 3), False)]
)
def test_a_side_may_be_any_but_none(shape, fits):
    network = counting(image_shape=(None, None, 3))
    if fits:
        network.refuse(shape)
    else:
        with pytest.raises(DataError, match=r"takes images of shape \(H, W, 3\)"):
            network.refuse(shape)


def test_a_network_of_three_channels_sees_the_one_of_grey_images_in_each():
    network, grey = counting(image_shape=(None, None, 3)), torch.arange(16, dtype=torch.uint8).reshape(2, 2, 4, 1)
    assert network.repeats((2, 4, 1))
    assert not network.repeats((2, 4, 3))
    assert torch.equal(network(grey).pool, network(grey.expand(-1, -1, -1, 3)).pool)


@pytest.mark.parametrize("images", [torch.zeros(3, 8, 8, 1), torch.zeros(0, 8, 8, 1, dtype=torch.uint8)])
def test_floats_and_no_images_are_refused(network, images):
    with pytest.raises(DataError, match="takes at least one uint8 image; it got"):
        network(images)


@pytest.mark.parametrize("call", [features.load, metric_names.require_network])
def test_an_unknown_feature_network_is_answered_with_the_known_ones(call):
    with pytest.raises(UsageError, match=r"no feature network is called 'digit'. Did you mean digits\?"):
        call("digit")


def test_every_feature_network_has_a_name_that_can_be_asked_for_without_loading_it():
    made_here = {metric_names.DIGITS, metric_names.OWN}
    assert set(features._LOADERS) | made_here == set(metric_names.FEATURE_NETWORKS)
    for name in metric_names.FEATURE_NETWORKS:
        metric_names.require_network(name)


def test_a_network_is_loaded_once_a_process(network):
    assert features.load("digits") is network
    assert features.load("digits", None, torch.device("cpu")) is network
    assert (network.num_classes, network.batch_size) == (10, 256)


@pytest.mark.parametrize("weights", ["random", "mine.pth"])
def test_the_digits_network_takes_no_weights(weights):
    with pytest.raises(UsageError, match=r"the feature network digits trains its own weights .* Leave --weights out"):
        features.load("digits", weights)


@pytest.mark.parametrize(("name", "size"), [("inception", 2048), ("dinov2", 32), ("clip", 24)])
def test_every_published_network_can_be_had_with_random_weights(name, size):
    if name != "inception":
        pytest.importorskip("transformers", reason="the extra `vit` is not installed")
    network = features.load(name, "random")
    assert (network.name, network.pool_size, network.num_classes) == (f"{name}-random", size, None)
    network.refuse((16, 24, 3))
