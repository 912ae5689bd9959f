"""CIFAR-10's training set: 50,000 photographs of 32 x 32 pixels in 10 classes (Krizhevsky 2009).

N images.
"""

from http.client import HTTPException
from pathlib import Path

import torch

from harness import torchvision_guard
from harness.data.dataset import InMemory
from harness.errors import DataError


def load(folder: Path) -> InMemory:
    """The set from `folder`/cifar-10-batches-py, downloaded on first use.   (N, 3, 32, 32) in [-1, 1]

    Raises DataError when the files are neither there nor to be had.
    """
    torchvision_guard.install()
    from torchvision.datasets import CIFAR10  # seconds to import, and only this set needs it

    # The files are Python pickles, which can run code. torchvision compares every one with its MD5 before opening any,
    # here and after a download: what is read is what the authors published, or nothing.
    try:
        data = CIFAR10(folder, train=True, download=True)
    except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: an MD5 that differs
        raise DataError(
            f"CIFAR-10 is not in {folder} and could not be downloaded ({error}). Fetch {CIFAR10.url} "
            f"(md5 {CIFAR10.tgz_md5}) into {folder}, then repeat the command."
        ) from None
    clean = torch.from_numpy(data.data).permute(0, 3, 1, 2).float() / 127.5 - 1
    return InMemory("cifar10", clean, torch.tensor(data.targets), num_classes=len(data.classes))
