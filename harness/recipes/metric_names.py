"""Names of metrics and feature networks, and what a value is called: "fid50k", "fd-digits@1k"."""

import re
from collections.abc import Iterable, Sequence

from harness.system.errors import UsageError, unknown

DIGITS, OWN = "digits", "own"  # classifiers that are trained here: of the digits, and of what a run trains on
FEATURE_NETWORKS = ("clip", DIGITS, "dinov2", "inception", OWN)
PAPER = ("fd", "sfd", "is", "precision", "recall")  # what the SD-DiT paper reports
BEYOND = ("kid", "density", "coverage", "fd_infinity")
NAMED = {
    "fd": "Fréchet distance of pooled features; Inception's is FID",
    "sfd": "Fréchet distance of spatial features; Inception's is sFID",
    "is": "inception score, of blocks of 5,000 images",
    "precision": "share of generated images inside the reference's manifold, 3 neighbours",
    "recall": "share of reference images inside the generated images' manifold, 3 neighbours",
    "kid": "kernel distance, mean over 100 subsets of 1,000 images",
    "density": "how many neighbourhoods of reference images a generated one lies in, over 5",
    "coverage": "share of reference images with a generated one in their neighbourhood, 5 neighbours",
    "fd_infinity": "Fréchet distance extrapolated to infinitely many images",
    "class_accuracy": "share of images the network takes for the class that was asked for",
    "cmmd": "CLIP's maximum mean discrepancy",
    "precision_adm_fp16": "precision with ADM's float16 distances",
    "recall_adm_fp16": "recall with ADM's float16 distances",
}
HELD_OUT = {  # of the network itself, on held-out images: no images are drawn, and no feature network reads them
    "denoiser_error": "error of the averaged network as a denoiser of held-out images, over 16 noise levels",
    "linear_probe": "best accuracy on held-out images of a linear map of a block's output, over blocks and levels",
}
LESS_IS_BETTER = ("denoiser_error", "fd", "fid", "kid", "sfd", "sfid")  # families that a comparison may read
OF_POINTS = frozenset(
    {"precision", "recall", "kid", "density", "coverage", "cmmd", "precision_adm_fp16", "recall_adm_fp16"}
)  # compare with the reference's images one by one: its statistics are not enough

_OF_A_CLASSIFIER = (*PAPER, "class_accuracy")
_NO_CLASSES = ("fd", "precision", "recall")  # what a network without a spatial map gives
_DEFAULTS = {DIGITS: _OF_A_CLASSIFIER, OWN: _OF_A_CLASSIFIER, "dinov2": _NO_CLASSES, "clip": ("cmmd",)}
ALL = "all"
_EVERYTHING = {
    DIGITS: (*_OF_A_CLASSIFIER, *BEYOND),
    OWN: (*_OF_A_CLASSIFIER, *BEYOND),
    "dinov2": (*_NO_CLASSES, *BEYOND),
    "clip": ("cmmd", *_NO_CLASSES, *BEYOND),
}
_INCEPTION = "inception"
_INCEPTION_NAMES = {"fd": "fid", "sfd": "sfid", "fd_infinity": "fid_infinity"}
_KEYS = {name: metric for metric, name in _INCEPTION_NAMES.items()}


def called(text: str) -> list[str]:
    """Keys of the metrics in a list like "fid,is"; "all" stays for `meant`. Raises as `require`."""
    if text == ALL:
        return [ALL]
    names = [name.strip().lower() for name in text.split(",")]
    wanted = [_KEYS.get(name, name) for name in names]
    require(wanted)
    return wanted


def meant(wanted: Sequence[str], network: str) -> tuple[str, ...]:
    """The metrics wanted of features by the network called so: "all" is what it can give, once each (no float16)."""
    return _EVERYTHING.get(network.split("-")[0], (*PAPER, *BEYOND)) if list(wanted) == [ALL] else tuple(wanted)


def require(wanted: Sequence[str]) -> None:
    """Raises UsageError with the nearest names when a key is unknown, and when none or one twice is asked for."""
    for metric in wanted:
        if metric not in NAMED:
            raise unknown("metric", metric, NAMED)
    if len(set(wanted)) != len(wanted) or not wanted:
        raise UsageError(f"metrics are {', '.join(wanted) or 'none'}: name at least one, and each once.")


def default(network: str) -> tuple[str, ...]:
    """The default metrics of the feature network of this name: the paper's, if it can give them."""
    return _DEFAULTS.get(network.split("-")[0], PAPER)


def metric_name(metric: str, network: str, n: int) -> str:
    """The name of `metric` over n images, like "fd-digits@1k". Only Inception's distances are called FID: "fid50k"."""
    if network != _INCEPTION:
        return f"{metric}-{network}@{_count(n)}"
    name = _INCEPTION_NAMES.get(metric, metric)
    return f"{name}@{_count(n)}" if name[-1].isdigit() else f"{name}{_count(n)}"


def held_out_name(metric: str, n: int) -> str:
    """The name of a metric of n held-out images, like "denoiser_error@1k"."""
    return f"{metric}@{_count(n)}"


def parts_of(name: str) -> tuple[str, float]:
    """A metric's name without its number of images, and that number: ("fd-own", 5000) of "fd-own@5k"."""
    found = re.fullmatch(r"(.+?)@?([\d.]+)(k?)", name)
    return (found[1], float(found[2]) * (1000 if found[3] else 1)) if found else (name, 0.0)


def read_as(yardstick: str, metrics: Iterable[str]) -> str | None:
    """The metric that a comparison by `yardstick` reads: the one called so, or that over most images.

    "denoiser_error" finds "denoiser_error@1k". Only metrics of which less is better can stand for a distance: raises
    UsageError for others.
    """
    if re.split(r"[-@\d]", yardstick, maxsplit=1)[0] not in LESS_IS_BETTER:
        raise unknown("yardstick", yardstick, LESS_IS_BETTER, see="less of it must be better")
    found = [name for name in metrics if yardstick in (name, parts_of(name)[0])]
    return max(found, key=lambda name: (parts_of(name)[1], name), default=None)


def _count(n: int) -> str:
    thousands, hundreds = n // 1000, n % 1000 // 100
    if n < 1000 or n % 100:
        return str(n)
    return f"{thousands}.{hundreds}k" if hundreds else f"{thousands}k"


def require_network(name: str) -> None:
    """Raises UsageError with the nearest names when there is no feature network called `name`."""
    if name not in FEATURE_NETWORKS:
        raise unknown("feature network", name, FEATURE_NETWORKS)
