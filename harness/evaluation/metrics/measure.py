"""Every metric by its key: what it is, whether it can be computed, its value, its standard error, a second opinion.

N generated images, R reference images, D, S and K numbers of pooled, spatial and class outputs.
"""

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from harness.evaluation.metrics import kernels, neighbours, scores
from harness.evaluation.metrics.statistics import (
    FEWEST_FOR_INFINITY,
    FrechetFrom,
    Gaussian,
    distance_at_infinity,
    frechet_distance,
    gaussian_of,
)
from harness.evaluation.networks.base import FeatureNetwork, Features
from harness.recipes.metric_names import OF_POINTS, default, require
from harness.recipes.seeds import mix
from harness.records.schema import CrossCheck
from harness.system import torchvision_guard
from harness.system.errors import DataError

_FP16 = {"precision_adm_fp16": "precision", "recall_adm_fp16": "recall"}
_FEWEST_GENERATED = {  # a radius to the 3rd neighbour needs 4 images, and says nothing of so few
    **dict.fromkeys(("fd", "sfd", "kid"), 2),
    **dict.fromkeys(("precision", "recall", *_FP16), neighbours.NEIGHBOURS + 2),
    "fd_infinity": FEWEST_FOR_INFINITY,
}
_FEWEST_POINTS = {
    "kid": 2,
    **dict.fromkeys(("precision", "recall", *_FP16), neighbours.NEIGHBOURS + 2),
    **dict.fromkeys(("density", "coverage"), neighbours.DENSITY_NEIGHBOURS + 2),
}

_NO_IMAGES = "the reference's images are compared one by one, and this reference holds statistics alone"

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Reference:
    """What generated images are compared with; None is what this reference does not have."""

    pool: Gaussian | None
    spatial: Gaussian | None
    points: Tensor | None  # (R, D) pooled features of its images


class Measured(NamedTuple):
    """Values by metric, and what there is to say about those that are missing."""

    values: dict[str, float]
    notes: list[str]


# What can be computed -------------------------------------------------------------------------------------------------


def refuse(wanted: Sequence[str], *, has_points: bool, has_spatial_statistics: bool, network: FeatureNetwork) -> None:
    """Before anything is computed: raises DataError when this reference or network cannot give a metric.

    UsageError, as `require`, for what is no metric.
    """
    require(wanted)

    def reason(metric: str) -> str | None:
        return _reason(metric, has_points, has_spatial_statistics, network)

    refused = {metric: why for metric in wanted if (why := reason(metric))}
    if not refused:
        return
    remaining = [metric for metric in wanted if metric not in refused]
    remaining = remaining or [metric for metric in default(network.name) if not reason(metric)]
    reasons: dict[str, list[str]] = {}
    for metric, why in refused.items():
        reasons.setdefault(why, []).append(metric)
    refusals = "; ".join(f"{' and '.join(names)} cannot be computed: {why}" for why, names in reasons.items())
    advice = f"Ask for what remains, --metrics {','.join(remaining)}" if remaining else "Nothing else remains"
    where = ", or give a reference with images (arr_0)" if _NO_IMAGES in reasons else ""
    raise DataError(f"{refusals}. {advice}{where}.")


def _reason(metric: str, has_points: bool, has_spatial_statistics: bool, network: FeatureNetwork) -> str | None:
    """Why it cannot be computed."""
    no_spatial = network.spatial_size is None
    if metric in ("is", "class_accuracy") and no_spatial and network.num_classes is None:
        return f"{network.name} gives no classes"  # the networks with a spatial map are the classifiers
    if metric == "class_accuracy" and network.num_classes is None:
        return f"the outputs of {network.name} are not numbered like the labels that were asked for"
    if metric == "sfd" and no_spatial:
        return f"{network.name} gives no spatial features"
    if metric == "sfd" and not has_spatial_statistics:
        return "the reference has no statistics of spatial features (mu_s and sigma_s)"
    if metric == "cmmd" and not network.name.startswith("clip"):
        return f"it is defined on features by clip, not by {network.name}"
    if metric in OF_POINTS and not has_points:
        return _NO_IMAGES
    return None


