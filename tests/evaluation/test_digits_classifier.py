import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.data.sources import Dataset
from harness.evaluation.networks import digits_classifier
from harness.evaluation.networks.base import FeatureNetwork, Features
from harness.evaluation.networks.digits_classifier import RECIPE, Recipe, load, train

SHORT = Recipe(steps=5)


@pytest.fixture
def short(monkeypatch, tmp_path) -> Path:
    """The empty cache folder of a classifier that is trained in no time."""
    monkeypatch.setattr(digits_classifier, "RECIPE", SHORT)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    return tmp_path


def cached(folder: Path) -> Path:
    [path] = folder.iterdir()
    return path


def test_it_recognises_digits_it_has_not_seen_and_those_it_has(network, real: Features, digits: Dataset):
    assert load().held_out_accuracy >= 0.98
    assert (real.logits.argmax(1) == digits.labels).double().mean() >= 0.98


def test_training_again_gives_the_same_weights(network: FeatureNetwork, digits: Dataset):
    assert train(digits, RECIPE).sha256 == network.sha256


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
    monkeypatch.setattr(digits_classifier, "train", None)
    again = load()
    assert (again.sha256, again.held_out_accuracy) == (trained.sha256, trained.held_out_accuracy)
    images = torch.arange(256, dtype=torch.uint8).reshape(4, 8, 8, 1)
    for one, other in zip(trained.module(images), again.module(images), strict=True):
        assert torch.equal(one, other)


def test_another_recipe_does_not_find_this_recipe_s_weights(short, monkeypatch):
    first = load()
    monkeypatch.setattr(digits_classifier, "RECIPE", Recipe(steps=6))
    assert load().sha256 != first.sha256
    assert len(list(short.iterdir())) == 2


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
    monkeypatch.setattr(digits_classifier, "train", None)
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
    monkeypatch.setattr(digits_classifier, "train", None)
    assert [load().sha256] == others
    assert cached(short).suffix == ".safetensors"
    assert not caplog.records
