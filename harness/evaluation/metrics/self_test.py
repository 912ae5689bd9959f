"""Checks of the metrics themselves, on sets whose answers are known: `harness evaluate --self-test`.

N images, D features of one.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harness.data import sources
from harness.data.images.uint8 import to_uint8
from harness.evaluation.metrics import measure as metrics
from harness.evaluation.metrics.scores import inception_score, order_suspicion
from harness.evaluation.metrics.statistics import FrechetFrom, Moments, frechet_distance, gaussian_of
from harness.evaluation.networks import features
from harness.evaluation.networks.base import FeatureNetwork, Features

NUM_CROPS, CROP_SIDE = 64, 96  # images cut from two photographs, for networks that take photographs; pixels
DIMENSIONS, POINTS = 32, 2_000  # of the Gaussians with a known distance


class Check(NamedTuple):
    """One property: what it should give, and what it gave."""

    name: str
    expected: str
    measured: float
    passed: bool


def run(feature_name: str, weights: str | None = None) -> list[Check]:
    """Every check, those of sets with the features of real images. Raises as features.load does."""
    network = features.load(feature_name, weights)
    images = _images(network)
    real = network(images)
    return [*_of_sets(network, images, real), *of_formulas(), *_of_second_opinions(real)]


def lines(answer: dict[str, Any]) -> list[str]:
    """The command's answer as a table."""
    rows = [f"{'check':<44}{'expected':<12}{'measured':>12}"]
    for check in answer["checks"]:
        mark = "" if check["passed"] else "  FAILED"
        rows.append(f"{check['name']:<44}{check['expected']:<12}{check['measured']:>12.5g}{mark}")
    return [*rows, f"{sum(check['passed'] for check in answer['checks'])} of {len(answer['checks'])} checks passed"]


def _near(name: str, expected: float, measured: float, tolerance: float = 0.0) -> Check:
    text = f"{expected:g}" if tolerance == 0 else f"{expected:g} ± {tolerance:.0e}"
    return Check(name, text, float(measured), bool(abs(measured - expected) <= tolerance))


def _below(name: str, bound: float, measured: float) -> Check:
    return Check(name, f"below {bound:g}", float(measured), bool(measured < bound))


# Sets of images --------------------------------------------------------------------------------------------------


def _images(network: FeatureNetwork) -> Tensor:
    """Real images that the network takes: digits, or crops of scikit-learn's two photographs."""
    if network.num_classes is not None:
        return to_uint8(sources.digits().clean)  # the one set whose classes a network knows
    from sklearn.datasets import load_sample_images  # slow to import

    photographs = [torch.from_numpy(image.copy()) for image in load_sample_images().images]
    generator, crops = torch.Generator().manual_seed(0), []
    for number in range(NUM_CROPS):
        image = photographs[number % 2]
        top, left = (int(torch.randint(side - CROP_SIDE, (), generator=generator)) for side in image.shape[:2])
        crops.append(image[top : top + CROP_SIDE, left : left + CROP_SIDE])
    return torch.stack(crops)


def _of_sets(network: FeatureNetwork, images: Tensor, real: Features) -> list[Check]:
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(len(images), generator=generator)
    half = len(order) // 2
    first, second = (real.rows(part) for part in (order[:half], order[half : 2 * half]))
    noise = network(torch.randint(256, images[:half].shape, generator=generator).to(torch.uint8))
    jitter = 1e-4 * torch.randn(real.pool.shape, generator=generator)
    collapsed = real._replace(pool=real.pool[:1] * (1 + jitter))
    itself, shuffled = _measured(real, real), _measured(real.rows(order), real)
    near, far, copies = _measured(first, second), _measured(noise, second), _measured(collapsed, real)
    rounding = 1e-5 * float(gaussian_of(real.pool).covariance.trace())
    alone = network(images[7:8]).pool
    checks = [
        _near("a set against itself: distance", 0, itself["fd"], rounding),
        _near("a set against itself: precision", 1, itself["precision"]),
        _near("a set against itself: recall", 1, itself["recall"]),
        _below("halves of one set over noise: distance", 0.5, near["fd"] / far["fd"]),
        _near("in another order: change of distance", 0, shuffled["fd"] - itself["fd"], rounding),
        _near("in another order: change of precision", 0, shuffled["precision"] - itself["precision"]),
        _near("in another order: change of recall", 0, shuffled["recall"] - itself["recall"]),
        _near("a collapsed generator: precision", 1, copies["precision"], 0.01),
        _below("a collapsed generator: recall", 0.05, copies["recall"]),
        _near("an image alone, among others: change", 0, (alone - real.pool[7:8]).abs().max().item()),
    ]
    if real.spatial is not None:
        rounding = 1e-5 * float(gaussian_of(real.spatial).covariance.trace())
        checks.insert(1, _near("a set against itself: spatial distance", 0, itself["sfd"], rounding))
    return checks


