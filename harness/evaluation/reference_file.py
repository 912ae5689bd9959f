"""References in files like ADM's: statistics of features, images, or both; read with care and written.

R images behind the statistics, D features of one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.npz import Archive
from harness.evaluation.images.image_set import ImageSet
from harness.evaluation.images.image_sets import NpzImages
from harness.evaluation.images.npz import write_npz
from harness.evaluation.metrics.statistics import Gaussian
from harness.system.errors import DataError
from harness.system.files import sha256_of

PROVENANCE = "provenance"  # the member that says, as JSON, where the statistics come from
PROVENANCE_BYTES = 2**20
SYMMETRY = 1e-5  # of a covariance's largest entry: sums in float32 leave about 1e-7


@dataclass(frozen=True, eq=False)
class ReferenceFile:
    """What a reference file holds. ADM's own do not say what their statistics were made with."""

    name: str
    sha256: str  # of the file
    pool: Gaussian | None  # mu, sigma
    spatial: Gaussian | None  # mu_s, sigma_s
    images: ImageSet | None  # arr_0
    features: str | None  # the feature network of the statistics
    features_sha256: str | None  # of its weights
    num_images: int | None  # R
    provenance: Mapping[str, Any] = field(default_factory=dict)


def read_reference(path: Path) -> ReferenceFile:
    """The reference in an .npz: the keys of ADM's evaluator, all judged, images left in the file.

    Raises DataError when the file is missing, damaged, holds neither statistics nor images, or statistics that cannot
    be ones.
    """
    with Archive(path) as archive:
        names = archive.names
        if "mu" not in names and "sigma" not in names and "arr_0" not in names:
            raise DataError(
                f"{path} is no reference: it holds {archive.listing}. One has mu and sigma, or images as "
                "arr_0, or both; `harness evaluate DATA --make-reference FILE.npz` makes one."
            )
        provenance = _provenance(archive)
        num_images = provenance.get("num_images")
        pool = _gaussian(archive, "mu", "sigma", num_images)
        spatial = _gaussian(archive, "mu_s", "sigma_s", num_images)
        if spatial is not None and pool is None:
            raise DataError(f"{path} has mu_s and sigma_s without mu and sigma. Fetch it again, or make another.")
    try:
        sha256 = sha256_of(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Check the file.") from None
    return ReferenceFile(
        name=path.name,
        sha256=sha256,
        pool=pool,
        spatial=spatial,
        images=NpzImages(path) if "arr_0" in names else None,
        features=provenance.get("features"),
        features_sha256=provenance.get("features_sha256"),
        num_images=num_images,
        provenance=provenance,
    )


def write_reference(
    path: Path, *, pool: Gaussian, spatial: Gaussian | None, images: ImageSet, provenance: Mapping[str, Any]
) -> None:
    """Write a reference that `read_reference` and ADM's evaluator read, at once or not at all.

    `provenance` says what the statistics are of: features, features_sha256, num_images, data, data_sha256 and the like.
    Raises DataError when the file cannot be written.
    """
    document = {"num_images": pool.count, **provenance}
    arrays = {"mu": pool.mean, "sigma": pool.covariance}
    if spatial is not None:
        arrays |= {"mu_s": spatial.mean, "sigma_s": spatial.covariance}
    arrays = {name: np.asarray(values, np.float64) for name, values in arrays.items()}
    write_npz(path, {**arrays, PROVENANCE: np.array(json.dumps(document, sort_keys=True))}, images)


def _gaussian(archive: Archive, mean_name: str, covariance_name: str, count: int | None) -> Gaussian | None:
    """The statistics under these names in float64; None where the file has neither."""
    there = [name for name in (mean_name, covariance_name) if name in archive.names]
    if not there:
        return None
    if len(there) == 1:
        raise DataError(f"{archive.path} has {there[0]}, but of {mean_name} and {covariance_name} needs both or none.")
    mean, covariance = _floats(archive, mean_name), _floats(archive, covariance_name)
    if mean.ndim != 1 or covariance.shape != 2 * mean.shape or not mean.size:
        raise _wrong(
            archive,
            f"{mean_name} of shape {mean.shape} and {covariance_name} of {covariance.shape} are no pair (D,), (D, D)",
        )
    largest = abs(covariance).max()
    if abs(covariance - covariance.T).max() > SYMMETRY * largest:
        raise _wrong(archive, f"{covariance_name} is not symmetric, so it is no covariance")
    if covariance.diagonal().min() < 0:
        raise _wrong(archive, f"{covariance_name} has negative variances on its diagonal")
    return Gaussian(count, mean, covariance)


def _floats(archive: Archive, name: str) -> np.ndarray:
    array = archive.array(name)
    if array.dtype.kind != "f":
        raise _wrong(archive, f"{name} holds {array.dtype} instead of floats")
    values = array.whole().astype(np.float64)
    broken = int((~np.isfinite(values)).sum())
    if broken:
        raise _wrong(archive, f"{broken:,} of the {values.size:,} values of {name} are not finite")
    return values


def _provenance(archive: Archive) -> dict[str, Any]:
    """What the file says of itself; nothing where it says nothing."""
    if PROVENANCE not in archive.names:
        return {}
    try:
        document = json.loads(str(archive.array(PROVENANCE).whole(limit_bytes=PROVENANCE_BYTES)[()]))
        num_images = document.get("num_images")
        texts = [document.get(key) for key in ("features", "features_sha256")]
    except (ValueError, AttributeError, RecursionError) as error:
        raise _wrong(archive, f"its {PROVENANCE} is no JSON object ({error})") from None
    if not all(text is None or isinstance(text, str) for text in texts):
        raise _wrong(archive, f"its {PROVENANCE} names the features by something else than text")
    if num_images is not None and (not isinstance(num_images, int) or num_images < 2):
        raise _wrong(archive, f"its {PROVENANCE} counts {num_images!r} images")
    return document


def _wrong(archive: Archive, what: str) -> DataError:
    return DataError(
        f"{archive.path}: {what}. Fetch the file again, or make one with `harness evaluate --make-reference`."
    )
