"""References in files: ADM's keys, judged before they are used, and given back exactly as they were written."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tensor_images import TensorImages

from harness.evaluation.metrics.statistics import Gaussian, gaussian_of
from harness.evaluation.reference_file import read_reference, write_reference
from harness.system.errors import DataError
from harness.system.files import sha256_of

IMAGES = np.random.default_rng(0).integers(256, size=(13, 4, 5, 3), dtype=np.uint8)
SAYS = {"features": "digits", "features_sha256": "a" * 64, "num_images": 50, "data": "d", "data_sha256": "b" * 64}


def gaussian(size: int) -> Gaussian:
    return gaussian_of(torch.randn(50, size, generator=torch.Generator().manual_seed(size)))


def adm(path: Path, dtype: str = "<f8", **changes) -> Path:
    """A file with the keys of ADM's reference batches; a change of None leaves a key out."""
    pool, spatial = gaussian(8), gaussian(5)
    arrays = {"mu": pool.mean, "sigma": pool.covariance, "mu_s": spatial.mean, "sigma_s": spatial.covariance}
    arrays = {name: values.astype(dtype) for name, values in arrays.items()} | {"arr_0": IMAGES} | changes
    np.savez(path, **{name: values for name, values in arrays.items() if values is not None})
    return path


@pytest.mark.parametrize("dtype", ["<f8", "<f4", ">f8", "<f2"])
def test_a_file_like_adm_s_is_read_in_float64(dtype, tmp_path):
    found = read_reference(adm(tmp_path / "VIRTUAL.npz", dtype))
    expected = gaussian(8)
    for ours, theirs in ((found.pool.mean, expected.mean), (found.pool.covariance, expected.covariance)):
        assert ours.dtype == np.float64
        np.testing.assert_array_equal(ours, theirs.astype(dtype).astype(np.float64))
    np.testing.assert_array_equal(found.spatial.covariance, gaussian(5).covariance.astype(dtype).astype(np.float64))
    assert np.array_equal(found.images.read(0, 13).numpy(), IMAGES)
    assert (found.name, found.sha256) == ("VIRTUAL.npz", sha256_of(tmp_path / "VIRTUAL.npz"))
    assert (found.features, found.features_sha256, found.num_images, found.pool.count) == (None, None, None, None)
    assert found.provenance == {}


def test_statistics_stored_column_by_column_are_read_right(tmp_path):
    factor = np.random.default_rng(0).normal(size=(8, 8))
    covariance = factor @ factor.T
    lopsided = covariance * (1 + 1e-9 * np.triu(np.ones((8, 8))))  # or a transposed matrix would look the same
    found = read_reference(adm(tmp_path / "a.npz", sigma=np.asfortranarray(lopsided)))
    np.testing.assert_array_equal(found.pool.covariance, lopsided)


def test_statistics_alone_and_images_alone_are_references(tmp_path):
    statistics = read_reference(adm(tmp_path / "a.npz", arr_0=None, mu_s=None, sigma_s=None))
    assert (statistics.images, statistics.spatial, len(statistics.pool.mean)) == (None, None, 8)
    images = read_reference(adm(tmp_path / "b.npz", mu=None, sigma=None, mu_s=None, sigma_s=None))
    assert (images.pool, images.spatial, len(images.images)) == (None, None, 13)


@pytest.mark.parametrize("spatial", [gaussian(5), None], ids=["with spatial", "without"])
def test_what_was_written_is_read_back_exactly(spatial, tmp_path):
    images = TensorImages("images", torch.from_numpy(IMAGES))
    says = {**SAYS, "a note": 'ü \\ "quoted"\n'}
    write_reference(tmp_path / "r.npz", pool=gaussian(8), spatial=spatial, images=images, provenance=says)
    found = read_reference(tmp_path / "r.npz")
    pairs = [(found.pool, gaussian(8))] + ([] if spatial is None else [(found.spatial, spatial)])
    for ours, theirs in pairs:
        assert ours.count == theirs.count == 50
        assert np.array_equal(ours.mean, theirs.mean)
        assert np.array_equal(ours.covariance, theirs.covariance)
    assert (found.spatial is None) == (spatial is None)
    assert np.array_equal(found.images.read(0, 13).numpy(), IMAGES)
    assert found.provenance == says
    assert (found.features, found.features_sha256, found.num_images) == ("digits", "a" * 64, 50)


def test_what_was_written_has_the_keys_that_adm_s_evaluator_reads(tmp_path):
    images = TensorImages("images", torch.from_numpy(IMAGES))
    write_reference(tmp_path / "r.npz", pool=gaussian(8), spatial=gaussian(5), images=images, provenance=SAYS)
    with np.load(tmp_path / "r.npz", allow_pickle=False) as found:
        assert set(found.files) == {"arr_0", "mu", "sigma", "mu_s", "sigma_s", "provenance"}
        assert (found["arr_0"].dtype, found["mu"].dtype, found["sigma_s"].dtype) == (np.uint8, np.float64, np.float64)
        assert json.loads(str(found["provenance"])) == SAYS