def _measured(generated: Features, reference: Features) -> dict[str, float]:
    wanted = ["fd", "precision", "recall", *(["sfd"] if generated.spatial is not None else [])]
    return metrics.measure(generated, _reference(reference), wanted).values


def _reference(of: Features) -> metrics.Reference:
    spatial = None if of.spatial is None else gaussian_of(of.spatial)
    return metrics.Reference(gaussian_of(of.pool), spatial, of.pool)


# Formulas --------------------------------------------------------------------------------------------------------


def of_formulas() -> list[Check]:
    """Those of sets whose answers a formula gives: they need no feature network."""
    shift = torch.linspace(0, 1, DIMENSIONS, dtype=torch.float64)
    wide, narrow = torch.linspace(1, 3, DIMENSIONS).double(), torch.linspace(2, 0.5, DIMENSIONS).double()
    a, b = _exactly(torch.zeros_like(shift), wide, seed=1), _exactly(shift, narrow, seed=2)
    closed = float((shift**2).sum() + ((wide - narrow) ** 2).sum())
    whole, pieces = gaussian_of(b), Moments(DIMENSIONS)
    for part in reversed(b.split(333)):
        pieces.update(part)
    by_class = 100 * torch.eye(10).repeat_interleave(1_000, 0)
    mixed = by_class[torch.randperm(len(by_class), generator=torch.Generator().manual_seed(0))]
    return [
        _near("Gaussians of known distance", closed, frechet_distance(gaussian_of(a), whole), 1e-9 * closed),
        _near("the same, by the faster form", closed, FrechetFrom(whole)(gaussian_of(a)), 1e-9 * closed),
        _near("statistics of pieces: change", 0, abs(pieces.gaussian().covariance - whole.covariance).max(), 1e-12),
        _near("inception score of unsure classes", 1, inception_score(torch.zeros(1_000, 10)), 1e-9),
        _near("inception score of ten sure classes", 10, inception_score(mixed[:5_000].repeat(2, 1)), 0.01),
        _near("images sorted by class are noticed", 1, order_suspicion(by_class) is not None),
        _near("images in random order are not", 0, order_suspicion(mixed) is not None),
    ]


def _exactly(mean: Tensor, deviations: Tensor, seed: int) -> Tensor:  # (D,), (D,) -> (N, D)
    """Points whose sample mean is `mean` and whose sample covariance is diagonal, with these deviations."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(POINTS, len(mean), generator=generator, dtype=torch.float64)
    points -= points.mean(0)
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(points.T.cov()), points.T, upper=False).T
    return whitened * deviations + mean


def _of_second_opinions(real: Features) -> list[Check]:
    """Distances of real features once more, by clean-fid."""
    half = len(real.pool) // 2
    generated, reference = real.rows(torch.arange(half)), real.rows(torch.arange(half, len(real.pool)))
    wanted = ["fd", "kid", *(["sfd"] if real.spatial is not None else [])]
    checks = metrics.cross_check(generated, _reference(reference), wanted)
    return [
        _near(f"{c.metric} by {c.by}: relative change", 0, c.difference / max(abs(c.ours), math.ulp(1)), 1e-4)
        for c in checks
    ]
