"""Metrics from features: how far generated images are from the reference.

The arithmetic is torch-fidelity's, called on features directly, because its front end can neither be given a reference
nor compute sFID.   N generated images, R reference images, D features.
"""

import numpy as np
from torch import Tensor

from harness import torchvision_guard
from harness.errors import DataError
from harness.evaluation.features import Features

torchvision_guard.install()  # torch_fidelity imports torchvision

from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric  # noqa: E402
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric  # noqa: E402
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric  # noqa: E402

NEIGHBOURS = 3  # of the manifold estimate behind precision and recall, as in ADM (Kynkaanniemi et al. 2019)
SCORE_BLOCK = 5_000  # images of one inception score; a set's score is the mean over its blocks, as in ADM
INCEPTION = "inception"
_INCEPTION_NAMES = {"fd": "fid", "sfd": "sfid"}


def metric_name(metric: str, network: str, n: int) -> str:
    """The name of `metric` over n images, like "fd-digits@1k". Only Inception's distances are called FID: "fid50k"."""
    if network == INCEPTION:
        return f"{_INCEPTION_NAMES.get(metric, metric)}{_count(n)}"
    return f"{metric}-{network}@{_count(n)}"


def _count(n: int) -> str:
    thousands, hundreds = n // 1000, n % 1000 // 100
    if n < 1000 or n % 100:
        return str(n)
    return f"{thousands}.{hundreds}k" if hundreds else f"{thousands}k"


def measure(generated: Features, labels: Tensor, reference: Features, network_name: str) -> dict[str, float]:
    """Every metric of N generated images, asked for with `labels` (N,), by its name.

    Both features come from the network called `network_name`. Class accuracy is left out for Inception, whose 1,008
    outputs are not numbered like the data set's classes. Raises DataError when features are not finite, too few, or
    not of one network.
    """
    _check(generated, labels, reference)
    values = {
        "fd": frechet_distance(generated.pool, reference.pool),
        "sfd": frechet_distance(generated.spatial, reference.spatial),
        "is": inception_score(generated.logits),
    }
    values["precision"], values["recall"] = precision_and_recall(generated.pool, reference.pool)
    if network_name != INCEPTION:
        values["class_accuracy"] = class_accuracy(generated.logits, labels)
    return {metric_name(metric, network_name, len(labels)): value for metric, value in values.items()}


def frechet_distance(a: Tensor, b: Tensor) -> float:  # (N, D), (R, D)
    """Between Gaussians fitted to the two sets (Heusel et al. 2017, eq. 6), the mean taken in float64.

    ADM and torch-fidelity take the mean in float32, which moves FID by about 1e-6.
    """
    return fid_statistics_to_metric(_gaussian(a), _gaussian(b), verbose=False)[KEY_METRIC_FID]


def _gaussian(features: Tensor) -> dict[str, np.ndarray]:
    values = features.double().numpy()
    return {"mu": values.mean(axis=0), "sigma": np.cov(values, rowvar=False)}


def inception_score(logits: Tensor) -> float:  # (N, K)
    """exp of the mean divergence of an image's classes from all images' classes (Salimans et al. 2016).

    Taken over consecutive blocks of 5,000 images in the order given and averaged, as ADM's evaluator does. Images
    sorted by class therefore score far too low.
    """
    blocks = logits.split(SCORE_BLOCK)
    scores = [isc_features_to_metric(block, splits=1, shuffle=False)[KEY_METRIC_ISC_MEAN] for block in blocks]
    return sum(scores) / len(scores)


def precision_and_recall(generated: Tensor, reference: Tensor) -> tuple[float, float]:  # (N, D), (R, D)
    """Share of generated images inside the reference's manifold, and of reference images inside the generated one's.

    Kynkaanniemi et al. 2019 with 3 neighbours, in float32; ADM computes the distances in float16, which raises its
    precision by about 0.001 and its recall by about 0.002.
    """
    # torch-fidelity 0.4 takes the generated set first; swapped arguments would swap the two values.
    values = prc_features_to_metric(generated, reference, prc_neighborhood=NEIGHBOURS, save_cpu_ram=True, verbose=False)
    return values[KEY_METRIC_PRECISION], values[KEY_METRIC_RECALL]


def class_accuracy(logits: Tensor, labels: Tensor) -> float:  # (N, K), (N,)
    """Share of images that the network takes for the class that was asked for."""
    return (logits.argmax(1) == labels.cpu()).double().mean().item()


def _check(generated: Features, labels: Tensor, reference: Features) -> None:
    _check_set("generated", generated)
    _check_set("reference", reference)
    for part, values in generated._asdict().items():
        width = getattr(reference, part).shape[1]
        if values.shape[1] != width:
            raise DataError(
                f"generated images have {values.shape[1]} {part} features each, reference images {width}. "
                "Compute both with the same feature network."
            )
    if len(labels) != len(generated.pool):
        raise DataError(
            f"there are {len(labels)} labels for {len(generated.pool)} generated images; give one for each."
        )


def _check_set(kind: str, features: Features) -> None:
    count = len(features.pool)
    if count < NEIGHBOURS + 2:
        raise DataError(f"{count} {kind} images are too few: precision and recall need at least {NEIGHBOURS + 2}.")
    for part, values in features._asdict().items():
        broken = int((~values.isfinite()).sum())
        if broken:
            raise DataError(
                f"{broken:,} of the {values.numel():,} {part} features of the {kind} images are not finite. "
                "The feature network's weights are damaged, or these features were not computed by it."
            )
