import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.data import classifier
from harness.data.classifier import DIGITS, Recipe, load, refuse, train
from harness.data.dataset import Dataset, InMemory
from harness.evaluation.images.image_set import DataImages
from harness.evaluation.networks import features
from harness.evaluation.networks.base import FeatureNetwork, Features
from harness.system.errors import DataError, UsageError

SHORT = Recipe(steps=5)


@pytest.fixture
def short(monkeypatch, tmp_path) -> Path:
    """The empty cache folder of a classifier that is trained in no time."""
    monkeypatch.setattr(classifier, "DIGITS", SHORT)
    monkeypatch.setattr(classifier, "OWN", SHORT)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    return tmp_path


def cached(folder: Path) -> Path:
    [path] = folder.iterdir()
    return path


def test_it_recognises_digits_it_has_not_seen_and_those_it_has(network, real: Features, digits: Dataset):
    assert load().held_out_accuracy >= 0.98
    assert (real.logits.argmax(1) == digits.labels).double().mean() >= 0.98


def test_the_network_of_the_digits_is_the_one_behind_every_committed_distance(network):
    """It is made here, so another hash would put distances of today beside others of before."""
    [sha256] = {
        evaluation["protocol"]["features_sha256"]
        for path in Path(__file__, "../../../reports/tiny").resolve().rglob("result.json")
        for evaluation in json.loads(path.read_text())["evaluations"].values()
    }
    assert network.sha256 == sha256


def test_training_again_gives_the_same_weights(network: FeatureNetwork, digits: Dataset):
    assert train(digits, DIGITS).sha256 == network.sha256


def test_training_neither_reads_nor_changes_global_state(digits: Dataset):
    expected, threads = train(digits, SHORT).sha256, torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.manual_seed(1)
        states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 (the global one is meant)
        with torch.no_grad():
            assert train(digits, SHORT).sha256 == expected
        assert torch.equal(torch.get_rng_state(), states[0])
        assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
        assert torch.get_num_threads() == 2
        with pytest.raises(RuntimeError):
            train(digits, Recipe(batch_size=-1))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_weights_lie_on_a_grid_so_that_the_last_bits_of_a_processor_cannot_show(digits: Dataset):
    for weight in train(digits, SHORT).module.state_dict().values():
        assert torch.equal(weight / SHORT.weight_step, (weight / SHORT.weight_step).round())


def test_it_can_be_trained_while_sampling_in_inference_mode(short):
    with torch.inference_mode():
        assert load().sha256 == load().sha256


def test_the_cache_gives_back_what_was_trained(short, digits: Dataset, monkeypatch):
    trained = load()
    monkeypatch.setattr(classifier, "train", None)
    again = load()
    assert (again.sha256, again.held_out_accuracy) == (trained.sha256, trained.held_out_accuracy)
    images = torch.arange(256, dtype=torch.uint8).reshape(4, 8, 8, 1)
    for one, other in zip(trained.module(images), again.module(images), strict=True):
        assert torch.equal(one, other)


def test_another_recipe_does_not_find_this_recipe_s_weights(short, monkeypatch):
    first = load()
    monkeypatch.setattr(classifier, "DIGITS", Recipe(steps=6))
    assert load().sha256 != first.sha256
    assert len(list(short.iterdir())) == 2


# Of other images ----------------------------------------------------------------------------------------------------


def images_of(count: int, side: int, channels: int, num_classes: int) -> InMemory:
    """Images of one brightness a class, with noise."""
    generator = torch.Generator().manual_seed(side)
    labels = torch.arange(count) % num_classes
    level = labels.float() / (num_classes - 1) * 1.6 - 0.8
    noise = torch.rand(count, channels, side, side, generator=generator) * 0.4 - 0.2
    return InMemory("mine", level[:, None, None, None] + noise, labels, num_classes)


@pytest.mark.parametrize(("side", "channels", "num_classes"), [(8, 3, 2), (15, 1, 7), (28, 1, 3), (64, 3, 5)])
def test_any_small_images_give_features_of_the_sizes_that_the_network_says(short, side, channels, num_classes):
    data = images_of(60, side, channels, num_classes)
    network = features._trained("own", data, load(data), torch.device("cpu"))
    found = network(DataImages(data).read(0, 60))
    assert (network.name, network.num_classes) == ("own", num_classes)
    assert found.pool.shape == (60, network.pool_size)
    assert found.spatial.shape == (60, network.spatial_size)
    assert found.logits.shape == (60, num_classes)
    assert network.spatial_size <= 7 * 8 * 8
    network.refuse((side, side, channels))
    with pytest.raises(DataError):
        network.refuse((side + 1, side, channels))


