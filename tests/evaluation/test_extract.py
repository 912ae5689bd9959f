"""Features of a set of images: the same however they are cut, shared out or interrupted, and extracted once."""

import dataclasses

import pytest
import torch
from tensor_images import TensorImages

from harness.data.images.uint8 import to_uint8
from harness.evaluation.networks import extract
from harness.evaluation.networks.base import FeatureNetwork, Features
from harness.system.errors import DataError
from harness.system.processes.world import World


class Counting:
    """A feature network that counts the images it was asked for."""

    def __init__(self, network: FeatureNetwork):
        self._network, self.seen = network, 0

    def __getattr__(self, name):
        return getattr(self._network, name)

    def __call__(self, images):
        self.seen += len(images)
        return self._network(images)


class Alone(World):
    """A process of two that has nobody to wait for."""

    def wait(self):
        pass

    def gathered(self, value):
        return [value]


@pytest.fixture
def images(digits):
    return TensorImages("digits", to_uint8(digits.clean))


@pytest.fixture
def counting(network):
    return Counting(network)


def same(a: Features, b: Features) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_features_of_a_set_are_the_network_s_in_order(images, real, network, tmp_path):
    told = []
    assert same(extract.features_of(images, network, tmp_path, advance=told.append), real)
    assert told[-1] == len(images)


def test_features_are_extracted_once(images, real, counting, tmp_path):
    assert extract.known(tmp_path, len(images)) is None
    extract.features_of(images, counting, tmp_path)
    assert counting.seen == len(images)
    assert same(extract.features_of(images, counting, tmp_path), real)
    assert same(extract.known(tmp_path, len(images)), real)
    assert counting.seen == len(images)


def test_a_cache_that_cannot_be_written_costs_a_warning_and_another_folder_an_error(
    images, real, network, tmp_path, caplog, monkeypatch
):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "cache"
    monkeypatch.setenv("HARNESS_CACHE", str(folder))
    assert same(extract.features_of(images, network, extract.cache()), real)
    assert "features cannot be kept" in caplog.text
    assert "set HARNESS_CACHE to another folder" in caplog.text
    monkeypatch.delenv("HARNESS_CACHE")
    with pytest.raises(DataError, match="cannot be written"):
        extract.features_of(images, network, folder)


def test_what_one_process_cannot_keep_reaches_the_main_one(images, real, network, tmp_path, monkeypatch):
    """With a cache that cannot be written, the parts of the other processes are not there to be read."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "file" / "cache"))
    sent = []

    class Second(Alone):
        def gathered(self, value):
            sent.append(value)
            return [value]

    class First(Alone):
        def gathered(self, value):
            return [value, *sent]

    assert extract.features_of(images, network, extract.cache(), world=Second(1, 2, 1, 2)) is None
    assert same(extract.features_of(images, network, extract.cache(), world=First(0, 2, 0, 2)), real)


def test_a_damaged_part_is_extracted_again(images, real, counting, tmp_path):
    extract.features_of(images, counting, tmp_path)
    damaged = sorted(tmp_path.iterdir())[1]
    content = bytearray(damaged.read_bytes())
    content[-5] ^= 1
    damaged.write_bytes(content)
    assert extract.known(tmp_path, len(images)) is None
    counting.seen = 0
    assert same(extract.features_of(images, counting, tmp_path), real)
    assert counting.seen == extract.PART_IMAGES


def test_after_an_interruption_only_the_missing_parts_are_extracted(images, real, counting, tmp_path):
    extract.features_of(images, counting, tmp_path)
    sorted(tmp_path.iterdir())[-1].unlink()
    counting.seen = 0
    assert same(extract.features_of(images, counting, tmp_path), real)
    assert counting.seen == len(images) % extract.PART_IMAGES


def test_two_processes_share_the_parts_and_the_main_one_has_all(images, real, network, tmp_path):
    """What two processes do, one after the other."""
    one, zero = Counting(network), Counting(network)
    assert extract.features_of(images, one, tmp_path, world=Alone(1, 2)) is None
    assert same(extract.features_of(images, zero, tmp_path, world=Alone(0, 2)), real)
    assert (one.seen, zero.seen) == (len(images) - 2 * extract.PART_IMAGES, 2 * extract.PART_IMAGES)


def test_features_are_kept_by_what_decides_them(network, tmp_path):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    other = dataclasses.replace(network, sha256="0" * 64)
    places = {
        extract.kept_in(tmp_path, "a" * 64, network, cpu),
        extract.kept_in(tmp_path, "b" * 64, network, cpu),
        extract.kept_in(tmp_path, "a" * 64, network, gpu),
        extract.kept_in(tmp_path, "a" * 64, other, cpu),
        extract.kept_in(tmp_path, "a" * 64, dataclasses.replace(network, batch_size=7), cpu),
    }
    assert len(places) == 5


def test_a_folder_that_cannot_be_written_is_told(images, network, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        extract.features_of(images, network, tmp_path / "file")
