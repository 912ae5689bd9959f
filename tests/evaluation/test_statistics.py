import numpy as np
import pytest
import torch
from agreement import inception_like
from torch import Tensor

from harness.evaluation.metrics import statistics
from harness.evaluation.metrics.statistics import (
    FrechetFrom,
    Gaussian,
    Moments,
    distance_at_infinity,
    frechet_distance,
    gaussian_of,
)
from harness.evaluation.networks.base import Features
from harness.system.errors import DataError


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exactly(mean: Tensor, deviations: Tensor, seed: int) -> Tensor:
    """500 points whose sample mean is `mean` and whose sample covariance is diagonal, with these deviations."""
    points = noise(500, len(mean), seed=seed)
    points = points - points.mean(0)
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(points.T.cov()), points.T, upper=False).T
    return whitened * deviations + mean


def gathered(*pieces: Tensor) -> Gaussian:
    moments = Moments(pieces[0].shape[1])
    for piece in pieces:
        moments.update(piece)
    return moments.gaussian()


def assert_same(a: Gaussian, b: Gaussian, rel: float) -> None:
    assert a.count == b.count
    np.testing.assert_allclose(a.mean, b.mean, rtol=rel)
    np.testing.assert_allclose(a.covariance, b.covariance, rtol=0, atol=rel * abs(b.covariance).max())


# Moments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_moments_are_numpy_s_also_far_from_zero(monkeypatch, offset):
    """Sums of squares would lose 12 of 16 digits at an offset of a million deviations."""
    monkeypatch.setattr(statistics, "ROWS", 70)
    values = noise(1_000, 24) @ noise(24, 24, seed=1) + offset
    found = gaussian_of(values)
    assert found.count == 1_000
    np.testing.assert_allclose(found.mean, values.numpy().mean(axis=0), rtol=1e-12)
    expected = np.cov(values.numpy(), rowvar=False)
    np.testing.assert_allclose(found.covariance, expected, rtol=0, atol=(1e-12 + 1e-15 * offset) * expected.max())


@pytest.mark.parametrize("cuts", [[], [1], [500], [3, 4, 400, 401], [100 * k for k in range(1, 10)]])
def test_moments_do_not_depend_on_how_features_are_cut(cuts):
    values = noise(1_000, 8) + 30
    assert_same(gathered(*values.tensor_split(cuts)), gaussian_of(values), 1e-13)


def test_moments_of_processes_can_be_merged_in_any_order():
    values = noise(900, 8) * torch.arange(1, 9) + 30
    ranks = []
    for rank in range(4):  # the last has none: there are fewer parts than processes
        moments = Moments(8)
        for part in values.split(100)[rank :: 3 if rank < 3 else 100]:
            if rank < 3:
                moments.update(part)
        ranks.append(moments)
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        whole = Moments(8)
        for rank in order:
            whole.merge(ranks[rank])
        assert_same(whole.gaussian(), gaussian_of(values), 1e-13)


def test_moments_leave_the_features_and_each_other_as_they_are():
    values, moments, other = noise(50, 3), Moments(3), Moments(3)
    before = values.clone()
    moments.update(values)
    assert torch.equal(values, before)
    other.merge(moments)
    first = other.gaussian()
    other.update(values + 5)
    assert_same(moments.gaussian(), gaussian_of(values), 1e-14)
    assert_same(first, gaussian_of(values), 1e-14)


def test_moments_of_another_size_or_of_one_image_are_refused():
    moments = Moments(3)
    with pytest.raises(DataError, match=r"4 numbers cannot be added to features of 3"):
        moments.update(torch.zeros(5, 4))
    with pytest.raises(DataError, match=r"4 numbers cannot be added to features of 3"):
        moments.merge(Moments(4))
    moments.update(torch.zeros(1, 3))
    with pytest.raises(DataError, match=r"at least 2 images, and there are 1"):
        moments.gaussian()


# Fréchet distance ------------------------------------------------------------------------------------------------


def both_distances(a: Gaussian, b: Gaussian) -> tuple[float, float]:
    return frechet_distance(a, b), FrechetFrom(b)(a)


def test_frechet_distance_is_the_closed_form_for_known_gaussians():
    mean, wide, narrow = torch.arange(6).double(), torch.linspace(1, 3, 6).double(), torch.linspace(2, 0.5, 6).double()
    a, b = (gaussian_of(exactly(*one)) for one in ((torch.zeros(6).double(), wide, 1), (mean, narrow, 2)))
    closed_form = ((mean**2).sum() + ((wide - narrow) ** 2).sum()).item()
    assert both_distances(a, b) == pytest.approx((closed_form, closed_form), rel=1e-9)
    assert both_distances(b, a) == pytest.approx((closed_form, closed_form), rel=1e-9)


