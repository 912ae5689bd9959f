"""Inception gives the tensors that ADM's evaluator takes of it, and only the published weights get the plain name."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import noise, random_inception
from safetensors.torch import save_file
from torch import nn

from harness.evaluation.networks import inception
from harness.evaluation.networks.base import FeatureNetwork, Features
from harness.system import torchvision_guard
from harness.system.errors import DataError


@pytest.fixture(autouse=True)
def _nowhere_to_find_weights(monkeypatch, no_weights):
    monkeypatch.setattr(inception, "PUBLISHED", replace(inception.PUBLISHED, url="http://127.0.0.1:9/refused.pth"))


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return random_inception(tmp_path_factory.mktemp("weights") / "mine.pth")


@pytest.fixture(scope="module")
def network(file) -> FeatureNetwork:
    """In batches of 4: a pass of 32 images takes 5 seconds."""
    return replace(inception.load(file), batch_size=4)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return noise(6)


@pytest.fixture(scope="module")
def seen(network, images) -> Features:
    return network(images)


@pytest.fixture(scope="module")
def theirs(file) -> nn.Module:
    """torch-fidelity's own extractor, by its own constructor."""
    torchvision_guard.install()
    from torch_fidelity import feature_extractor_inceptionv3

    weights = torch.load(file, weights_only=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_extractor_inceptionv3, "load_state_dict_from_url", lambda *_, **__: weights)
        return feature_extractor_inceptionv3.FeatureExtractorInceptionV3("theirs", ["2048", "logits_unbiased"])


def flat_weights(dtype: torch.dtype = torch.float) -> dict[str, torch.Tensor]:
    """Weights of one number a tensor, whose files are small."""
    with_counts = inception._empty().state_dict()
    numbers = {name: torch.tensor(number / 512) for number, name in enumerate(with_counts)}  # exact as halves
    return {
        name: (numbers[name].to(dtype) if empty.is_floating_point() else torch.tensor(0)).expand(empty.shape)
        for name, empty in with_counts.items()
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("small") / "small.pth"
    torch.save(flat_weights(), path)
    return path


def same(a: Features, b: Features) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def of(seen: Features, which: slice) -> Features:
    return Features(*(part[which] for part in seen))


# What it computes --------------------------------------------------------------------------------------------------


def test_features_are_float32_in_the_sizes_of_adm(network, seen):
    assert [tuple(part.shape) for part in seen] == [(6, 2048), (6, 17 * 17 * 7), (6, 1008)]
    assert (network.pool_size, network.spatial_size, network.num_classes) == (2048, 2023, None)
    assert {(part.dtype, part.requires_grad) for part in seen} == {(torch.float32, False)}
    assert seen.pool.min() >= 0
    assert seen.spatial.min() >= 0  # after the ReLU
    assert seen.pool.std(dim=0).mean() > 0.01  # they tell images apart


def test_pool_and_logits_are_those_of_torch_fidelity_in_the_same_batch(theirs, images, seen):
    pool, logits = theirs(images[:4].permute(0, 3, 1, 2).contiguous())
    assert torch.equal(seen.pool[:4], pool)
    assert torch.equal(seen.logits[:4], logits)


def test_spatial_features_are_the_first_seven_channels_of_mixed_6_conv_in_the_order_height_width_channel(
    theirs, images, seen
):
    x = resized(images[:2]) / 128 - 1
    before = "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 MaxPool_1 Conv2d_3b_1x1 Conv2d_4a_3x3 MaxPool_2"
    for name in [*before.split(), *(f"Mixed_{block}" for block in ("5b", "5c", "5d", "6a", "6b", "6c"))]:
        x = getattr(theirs, name)(x)
    branch = theirs.Mixed_6d.branch1x1
    scale = branch.bn.weight / (branch.bn.running_var + 1e-3).sqrt()
    x = F.conv2d(x, branch.conv.weight) * scale[:, None, None]
    maps = F.relu(x + (branch.bn.bias - branch.bn.running_mean * scale)[:, None, None])[:, :7]  # (2, 7, 17, 17)
    found = seen.spatial[:2].reshape(2, 17, 17, 7)
    assert torch.allclose(found, maps.permute(0, 2, 3, 1), atol=1e-4)
    assert not torch.allclose(found.flatten(1), maps.flatten(1), atol=1e-1)  # and not channel, height, width


def resized(images: torch.Tensor) -> torch.Tensor:  # (B, H, W, 3) uint8 -> (B, 3, 299, 299)
    """TensorFlow 1's bilinear interpolation without aligned corners, in its own words and float64."""
    x = images.permute(0, 3, 1, 2).double().numpy()
    for axis in (2, 3):
        side = x.shape[axis]
        at = np.arange(299) * (side / 299)
        low = np.floor(at).astype(int)
        share = (at - low)[:, None] if axis == 2 else at - low
        x = x.take(low, axis) * (1 - share) + x.take(np.minimum(low + 1, side - 1), axis) * share
    return torch.from_numpy(x).float()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (30, 500), (299, 299)])
def test_images_of_any_size_are_resized_as_tensorflow_1_does_it(network, height, width):
    first, given = network.module.extractor.Conv2d_1a_3x3, []
    hook = first.register_forward_pre_hook(lambda module, inputs: given.extend(inputs))
    images = noise(1, height, width)
    try:
        assert replace(network, batch_size=1)(images).pool.shape == (1, 2048)
    finally:
        hook.remove()
    assert len(given) == 1  # pool, spatial and logits are of one pass
    assert torch.allclose(given[0], resized(images) / 128 - 1, atol=1e-5)