def unmeasurable_spread(wanted: Sequence[str], num_images: int, parts: int = 10) -> str | None:
    """The note about those metrics that `standard_errors` leaves out; None: it gives all."""
    missing = [metric for metric in wanted if num_images // parts < _FEWEST_GENERATED.get(metric, 1)]
    if not missing:
        return None
    return (
        f"{', '.join(missing)} without a standard error: a {parts}th of {num_images:,} images is too few to measure "
        "it on. Draw more."
    )


# Values ----------------------------------------------------------------------------------------------------------


def measure(
    generated: Features,
    reference: Reference,
    wanted: Sequence[str],
    *,
    labels: Tensor | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Measured:
    """The metrics wanted of N generated images, asked for with `labels` (N,) where known.

    What would be a wrong number is left out with a note: an inception score of images in suspicious order, a class
    accuracy without labels. `seed` is of KID's subsets, FID-infinity's and the order check's permutations. Raises
    DataError when features are not finite, too few, or not of one network; UsageError as `require`.
    """
    require(wanted)
    _check(generated, reference, wanted, labels)
    notes = {}
    if "is" in wanted and (suspicion := scores.order_suspicion(_there(generated.logits), seed)):
        notes["is"] = f"is left out: {suspicion}"
    if "class_accuracy" in wanted and labels is None:
        notes["class_accuracy"] = "class_accuracy left out: it is not known which classes were asked for."
    tools = _Tools(reference, torch.device(device), seed)
    values = tools.values(generated, [metric for metric in wanted if metric not in notes], labels)
    return Measured(values, list(notes.values()))


def standard_errors(
    generated: Features,
    reference: Reference,
    wanted: Sequence[str],
    *,
    labels: Tensor | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    parts: int = 10,
) -> dict[str, float]:
    """How far each metric would move with other images of the same law: subsampling (Politis & Romano 1994).

    The generated set is cut into `parts` random disjoint subsets; each is measured against the whole reference, and the
    error is their standard deviation over the root of `parts`. For FID, whose variance falls faster than 1 / N near its
    floor, it errs on the large side. The reference counts as given. Metrics that a subset is too small for are left
    out: `unmeasurable_spread` says which. Raises as `measure`.
    """
    require(wanted)
    _check(generated, reference, wanted, labels)
    count = len(generated.pool)
    wanted = [metric for metric in wanted if count // parts >= _FEWEST_GENERATED.get(metric, 1)]
    wanted = [metric for metric in wanted if metric != "class_accuracy" or labels is not None]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(mix("parts", seed)))
    tools = _Tools(reference, torch.device(device), seed, repeated=True)
    measured = []
    for rows in order.tensor_split(parts):
        measured.append(tools.values(generated.rows(rows), wanted, None if labels is None else labels.cpu()[rows]))
    return {
        metric: float(np.std([values[metric] for values in measured], ddof=1) / np.sqrt(parts)) for metric in wanted
    }


class _Tools:
    """A reference with what was worked out from it, and how each metric is computed with that."""

    def __init__(self, reference: Reference, device: torch.device, seed: int, *, repeated: bool = False):
        self._reference, self._device, self._seed, self._repeated = reference, device, seed, repeated

    def values(self, generated: Features, wanted: Collection[str], labels: Tensor | None) -> dict[str, float]:
        """By metric, in the order wanted."""
        pool, points = generated.pool, self._reference.points
        ways: dict[str, Callable[[], float]] = {
            "fd": lambda: self._distance(pool, _there(self._reference.pool), "from_pool"),
            "sfd": lambda: self._distance(_there(generated.spatial), _there(self._reference.spatial), "from_spatial"),
            "is": lambda: scores.inception_score(_there(generated.logits)),
            "kid": lambda: kernels.kernel_distance(pool, _there(points), self._seed),
            "cmmd": lambda: kernels.cmmd(pool, _there(points), self._device),
            "fd_infinity": lambda: distance_at_infinity(pool, self.from_pool, self._seed),
            "class_accuracy": lambda: scores.class_accuracy(_there(generated.logits), _there(labels)),
        }
        found = {metric: ways[metric]() for metric in wanted if metric in ways}
        if plain := [metric for metric in wanted if metric in neighbours.METRICS]:
            found |= self.manifold.shares(pool, plain)
        if fp16 := {_FP16[metric]: metric for metric in wanted if metric in _FP16}:
            found |= {fp16[metric]: value for metric, value in self.manifold_fp16.shares(pool, list(fp16)).items()}
        return {metric: found[metric] for metric in wanted}

    def _distance(self, features: Tensor, reference: Gaussian, many: str) -> float:
        gaussian = gaussian_of(features)
        return getattr(self, many)(gaussian) if self._repeated else frechet_distance(gaussian, reference)

    @cached_property
    def from_pool(self) -> FrechetFrom:
        return FrechetFrom(_there(self._reference.pool))

    @cached_property
    def from_spatial(self) -> FrechetFrom:
        return FrechetFrom(_there(self._reference.spatial))

    @cached_property
    def manifold(self) -> neighbours.Manifold:
        return neighbours.Manifold(_there(self._reference.points), self._device)

    @cached_property
    def manifold_fp16(self) -> neighbours.Manifold:
        return neighbours.Manifold(_there(self._reference.points), self._device, neighbours.ADM_FP16)


# A second opinion ------------------------------------------------------------------------------------------------


def _there(part: T | None) -> T:
    """What a metric needs of a set or a reference."""
    assert part is not None, "refuse() lets no metric through whose needs are not there"
    return part


def cross_check(
    generated: Features,
    reference: Reference,
    wanted: Sequence[str],
    *,
    seed: int = 0,
    values: Mapping[str, float] | None = None,
) -> list[CrossCheck]:
    """fd, sfd and kid, where wanted, by clean-fid from the same features: another matrix root, its own kernel.

    `values` are ours where they are known already, measured with the same seed. clean-fid draws the same subsets for
    KID; NumPy's global random state is put back. A statistic it fails on is logged and left out.
    """
    torchvision_guard.install()  # clean-fid imports torchvision
    from cleanfid import fid as clean_fid

    def distance(features: Tensor, other: Gaussian) -> float:
        own = gaussian_of(features)
        return float(clean_fid.frechet_distance(own.mean, own.covariance, other.mean, other.covariance))

    theirs: dict[str, Callable[[], float]] = {
        "fd": lambda: distance(generated.pool, _there(reference.pool)),
        "sfd": lambda: distance(_there(generated.spatial), _there(reference.spatial)),
        # It draws of its second set first, torch-fidelity of its first: so swapped, the subsets are the same.
        "kid": lambda: clean_fid.kernel_distance(_there(reference.points).numpy(), generated.pool.numpy()),
    }
    known = dict(values or {})
    checks = []
    for metric in [metric for metric in wanted if metric in theirs]:
        try:
            with _quiet(seed):
                their = theirs[metric]()
        except ValueError as error:  # its matrix root came out complex
            log.warning("clean-fid cannot compute %s of these features (%s); it is left out", metric, error)
            continue
        our = known[metric] if metric in known else measure(generated, reference, [metric], seed=seed).values[metric]
        checks.append(CrossCheck(metric=metric, ours=our, theirs=their, difference=our - their, by="clean-fid"))
    return checks


@contextlib.contextmanager
def _quiet(seed: int) -> Iterator[None]:
    """clean-fid prints, warns of its own SciPy calls, and draws from NumPy's global generator, here from `seed`."""
    state = np.random.get_state()  # noqa: NPY002 (the global one is meant)
    np.random.seed(seed)  # noqa: NPY002
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


# Checks ----------------------------------------------------------------------------------------------------------


def _check(generated: Features, reference: Reference, wanted: Sequence[str], labels: Tensor | None) -> None:
    """Raises DataError when the metrics wanted cannot be computed from these."""
    count, points = len(generated.pool), reference.points
    _check_enough(count, "generated", wanted, _FEWEST_GENERATED)
    if points is not None:
        _check_enough(len(points), "reference", wanted, _FEWEST_POINTS)
    for kind, part, values in (
        *(("generated", *part) for part in generated._asdict().items()),
        ("reference", "pool", points),
    ):
        broken = 0 if values is None else values.numel() - int(values.isfinite().sum())
        if broken:
            raise DataError(
                f"{broken:,} of the {values.numel():,} {part} features of the {kind} images are not finite. "
                "The feature network's weights are damaged, or these features were not computed by it."
            )
    for part, values, size in (
        ("pool", generated.pool, None if points is None else points.shape[1]),
        ("pool", generated.pool, None if reference.pool is None else len(reference.pool.mean)),
        ("spatial", generated.spatial, None if reference.spatial is None else len(reference.spatial.mean)),
    ):
        if values is not None and size is not None and values.shape[1] != size:
            raise DataError(
                f"generated images have {values.shape[1]} {part} features each, reference images {size}. "
                "Compute both with the same feature network."
            )
    if labels is not None and len(labels) != count:
        raise DataError(f"there are {len(labels)} labels for {count} generated images; give one for each.")


def _check_enough(count: int, kind: str, wanted: Sequence[str], fewest: Mapping[str, int]) -> None:
    metric = max(wanted, key=lambda metric: fewest.get(metric, 1), default="")  # say the largest number at once
    if count < fewest.get(metric, 1):
        raise DataError(f"{count} {kind} images are too few: {metric} needs at least {fewest[metric]}. Give more.")