def test_the_number_of_images_is_written_though_nobody_says_it(tmp_path):
    images = TensorImages("images", torch.from_numpy(IMAGES))
    write_reference(tmp_path / "r.npz", pool=gaussian(8), spatial=None, images=images, provenance={})
    assert read_reference(tmp_path / "r.npz").num_images == 50


def skewed() -> np.ndarray:
    covariance = gaussian(8).covariance
    covariance[1, 2] += 1e-3 * abs(covariance).max()
    return covariance


def with_nan() -> np.ndarray:
    covariance = gaussian(8).covariance
    covariance[3, 3] = np.nan
    return covariance


WRONG = {
    "mu alone": ({"sigma": None}, "has mu, but of mu and sigma needs both or none"),
    "sigma alone": ({"mu": None}, "has sigma, but of mu and sigma needs both or none"),
    "sigma_s alone": ({"mu_s": None}, "has sigma_s, but of mu_s and sigma_s needs both or none"),
    "spatial alone": ({"mu": None, "sigma": None}, "has mu_s and sigma_s without mu and sigma"),
    "two sizes": ({"mu": np.zeros(7)}, r"mu of shape \(7,\) and sigma of \(8, 8\) are no pair"),
    "a mean of two sides": ({"mu": np.zeros((1, 8))}, r"mu of shape \(1, 8\) and sigma of \(8, 8\) are no pair"),
    "a covariance of one side": ({"sigma": np.zeros(8)}, r"sigma of \(8,\) are no pair"),
    "nothing": ({"mu": np.zeros(0), "sigma": np.zeros((0, 0))}, "are no pair"),
    "not symmetric": ({"sigma": skewed()}, "sigma is not symmetric"),
    "negative": ({"sigma": -gaussian(8).covariance}, "sigma has negative variances"),
    "nan": ({"sigma": with_nan()}, "1 of the 64 values of sigma are not finite"),
    "infinite": ({"mu_s": np.full(5, np.inf)}, "5 of the 5 values of mu_s are not finite"),
    "whole numbers": ({"mu": np.zeros(8, int)}, "mu holds int64 instead of floats"),
    "complex": ({"sigma": np.eye(8, dtype=complex)}, "sigma holds complex128 instead of floats"),
    "pickled": ({"mu": np.array([None] * 8)}, "mu: it holds pickled Python objects"),
    "no images": ({"arr_0": IMAGES / 255}, "arr_0 holds float64 from 0 to 1 instead of uint8"),
    "text": ({"provenance": np.array("made by hand")}, "its provenance is no JSON object"),
    "a list": ({"provenance": np.array("[1]")}, "its provenance is no JSON object"),
    "numbers": ({"provenance": np.zeros(3)}, "its provenance is no JSON object"),
    "a number for a name": ({"provenance": np.array('{"features_sha256": 3}')}, "names the features by something else"),
    "no count": ({"provenance": np.array('{"num_images": true}')}, "its provenance counts True images"),
    "one image": ({"provenance": np.array('{"num_images": 1}')}, "its provenance counts 1 images"),
    "an endless text": ({"provenance": np.array("[" * 300_000)}, "declares 1,200,000 bytes"),
    "deep brackets": ({"provenance": np.array("[" * 200_000)}, "its provenance is no JSON object"),
}


@pytest.mark.parametrize(("changes", "says"), WRONG.values(), ids=WRONG)
def test_a_reference_that_cannot_be_one_is_refused_with_the_reason(changes, says, tmp_path):
    with pytest.raises(DataError, match=says) as caught:
        read_reference(adm(tmp_path / "a.npz", **changes))
    assert str(tmp_path / "a.npz") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sums_in_float32_leave_a_covariance_symmetric_enough(tmp_path):
    covariance = gaussian(8).covariance
    covariance[1, 2] += 1e-7 * abs(covariance).max()
    assert read_reference(adm(tmp_path / "a.npz", sigma=covariance)).pool.covariance[1, 2] == covariance[1, 2]


def test_a_file_with_neither_statistics_nor_images_says_what_it_holds(tmp_path):
    np.savez(tmp_path / "a.npz", mean=np.zeros(3), cov=np.eye(3))
    with pytest.raises(DataError, match=r"is no reference: it holds mean, cov\. .*--make-reference"):
        read_reference(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "cannot be read: No such file"), (b"<html>", "is damaged, or no .npz")],
    ids=["missing", "a web page"],
)
def test_a_file_that_is_no_archive_is_told(content, says, tmp_path):
    if content is not None:
        (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_reference(tmp_path / "a.npz")
