"""CIFAR-10's training set: 50,000 photographs of 32 x 32 pixels in 10 classes (Krizhevsky 2009).

N images.
"""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import torch

from harness.data.dataset import InMemory
from harness.system import downloads
from harness.system.errors import DataError

# The authors' binary version: plain bytes, where the Python version holds pickles.
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
FILE = "cifar-10-binary.tar.gz"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
LARGEST = 170_052_171  # bytes: exactly its size
BATCHES = tuple(f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, 6))
SIDE, NUM_CLASSES = 32, 10
RECORD = 1 + 3 * SIDE**2  # bytes: the label, then red, green and blue, each row by row


def load(folder: Path) -> InMemory:
    """The set from `folder`/cifar-10-binary.tar.gz, downloaded on first use.   (N, 3, 32, 32) in [-1, 1]

    Raises DataError when the file is missing and cannot be downloaded, or is not the published one.
    """
    path = folder / FILE
    try:
        if not path.is_file():
            downloads.fetch(URL, path, sha256=SHA256, most=LARGEST)
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"CIFAR-10 is not in {folder} and could not be downloaded ({error}). Fetch {URL} (sha256 {SHA256}) into "
            f"{folder}, then repeat the command."
        ) from None
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise DataError(f"{path} is not the published file: its sha256 is {found} instead of {SHA256}. Remove it.")
    records = np.concatenate([_batch(content, name) for name in BATCHES])  # (N, RECORD)
    clean = torch.from_numpy(records[:, 1:].reshape(-1, 3, SIDE, SIDE)).float() / 127.5 - 1
    return InMemory("cifar10", clean, torch.from_numpy(records[:, 0].astype(np.int64)), num_classes=NUM_CLASSES)


def _batch(content: bytes, name: str) -> np.ndarray:  # (10,000, RECORD) uint8
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        member = archive.extractfile(name)
        assert member is not None, "its hash says that it holds the batches"
        return np.frombuffer(member.read(), np.uint8).reshape(-1, RECORD)
