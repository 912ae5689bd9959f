"""What an importer finds in another project's files, and the checks that several formats share.

n images read together, C channels, S side, V values per position: 2C (mean, then std) or C (a sample).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from harness.data.latents.shards import IMAGENET_IMAGES
from harness.system.errors import DataError

SD_CHANNELS, SD_FACTOR, SD_SCALE = 4, 8, 0.18215  # of Stable Diffusion's VAE, which all of these formats were made for
LARGEST_SIDE = 256
ENOUGH_TO_JUDGE = 100  # images


class Part(NamedTuple):
    """Consecutive images of a source, as a store keeps them: not scaled, no log-variances."""

    values: np.ndarray  # (n, V, S, S)
    labels: np.ndarray | None  # (n,) whole numbers
    flipped: np.ndarray | None = None  # (n, V, S, S), of the mirrored images


@dataclass(frozen=True, kw_only=True)
class Source:
    """Another project's latents. `read(start, stop)` gives the images in between, or raises DataError."""

    num_images: int
    side: int
    layout: Literal["mean,std", "sample"]
    crop: str
    read: Callable[[int, int], Part]
    channels: int = SD_CHANNELS
    has_flips: bool = False
    has_labels: bool = True
    remark: str = ""  # what a reader of the manifest must know
    one_process_only: bool = False  # made by a program that loses images when it runs in several processes

    def check_count(self, expected: int | None, num_classes: int) -> None:
        """Raises DataError when there are not as many images as there must be."""
        if expected is None and self.one_process_only and num_classes == 1000:
            expected = IMAGENET_IMAGES
        if expected in (None, self.num_images):
            return
        raise DataError(
            f"the source holds {self.num_images:,} images instead of {expected:,}. {self._reason(expected)}"
        )

    def _reason(self, expected: int) -> str:
        if not self.one_process_only:
            return "Complete it, or import what there is with its own number, --images."
        processes = next((k for k in range(2, 1025) if self.num_images == -(-expected // k)), None)
        lost = f" ({processes} processes leave exactly this number)" if processes else ""
        return (
            "Its extraction numbers the files from 0 in every process, so on several GPUs they overwrite each other's"
            f"{lost}. Extract again on one GPU, or, if the set is meant to be this small, say so with --images."
        )


def side_of(num_values: int, channels: int, what: str) -> int:
    """The side of a square latent of so many values in so many channels. Raises DataError when it has none."""
    side = round((num_values / channels) ** 0.5)
    if side < 1 or side > LARGEST_SIDE or side * side * channels != num_values:
        raise DataError(f"{what} holds {num_values:,} values, which are no square latent of {channels} channels.")
    return side


def check_numbering(numbers: Sequence[int], what: str) -> None:
    """Raises DataError unless the numbers are 0, 1, 2, ... each once."""
    present = set(numbers)
    if not present:
        raise DataError(f"{what}: there are none. Give the folder that the extraction wrote.")
    if len(present) < len(numbers):
        twice = next(number for number, times in Counter(numbers).items() if times > 1)
        raise DataError(f"{what}: number {twice} is there twice. Remove the one that does not belong.")
    missing = next((number for number in range(len(present)) if number not in present), None)
    if missing is not None:
        raise DataError(
            f"{what}: number {missing} is missing, though there are {len(present):,}, up to {max(present)}. "
            "The extraction or the copy is not complete; repeat it."
        )


def check_std(std: np.ndarray, what: str) -> None:
    """Raises DataError when values that should be standard deviations are something else."""
    if (lowest := std.min()) < 0:
        raise DataError(
            f"{what}: the second half of the channels goes down to {lowest:.3g}, and standard deviations are never "
            "negative. They look like log-variances; import them by the format that stores those (maskdit-lmdb)."
        )


def std_of(logvar: np.ndarray, what: str) -> np.ndarray:
    """Standard deviations, of log-variances clamped to [-30, 20] as the VAE itself clamps them.

    Raises DataError when none is negative: latents' posteriors are narrow, so these are not log-variances.
    """
    if (lowest := logvar.min()) >= 0:
        raise DataError(
            f"{what}: the second half of the channels never goes below {lowest:.3g}, and log-variances do. They look "
            "like standard deviations; import them by the format that stores those (repa-zip)."
        )
    return np.exp(0.5 * np.clip(logvar, -30.0, 20.0))


def spaced(num_images: int) -> list[int]:
    """Up to 100 indices, evenly over the whole set: neighbours are of one class, and unlike the rest."""
    return sorted(set(np.linspace(0, num_images - 1, min(ENOUGH_TO_JUDGE, num_images)).astype(int).tolist()))


def check_spread(samples: np.ndarray, expected: float, what: str) -> None:
    """Raises DataError unless the samples spread about as the VAE's do: scaled ones by 1, others by 1 / scale."""
    with np.errstate(invalid="ignore", over="ignore"):  # of values that are not finite, which no spread fits
        spread = float(np.std(samples, dtype=np.float64))
    if not 0.4 < spread / expected < 2.5:
        raise DataError(
            f"{what}: the values spread by {spread:.3g}, and this format's spread by about {expected:.3g}. They were "
            "scaled or normalised in another way, or another VAE made them; they cannot be converted."
        )
