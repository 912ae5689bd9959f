"""Mean and covariance of features, summed up piece by piece, and the Fréchet distance between two such pairs.

B features of a batch, N generated images, D numbers of one feature; everything here in float64.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harness.recipes.seeds import mix
from harness.system import torchvision_guard
from harness.system.errors import DataError

ROWS = 4096  # features converted to float64 at once: 64 MiB of Inception's, enough to keep a matrix product busy
SIZES = 15  # of sets from which the distance at infinity is extrapolated, as in Chong & Forsyth's code
SMALLEST_SIZE = 5_000
NEARLY_ZERO = 1e-3  # of the traces: below it, a distance is compared with its numerical error
FEWEST_FOR_INFINITY = 20  # images: the smallest set is a tenth of them, and a covariance needs two


@dataclass(frozen=True, eq=False)
class Gaussian:
    """What a Fréchet distance needs to know of a set of features."""

    count: int | None  # images behind it; None: the file it came from does not say
    mean: np.ndarray  # (D,)
    covariance: np.ndarray  # (D, D), of a sample: divided by count - 1


class Moments:
    """Sums from which mean and covariance follow, of features that arrive in pieces, in any order, in any process.

    Chan, Golub & LeVeque 1983, eq. 2.1: deviations are taken from each piece's own mean, so that features far from zero
    lose no digits, as they would in sums of squares.
    """

    def __init__(self, size: int):
        self.count, self.mean, self._scatter = 0, np.zeros(size), np.zeros((size, size))

    def update(self, features: Tensor) -> None:  # (B, D)
        """Add a piece. Raises DataError when it is of another size."""
        self._same_size(features.shape[1])
        for rows in features.split(ROWS):
            values = rows.cpu().double().numpy()
            mean = values.mean(axis=0)
            values = values - mean
            self._add(len(values), mean, values.T @ values)

    def merge(self, other: "Moments") -> None:
        """Add what another process has summed up. Raises DataError when it is of another size."""
        self._same_size(len(other.mean))
        self._add(other.count, other.mean, other._scatter)

    def gaussian(self) -> Gaussian:
        """Raises DataError when there are fewer than two features."""
        if self.count < 2:
            raise DataError(f"a covariance needs at least 2 images, and there are {self.count}. Give more.")
        covariance = self._scatter / (self.count - 1)
        return Gaussian(self.count, self.mean.copy(), (covariance + covariance.T) / 2)

    def _add(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        total = self.count + count
        if count == 0:
            return
        difference = mean - self.mean
        self._scatter += scatter
        if self.count:
            self._scatter += np.outer(difference * (self.count * count / total), difference)
        self.mean = self.mean + difference * (count / total)
        self.count = total

    def _same_size(self, size: int) -> None:
        if size != len(self.mean):
            raise DataError(
                f"features of {size} numbers cannot be added to features of {len(self.mean)}. "
                "Compute both with the same feature network."
            )


def gaussian_of(features: Tensor) -> Gaussian:  # (N, D)
    """Mean and covariance of all features. Raises DataError when there are fewer than two."""
    moments = Moments(features.shape[1])
    moments.update(features)
    return moments.gaussian()


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Heusel et al. 2017, eq. 6, by torch-fidelity. Raises DataError when they are of different sizes.

    Zero where it is below its own numerical error, as for a set and itself. ADM and torch-fidelity take the means in
    float32, which moves FID by about 1e-6; here they are float64.
    """
    _same_sizes(a, b)
    torchvision_guard.install()  # torch_fidelity imports torchvision, which takes seconds
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    first, second = ({"mu": each.mean, "sigma": each.covariance} for each in (a, b))
    distance = fid_statistics_to_metric(first, second, verbose=False)[KEY_METRIC_FID]
    nearly_zero = distance < NEARLY_ZERO * np.trace(a.covariance + b.covariance)
    return FrechetFrom(b).or_zero(a, distance) if nearly_zero else distance


class FrechetFrom:
    """Distances of many Gaussians from one, several times faster than `frechet_distance` and the same to rounding.

    The root of the reference's covariance R is taken once, as a factor F with F Fᵀ = R. The eigenvalues of Fᵀ C F are
    those of R C, whose roots sum to the trace that eq. 6 asks for, and they are fast to compute for a symmetric matrix.
    """

    def __init__(self, reference: Gaussian):
        values, vectors = np.linalg.eigh(reference.covariance)
        self._reference, self._factor = reference, vectors * np.sqrt(values.clip(min=0))

    def __call__(self, generated: Gaussian) -> float:
        """Raises DataError when it is of another size than the reference."""
        reference = self._reference
        _same_sizes(generated, reference)
        roots = np.sqrt(self._eigenvalues(generated))
        shift = generated.mean - reference.mean
        distance = float(shift @ shift + np.trace(generated.covariance + reference.covariance) - 2 * roots.sum())
        nearly_zero = distance < NEARLY_ZERO * np.trace(generated.covariance + reference.covariance)
        return self.or_zero(generated, distance) if nearly_zero else distance

    def or_zero(self, generated: Gaussian, distance: float) -> float:
        """The distance, or 0 where rounding alone could have made it.

        Eigenvalues of a product are exact to delta, D eps times the product's norm; the root of an eigenvalue v is then
        exact to sqrt(v + delta) - sqrt(v), which is largest where v is 0: covariances without full rank.
        """
        values, size = self._eigenvalues(generated), len(generated.mean)
        rounding = size * np.finfo(np.float64).eps
        delta = rounding * values.max()
        trace = np.trace(generated.covariance + self._reference.covariance)
        error = 2 * (np.sqrt(values + delta) - np.sqrt(values)).sum() + rounding * trace
        return 0.0 if abs(distance) <= error else distance

    def _eigenvalues(self, generated: Gaussian) -> np.ndarray:  # (D,)
        product = self._factor.T @ generated.covariance @ self._factor
        return np.linalg.eigvalsh((product + product.T) / 2).clip(min=0)


def distance_at_infinity(features: Tensor, distance: FrechetFrom, seed: int) -> float:  # (N, D)
    """The Fréchet distance that infinitely many images would have (Chong & Forsyth 2020, arXiv:1911.07023).

    The distances of 15 sets of 5,000 images (a tenth of few) to all N lie about on a line over 1 / size; this is the
    line's value at 0. The paper draws each set anew. Here they are nested, the first so many of one permutation, and so
    one pass over the features serves all; their errors are then not independent, which the line does not mind.
    """
    count = len(features)
    if count < FEWEST_FOR_INFINITY:
        raise DataError(f"{count} generated images are too few: fd_infinity needs at least {FEWEST_FOR_INFINITY}.")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(mix("infinity", seed)))
    sizes = np.linspace(min(SMALLEST_SIZE, count // 10), count, SIZES).round().astype(int)
    moments, distances = Moments(features.shape[1]), []
    for rows in order.tensor_split(sizes[:-1].tolist()):
        for part in rows.split(ROWS):
            moments.update(features[part])
        distances.append(distance(moments.gaussian()))
    slope_and_limit = np.polyfit(1 / sizes, distances, 1)
    return float(slope_and_limit[1])


def _same_sizes(a: Gaussian, b: Gaussian) -> None:
    if len(a.mean) != len(b.mean):
        raise DataError(
            f"statistics of {len(a.mean)} features cannot be compared with those of {len(b.mean)}. "
            "Compute both with the same feature network."
        )