def test_a_network_of_one_s_own_learns_its_classes_and_is_judged_on_images_held_out(short, monkeypatch):
    monkeypatch.setattr(classifier, "OWN", Recipe(steps=60))
    data, other = images_of(200, 16, 3, 4), images_of(40, 16, 3, 4)
    left_out = load(data)
    assert (left_out.held_out_images, left_out.held_out_accuracy > 0.9) == (40, True)
    data.held_out = other
    trained = load(data)
    assert trained.held_out_accuracy > 0.9
    other.labels = (other.labels + 1) % 4
    wrong = train(data, classifier.OWN)
    assert (wrong.sha256, wrong.held_out_accuracy < 0.1) == (trained.sha256, True), "held-out images train nothing"
    assert left_out.sha256 != trained.sha256


def test_other_images_get_a_network_of_their_own_and_equal_ones_the_cached(short, monkeypatch):
    one, same, other = images_of(60, 8, 1, 2), images_of(60, 8, 1, 2), images_of(61, 8, 1, 2)
    first, second = load(one), load(other)
    assert first.sha256 != second.sha256
    monkeypatch.setattr(classifier, "train", None)
    assert load(same).sha256 == first.sha256


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (images_of(49, 8, 1, 2), "it has 49 images to train on, and 50 are the fewest"),
        (InMemory("mine", torch.zeros(60, 1, 8, 8), torch.zeros(60, dtype=torch.long), 1), "all of one class"),
        (images_of(60, 7, 1, 2), "its images are 7 x 7 pixels, and it takes 8 to 64 a side"),
        (images_of(60, 65, 1, 2), "its images are 65 x 65 pixels"),
        (images_of(60, 8, 4, 2), "it does not hold images"),
    ],
)
def test_what_no_network_can_be_made_of_is_refused_with_the_reason(data, reason):
    with pytest.raises(DataError, match=f"no feature network of its own can be made of mine: .*{reason}"):
        refuse(data)


def test_without_training_images_there_is_no_network_of_one_s_own():
    with pytest.raises(UsageError, match="made of the images that a run trains on, and none are named"):
        features.load("own")


# The cache ------------------------------------------------------------------------------------------------------------


def flip_a_bit_of_the_weights(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def drop_the_checksum(path: Path) -> None:
    save_file(load_file(path), path)


DAMAGES = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "cut in its header": lambda path: path.write_bytes(path.read_bytes()[:20]),
    "empty": lambda path: path.write_bytes(b""),
    "overwritten": lambda path: path.write_text("not weights at all"),
    "one bit flipped": flip_a_bit_of_the_weights,
    "without checksum": drop_the_checksum,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cache_is_reported_and_trained_again(short, caplog, monkeypatch, damage):
    sha256 = load().sha256
    damage(cached(short))
    with caplog.at_level(logging.WARNING):
        assert load().sha256 == sha256
    [record] = caplog.records
    assert str(cached(short)) in record.getMessage()
    assert "training it again" in record.getMessage()
    monkeypatch.setattr(classifier, "train", None)
    assert load().sha256 == sha256  # the sound file has taken the damaged one's place


def test_a_cache_folder_that_cannot_be_written_costs_a_warning_only(short, caplog, monkeypatch):
    (short / "file").write_text("")
    monkeypatch.setenv("HARNESS_CACHE", str(short / "file" / "folder"))
    load()
    assert "cannot be cached" in caplog.records[-1].getMessage()
    assert "Set HARNESS_CACHE to another folder" in caplog.records[-1].getMessage()


def test_two_processes_that_train_at_once_leave_one_sound_file(short, caplog, monkeypatch):
    """The other one trains and writes its file while this one has written but not yet renamed its own."""
    others, rename = [], os.replace

    def rename_late(temporary: Path, path: Path) -> None:
        monkeypatch.setattr(os, "replace", rename)
        others.append(load().sha256)
        rename(temporary, path)

    monkeypatch.setattr(os, "replace", rename_late)
    assert [load().sha256] == others
    monkeypatch.setattr(classifier, "train", None)
    assert [load().sha256] == others
    assert cached(short).suffix == ".safetensors"
    assert not caplog.records
