"""What images are measured against: statistics of features, images, or both; read from files like ADM's and written.

R images behind the statistics, D features of one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.dataset import Dataset
from harness.data.npz import Archive
from harness.evaluation.images.image_set import ImageSet
from harness.evaluation.images.image_sets import NpzImages
from harness.evaluation.images.npz import write_npz
from harness.evaluation.metrics.statistics import Gaussian
from harness.evaluation.networks.base import FeatureNetwork
from harness.model.pretrained import checksum
from harness.system.errors import DataError

PROVENANCE = "provenance"  # the member that says, as JSON, where the statistics come from
PROVENANCE_BYTES = 2**20
SYMMETRY = 1e-5  # of a covariance's largest entry: sums in float32 leave about 1e-7


_MAKE = "Make one for this network with `harness evaluate DATA --make-reference FILE.npz`."


@dataclass(frozen=True, eq=False)
class Source:
    """A reference that was found and judged, before features are extracted from it."""

    name: str
    sha256: str  # of the file, or of the data set
    images: ImageSet | None  # None: the file holds statistics alone
    pool: Gaussian | None = None  # given with it; None: to be computed from its images
    spatial: Gaussian | None = None
    features_sha256: str | None = None  # of the network its statistics were made with; None: it does not say
    num_images: int | None = None  # behind its statistics; None: it does not say
    provenance: Mapping[str, Any] = field(default_factory=dict)  # what a file says of itself; ADM's say nothing
    data: Dataset | None = None  # the data set that it is; None: it is a file

    @property
    def features(self) -> str | None:
        """The feature network of the statistics in a file."""
        return self.provenance.get("features")

    @property
    def has_spatial(self) -> bool:
        return self.spatial is not None or self.pool is None

    def refuse(self, network: FeatureNetwork) -> None:
        """Raises DataError when its statistics are of another feature network."""
        if self.pool is None:
            return
        if self.features_sha256 not in (None, network.sha256):
            raise DataError(
                f"the statistics in {self.name} were made with another feature network ({self.features_sha256[:8]}) "
                f"than {network.name} ({network.sha256[:8]}). {_MAKE}"
            )
        for kind, own, size in (
            ("mu", self.pool, network.pool_size),
            ("mu_s", self.spatial, network.spatial_size),
        ):
            if own is not None and size is not None and len(own.mean) != size:
                raise DataError(
                    f"{kind} in {self.name} has {len(own.mean)} numbers, and {network.name} gives {size}: it was made "
                    f"with another feature network. {_MAKE}"
                )

    def remarks(self, network: FeatureNetwork) -> list[str]:
        """What cannot be checked, for the record."""
        if self.pool is None or self.features_sha256 is not None:
            return []
        return [f"{self.name} does not say which network its statistics are of; they are taken for {network.name}'s."]


def read_reference(path: Path) -> Source:
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
    sha256 = checksum(path)
    images = NpzImages(path) if "arr_0" in names else None
    return Source(
        name=path.name,
        sha256=sha256,
        images=images,
        pool=pool,
        spatial=spatial,
        features_sha256=provenance.get("features_sha256"),
        num_images=num_images or (len(images) if images is not None and pool is None else None),
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