def test_frechet_distance_takes_its_mean_in_float64():
    """The true shift is 2**-11 in each of 4 features; float32 sums of these 20,001 numbers are not that exact."""
    points = (noise(20_001, 4) + 4096).float()
    assert frechet_distance(gaussian_of(points), gaussian_of(points + 2**-11)) == pytest.approx(4 * 2**-22, rel=1e-2)


def test_frechet_distance_of_a_set_from_itself_is_zero_in_any_order(real: Features):
    assert both_distances(gaussian_of(real.pool), gaussian_of(real.pool.flip(0))) == (0, 0)


@pytest.mark.parametrize(("count", "size", "one_image"), [(1_500, 64, 1e-6), (1_500, 256, 1e-5), (100, 256, 1e-3)])
def test_rounding_alone_is_zero_and_one_changed_image_is_not(count, size, one_image):
    """100 images with 256 features leave eigenvalues of zero, whose roots lose half the digits."""
    features = inception_like(count, seed=1, size=size, drift=0.0)
    changed = torch.cat([1.1 * features[:1], features[1:]])
    assert both_distances(gaussian_of(features), gaussian_of(features.flip(0))) == (0, 0)
    assert min(both_distances(gaussian_of(features), gaussian_of(changed))) > one_image


@pytest.mark.parametrize(("drift", "rel"), [(0.0, 1e-6), (0.1, 1e-6), (0.5, 1e-9)])
def test_the_fast_distance_is_the_exact_one(drift, rel):
    a, b = (gaussian_of(inception_like(1_500, seed=seed, size=150, drift=d)) for seed, d in ((1, drift), (2, 0.0)))
    assert FrechetFrom(b)(a) == pytest.approx(frechet_distance(a, b), rel=rel)


def test_the_fast_distance_bears_covariances_without_full_rank(real: Features):
    """40 images of 64 features, some of which are 0 for every digit."""
    a, b = gaussian_of(real.pool[:40]), gaussian_of(real.pool[900:])
    assert FrechetFrom(b)(a) == pytest.approx(frechet_distance(a, b), rel=1e-6)
    assert FrechetFrom(a)(b) == pytest.approx(frechet_distance(a, b), rel=1e-6)


def test_statistics_of_different_sizes_are_not_compared():
    a, b = gaussian_of(noise(9, 3)), gaussian_of(noise(9, 4))
    for compare in (frechet_distance, lambda a, b: FrechetFrom(b)(a)):
        with pytest.raises(DataError, match=r"statistics of 3 features cannot be compared with those of 4"):
            compare(a, b)


# At infinity -----------------------------------------------------------------------------------------------------


def test_the_distance_at_infinity_loses_most_of_the_bias_of_few_images():
    """Both sets have one law, and a reference of 20,000 images: all of the distance of 1,000 images is bias."""
    distance = FrechetFrom(gaussian_of(inception_like(20_000, seed=2, size=40)))
    few = inception_like(1_000, seed=1, size=40)
    biased, unbiased = distance(gaussian_of(few)), distance_at_infinity(few, distance, 0)
    assert abs(unbiased) < 0.2 * biased


def test_the_distance_at_infinity_is_the_line_s_value_there(monkeypatch):
    """A distance that is a line over 1 / size comes back without its slope, whatever the sizes are."""
    sizes = []

    def line(gaussian: Gaussian) -> float:
        sizes.append(gaussian.count)
        return 7 + 300 / gaussian.count

    assert distance_at_infinity(noise(1_003, 2), line, 0) == pytest.approx(7, rel=1e-9)
    assert (len(sizes), sizes[0], sizes[-1]) == (15, 100, 1_003)
    assert sizes == sorted(set(sizes))
    monkeypatch.setattr(statistics, "SMALLEST_SIZE", 50)
    sizes.clear()
    distance_at_infinity(noise(1_003, 2), line, 0)
    assert sizes[0] == 50
    sizes.clear()
    distance_at_infinity(noise(20, 2), line, 0)
    assert sizes == sorted(set(sizes))


def test_the_distance_at_infinity_is_a_function_of_the_seed(real: Features):
    distance = FrechetFrom(gaussian_of(real.pool[:900]))
    values = [distance_at_infinity(real.pool[900:], distance, seed) for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def test_the_distance_at_infinity_of_19_images_is_refused():
    with pytest.raises(DataError, match=r"19 generated images are too few: fd_infinity needs at least 20"):
        distance_at_infinity(noise(19, 2), lambda gaussian: 0.0, 0)
