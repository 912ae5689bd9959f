"""Generated images on disk in parts: processes share the parts out, and a finished part is never drawn again.

N images, H height, W width, C channels.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from torch import Tensor

from harness.data import npy
from harness.system.files import sha256_of, writing
from harness.system.processes.world import World

DrawImages = Callable[[int, int], Tensor]  # (first, stop) -> images first .. stop - 1, (stop - first, H, W, C) uint8


def draw_in_parts(
    folder: Path,
    num_images: int,
    part_images: int,
    shape: tuple[int, int, int],
    draw: DrawImages,
    *,
    world: World,
    advance: Callable[[int], None] = lambda done: None,
) -> list[Path]:
    """The files of all N images of `shape` (H, W, C) in order, of which each process draws every world.size-th.

    Every process gets all of them. A file that was cut short, or is not what the hash beside it says, is drawn again. A
    part is written while the next is drawn, so that a GPU does not wait for the disk. The parts stay in `folder`, whose
    name must say everything that decides the images; the caller removes it. Raises DataError when one cannot be
    written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    bounds = [(first, min(first + part_images, num_images)) for first in range(0, num_images, part_images)]
    paths = [folder / f"images-{first:07d}-{stop:07d}.npy" for first, stop in bounds]
    with ThreadPoolExecutor(1, "parts") as writer:
        written: Future[None] | None = None
        for number, (path, (first, stop)) in enumerate(zip(paths, bounds, strict=True)):
            expected = (stop - first, *shape)
            if number % world.size == world.rank and not _whole(path, expected):
                images = draw(first, stop)
                assert images.shape == expected, f"drew images of shape {tuple(images.shape)}, expected {expected}"
                if written:
                    written.result()  # raise its error now, and keep at most two parts in memory
                written = writer.submit(_save, path, images.contiguous().numpy())
            advance(stop)
        if written:
            written.result()
    world.wait()
    return paths


def _save(path: Path, images: np.ndarray) -> None:
    sha256 = npy.save(path, images)
    with writing(path):
        _hash_of(path).write_text(sha256, encoding="utf-8")


def _whole(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether the file holds such images, and the very ones that were drawn."""
    if npy.problem(path, shape, np.dtype(np.uint8)):
        return False
    try:
        return _hash_of(path).read_bytes() == sha256_of(path).encode()
    except OSError:
        return False  # without its hash a flipped bit would go unnoticed


def _hash_of(part: Path) -> Path:
    return part.with_suffix(".sha256")
