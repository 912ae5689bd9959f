"""Generated images on disk in parts: processes share the parts out, and a finished part is never drawn again.

N images, H height, W width, C channels.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.data import npy
from harness.world import World

DrawImages = Callable[[int, int], Tensor]  # (first, stop) -> images first .. stop - 1, (stop - first, H, W, C) uint8


def draw_in_parts(
    folder: Path,
    num_images: int,
    part_images: int,
    draw: DrawImages,
    *,
    world: World,
    advance: Callable[[int], None] = lambda done: None,
) -> Tensor | None:
    """All images, in order, of which each process of `world` draws every world.size-th part.   (N, H, W, C) uint8

    The main process has them; the others get None. The parts stay in `folder`, whose name must say everything that
    decides the images; the caller removes it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    bounds = [(first, min(first + part_images, num_images)) for first in range(0, num_images, part_images)]
    for number, (first, stop) in enumerate(bounds):
        path = _path(folder, first, stop)
        if number % world.size == world.rank and not path.exists():
            npy.save(path, draw(first, stop).numpy())
        advance(stop)
    world.wait()
    if not world.is_main:
        return None
    return torch.cat([torch.from_numpy(np.load(_path(folder, *part), allow_pickle=False)) for part in bounds])


def _path(folder: Path, first: int, stop: int) -> Path:
    return folder / f"images-{first:07d}-{stop:07d}.npy"
