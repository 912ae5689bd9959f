"""fast-DiT's folders of one file per image: a scaled sample of the posterior.

Read in chuanyangjin/fast-DiT 0ddbd64, extract_features.py: imagenet256_features/<i>.npy is (1, C, S, S) float32, one
sample times 0.18215; imagenet256_labels/<i>.npy is (1,) int64. The image was cropped like ADM's and mirrored at random
before, so flips are frozen. Every process counts i from 0, so several overwrite each other's files.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from harness.data.importers.files import Files
from harness.data.importers.source import SD_CHANNELS, SD_SCALE, Part, Source, check_spread, side_of, spaced
from harness.system.errors import DataError

FEATURES, LABELS = "imagenet256_features", "imagenet256_labels"  # called so at other sizes too
PROGRAM, NAME = "extract_features.py", re.compile(r"(\d+)\.npy")


@contextmanager
def opened(source: Path) -> Iterator[Source]:
    """The folder that holds both folders."""
    features, labels = Files(source / FEATURES), Files(source / LABELS)
    samples, numbers = features.numbered(NAME, PROGRAM), labels.numbered(NAME, PROGRAM)
    if len(samples) != len(numbers):
        raise DataError(
            f"{source} holds {len(samples):,} latents and {len(numbers):,} labels. Several processes may have written "
            "over each other's files; extract again on one GPU."
        )
    what = f"one sample, (1, {SD_CHANNELS}, S, S)"
    first = features.array(samples[0], "f", (1, SD_CHANNELS, None, None), what)
    side = side_of(first.size, SD_CHANNELS, f"{features.path}: {samples[0]}")

    def sample(number: int) -> np.ndarray:  # (4, S, S)
        return features.array(samples[number], "f", (1, SD_CHANNELS, side, side), what)[0]

    def read(start: int, stop: int) -> Part:
        scaled = np.stack([sample(number) for number in range(start, stop)]).astype(np.float32)
        of_images = [labels.array(name, "iu", (1,), "one whole number") for name in numbers[start:stop]]
        return Part(scaled / SD_SCALE, np.concatenate(of_images))

    some = [sample(number) for number in spaced(len(samples))]
    check_spread(np.stack(some), 1.0, str(features.path))
    yield Source(
        num_images=len(samples),
        side=side,
        layout="sample",
        crop="adm-centre",
        read=read,
        remark="one posterior sample per image, mirrored at random once and for all",
        one_process_only=True,
    )