def test_logits_have_no_bias(network, seen):
    last = network.module.extractor.fc
    assert last.bias.abs().max() > 0.05
    assert torch.allclose(seen.logits, seen.pool @ last.weight.T, atol=1e-5)


def test_features_depend_neither_on_the_other_images_nor_on_how_the_caller_cuts_them(network, images, seen):
    assert same(network(images[1:3]), of(seen, slice(1, 3)))  # alone with black images
    assert same(network(images.flip(0)[:4]), of(Features(*(part.flip(0) for part in seen)), slice(0, 4)))


def test_nothing_of_a_pass_stays_in_the_network_even_when_it_fails(network):
    branch = network.module.extractor.Mixed_6d.branch1x1
    assert not branch._forward_hooks
    with pytest.raises(ValueError, match="Expecting image"):
        network.module(torch.zeros(1, 8, 8, 3))
    assert not branch._forward_hooks


# Weights -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def as_if_published(monkeypatch, small) -> str:
    """The published file, as if it had been the small one."""
    digest = hashlib.sha256(small.read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "PUBLISHED", replace(inception.PUBLISHED, sha256=digest))
    return digest


def test_only_the_published_weights_get_the_plain_name(small, network, tmp_path, as_if_published):
    place = inception.PUBLISHED.home
    place.parent.mkdir(parents=True)
    os.link(small, place)
    for found in (inception.load(), inception.load(str(small))):
        assert (found.name, found.sha256, found.batch_size) == ("inception", as_if_published, 32)
    assert network.name == f"inception-{network.sha256[:8]}"


@pytest.mark.parametrize("kind", ["safetensors", "older torch.save", "halves", "doubles", "no counters", "trainable"])
def test_a_state_dict_is_read_in_any_form(tmp_path, kind):
    given = flat_weights({"halves": torch.half, "doubles": torch.double}.get(kind, torch.float))
    path = tmp_path / ("mine.safetensors" if kind == "safetensors" else "mine.pth")
    if kind == "no counters":
        given = {name: weight for name, weight in given.items() if "num_batches_tracked" not in name}
    if kind == "trainable":
        given = {name: nn.Parameter(w) if w.is_floating_point() else w for name, w in given.items()}
    if kind == "safetensors":
        save_file({name: weight.contiguous() for name, weight in given.items()}, path)
    else:
        torch.save(given, path, _use_new_zipfile_serialization=kind != "older torch.save")
    found = inception.load(path)
    assert found.name == f"inception-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
    tensors = found.module.extractor.state_dict()
    assert tensors.keys() == flat_weights().keys()
    assert all(torch.allclose(tensors[name].double(), weight.double(), atol=1e-6) for name, weight in given.items())
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float, torch.long}
    assert not any(parameter.requires_grad for parameter in found.module.parameters())
    assert not any(part.training for part in found.module.extractor.modules())


def test_random_weights_are_the_same_everywhere_and_leave_the_callers_random_state_alone(images):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    network = inception.load("random")
    assert torch.equal(torch.rand(1), expected)
    assert (network.name, network.sha256[:8]) == ("inception-random", "6a725aee")
    assert replace(network, batch_size=2)(images[:2]).pool.std(dim=0).mean() > 0.01


class CreatesAFile:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path):
    trace = tmp_path / "it ran"
    for zipped in (True, False):
        path = tmp_path / "theirs.pth"
        torch.save({"weights": CreatesAFile(trace)}, path, _use_new_zipfile_serialization=zipped)
        assert b"touch" in path.read_bytes()
        with pytest.raises(DataError, match=r"theirs\.pth is refused: .* whose code is never run") as refused:
            inception.load(path)
        assert "\n" not in str(refused.value)
        assert "weights_only" not in str(refused.value)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is refused: it is damaged"),
        (b"0" * 100, "is refused: it is damaged"),
        (b"PK\x03\x04" + b"0" * 100, "is refused: it is damaged"),
        (b"\x80\x02}q\x00", "is refused: it is damaged"),
        (None, "cannot be read: No such file or directory"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_is_damaged_or_absent_is_refused_in_one_line(tmp_path, content, message, suffix):
    path = tmp_path / f"mine{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as refused:
        inception.load(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("fc.bias"), r"Missing key\(s\) in state_dict: \"fc.bias\""),
        (lambda weights: weights.update(more=torch.ones(1)), r"Unexpected key\(s\) in state_dict: \"more\""),
        (lambda weights: weights.update({"fc.bias": torch.ones(1000)}), "size mismatch for fc.bias"),
        (lambda weights: weights.update(epoch=3), "holds more than named tensors"),
        (lambda weights: weights.clear(), r"Missing key\(s\)"),
    ],
)
def test_weights_of_another_network_are_refused_in_one_line(tmp_path, change, message):
    weights = flat_weights()
    change(weights)
    torch.save(weights, tmp_path / "theirs.pth")
    with pytest.raises(DataError, match=message) as refused:
        inception.load(tmp_path / "theirs.pth")
    assert "\n" not in str(refused.value)
