"""What images are measured against: found by name, judged before anything is spent, the same from file or data."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from tensor_images import TensorImages

from harness.data import sources
from harness.data.dataset import InMemory
from harness.data.images.uint8 import to_uint8
from harness.evaluation import references
from harness.evaluation.metrics.statistics import gaussian_of
from harness.evaluation.reference_file import read_reference
from harness.system.errors import DataError, UsageError
from harness.system.processes.world import World

CPU = torch.device("cpu")


@pytest.fixture
def images(digits):
    return TensorImages("digits", to_uint8(digits.clean))


@pytest.fixture
def made(images, network, tmp_path):
    path = tmp_path / "reference.npz"
    references.make(images, network, path, data_sha256="d" * 64)
    return path


def prepared(source, network, folder, with_points=True):
    return references.prepare(source, network, folder, device=CPU, with_points=with_points)


def test_a_reference_made_of_a_data_set_measures_as_the_data_set_does(made, digits, network, tmp_path):
    file = prepared(references.open_reference(str(made)), network, tmp_path / "a")
    data = prepared(references.of_data(digits), network, tmp_path / "b")
    np.testing.assert_allclose(file.pool.mean, data.pool.mean, rtol=1e-12)
    np.testing.assert_allclose(file.pool.covariance, data.pool.covariance, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(file.spatial.covariance, data.spatial.covariance, rtol=1e-9, atol=1e-12)
    assert torch.equal(file.points, data.points)


def test_a_made_reference_says_what_it_was_made_of(made, network):
    file = read_reference(made)
    assert file.provenance["data"] == "digits"
    assert (file.features_sha256, file.num_images) == (network.sha256, 1797)


def test_processes_share_the_images_and_merge_what_they_summed(images, network, made, tmp_path):
    """Two processes one after the other; the main one is handed what the other summed."""
    handed = []

    class Other(World):
        def gathered(self, value):
            handed.append(value)
            return [value, value]

    class Main(World):
        def gathered(self, value):
            return [value, handed[0]]

    references.make(images, network, tmp_path / "two.npz", data_sha256="", world=Other(1, 2))
    assert not (tmp_path / "two.npz").exists()
    references.make(images, network, tmp_path / "two.npz", data_sha256="", world=Main(0, 2))
    one, two = read_reference(made), read_reference(tmp_path / "two.npz")
    np.testing.assert_allclose(two.pool.covariance, one.pool.covariance, rtol=1e-9, atol=1e-12)
    assert two.pool.count == 1797


def test_a_large_set_leaves_ten_thousand_of_its_images_for_precision_and_recall(network, tmp_path, monkeypatch):
    monkeypatch.setattr(references, "NUM_POINTS", 50)
    pixels = torch.randint(256, (120, 8, 8, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    references.make(TensorImages("noise", pixels), network, tmp_path / "r.npz", data_sha256="")
    file = read_reference(tmp_path / "r.npz")
    assert (len(file.images), file.num_images) == (50, 120)
    np.testing.assert_allclose(file.pool.mean, gaussian_of(network(pixels).pool).mean, rtol=1e-9)


def test_statistics_in_a_file_come_before_those_of_its_images(images, network, made, tmp_path):
    """As in ADM's evaluator: the statistics are of the whole set, the images a part of it."""
    file = read_reference(made)
    few = TensorImages("few", images.read(0, 100))
    references.write_reference(
        tmp_path / "few.npz", pool=file.pool, spatial=file.spatial, images=few, provenance=file.provenance
    )
    reference = prepared(references.open_reference(str(tmp_path / "few.npz")), network, tmp_path / "f")
    assert np.array_equal(reference.pool.mean, file.pool.mean)
    assert len(reference.points) == 100


def test_a_file_of_images_alone_is_a_reference_too(images, network, tmp_path):
    np.savez(tmp_path / "images.npz", arr_0=images.read(0, 300).numpy())
    source = references.open_reference(str(tmp_path / "images.npz"))
    reference = prepared(source, network, tmp_path / "f")
    np.testing.assert_allclose(reference.pool.mean, gaussian_of(network(images.read(0, 300)).pool).mean, rtol=1e-12)
    assert source.num_images == 300


def test_a_reference_of_another_feature_network_is_refused(made, network):
    import dataclasses

    source = references.open_reference(str(made))
    with pytest.raises(DataError, match=r"made with another feature network .*--make-reference"):
        source.refuse(dataclasses.replace(network, sha256="0" * 64))


def test_statistics_of_another_size_are_refused_though_the_file_does_not_say_whose_they_are(network, tmp_path):
    np.savez(tmp_path / "adm.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    source = references.open_reference(str(tmp_path / "adm.npz"))
    with pytest.raises(DataError, match=r"mu in adm.npz has 2048 numbers, and digits gives 64"):
        source.refuse(network)


def test_a_file_that_does_not_say_whose_statistics_it_holds_leaves_a_remark(network, tmp_path):
    np.savez(tmp_path / "adm.npz", mu=np.zeros(64), sigma=np.eye(64))
    source = references.open_reference(str(tmp_path / "adm.npz"))
    source.refuse(network)
    assert "does not say which network" in source.remarks(network)[0]


def test_files_are_found_by_name_in_the_data_folder(made, tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "references").mkdir(parents=True)
    made.rename(tmp_path / "data" / "references" / "mine.npz")
    assert references.open_reference("mine.npz").name == "mine.npz"


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("VIRTUAL_imagenet256_labeled.npz", DataError, "Fetch https://.*/256/VIRTUAL_imagenet256_labeled.npz into"),
        ("other.npz", DataError, "there is no reference other.npz"),
        ("digit", UsageError, "Did you mean digits"),
    ],
)
def test_a_reference_that_is_not_there_says_what_to_do(name, kind, says, tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    with pytest.raises(kind, match=says):
        references.open_reference(name)


def test_latents_and_random_numbers_are_no_reference():
    with pytest.raises(DataError, match="is random numbers"):
        references.of_data(sources.load("synthetic"))
    latents = InMemory("latents", torch.zeros(4, 4, 8, 8), torch.zeros(4, dtype=torch.int64), num_classes=2)
    with pytest.raises(DataError, match="holds latents, and metrics are of images"):
        references.of_data(latents)


def test_photographs_are_cropped_as_adm_crops_them(tmp_path):
    for name, photograph in zip(("a", "b"), load_sample_images().images, strict=True):
        (tmp_path / name).mkdir()
        Image.fromarray(photograph).save(tmp_path / name / "one.png")
    photographs = references.Photographs(tmp_path, 64)
    assert photographs.shape == (64, 64, 3)
    assert photographs.read(0, 2).shape == (2, 64, 64, 3)
    assert photographs.labels.tolist() == [0, 1]
    assert photographs.sha256 != references.Photographs(tmp_path, 32).sha256


def test_a_large_data_set_has_ten_thousand_points_and_statistics_of_all(monkeypatch, network, digits, tmp_path):
    whole = prepared(references.of_data(digits), network, tmp_path)
    monkeypatch.setattr(references, "NUM_POINTS", 100)
    source = references.of_data(digits)
    some = prepared(source, network, tmp_path)
    assert (len(whole.points), len(some.points)) == (1797, 100)
    assert torch.equal(some.points, whole.points[references.points_of(source)])
    assert some.pool.count == whole.pool.count == 1797
