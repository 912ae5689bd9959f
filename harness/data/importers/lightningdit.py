"""LightningDiT's safetensors: one sample of the posterior per image, and one of its mirror image.

Read in hustvl/LightningDiT 2725fed, extract_features.py and datasets/img_latent_dataset.py: files like
latents_rank00_shard000.safetensors hold `latents` and `latents_flip` (n, C, S, S), samples that are neither scaled nor
normalised, and `labels` (n,). Images are cropped like ADM's. Where the number of images is no multiple of the number of
processes, some are there twice. Training normalises each channel by latents_stats.pt, a pickle, which is never read; a
store has one scale, so only the four channels of Stable Diffusion's VAE can be imported.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from harness.data.importers.source import SD_CHANNELS, SD_SCALE, Part, Source, check_numbering, check_spread, spaced
from harness.system.errors import DataError

NAME = re.compile(r"latents_rank(\d+)_shard(\d+)\.safetensors")


@contextmanager
def opened(source: Path) -> Iterator[Source]:
    """The folder of the shards."""
    paths = _paths(source)
    with ExitStack() as stack:
        try:
            files = [stack.enter_context(safe_open(path, framework="pt")) for path in paths]
        except (OSError, SafetensorError) as error:
            raise DataError(f"{source}: a shard cannot be read: {error}. Copy it again.") from None
        yield _source(files, paths)


def _paths(source: Path) -> list[Path]:
    """Shards in the order of their names, which is the order LightningDiT counts the images in."""
    paths = sorted(source.glob("*.safetensors"))
    matches = [NAME.fullmatch(path.name) for path in paths]
    if not paths or not all(matches):
        strange = next((path.name for path, match in zip(paths, matches, strict=True) if not match), "no shard")
        raise DataError(f"{source} holds {strange}; LightningDiT's are called latents_rank00_shard000.safetensors.")
    shards: dict[int, list[int]] = {}
    for match in filter(None, matches):
        shards.setdefault(int(match.group(1)), []).append(int(match.group(2)))
    check_numbering(list(shards), f"the ranks of the shards in {source}")
    for rank, numbers in shards.items():
        check_numbering(numbers, f"the shards of rank {rank} in {source}")
    return paths


def _source(files: list[Any], paths: list[Path]) -> Source:
    shapes = [_shape(file, path) for file, path in zip(files, paths, strict=True)]
    if len({(shape[1:], has_flips) for shape, has_flips in shapes}) > 1:
        raise DataError(f"the shards in {paths[0].parent} differ in the shape of their latents, or in having flips.")
    (_, channels, side, _), has_flips = shapes[0]
    if channels != SD_CHANNELS:
        raise DataError(
            f"{paths[0].parent} holds latents of {channels} channels: not Stable Diffusion's VAE but another, whose "
            "channels LightningDiT normalises one by one with latents_stats.pt. A store has one scale; they cannot be "
            "imported."
        )
    starts = np.cumsum([0] + [shape[0] for shape, _ in shapes])

    def rows(key: str, start: int, stop: int) -> torch.Tensor:
        parts = []
        for file, first, last in zip(files, starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            if first < stop and start < last:
                parts.append(file.get_slice(key)[max(start - first, 0) : min(stop, last) - first])
        return torch.cat(parts)

    def read(start: int, stop: int) -> Part:
        values = rows("latents", start, stop).float().numpy()
        flipped = rows("latents_flip", start, stop).float().numpy() if has_flips else None
        return Part(values, rows("labels", start, stop).numpy(), flipped)

    some = [rows("latents", number, number + 1).float().numpy() for number in spaced(int(starts[-1]))]
    check_spread(np.concatenate(some), 1 / SD_SCALE, str(paths[0].parent))
    return Source(
        num_images=int(starts[-1]),
        side=side,
        layout="sample",
        crop="adm-centre",
        read=read,
        has_flips=has_flips,
        remark="one posterior sample per image",
    )


def _shape(file: Any, path: Path) -> tuple[tuple[int, ...], bool]:
    """(n, C, S, S) of a shard whose parts fit each other, and whether it holds mirrored images."""
    keys = set(file.keys())
    if not {"latents", "labels"} <= keys <= {"latents", "latents_flip", "labels"}:
        raise DataError(f"{path} holds {', '.join(sorted(keys))} instead of latents, latents_flip, labels.")
    shapes = {key: tuple(file.get_slice(key).get_shape()) for key in keys}
    latents = shapes["latents"]
    if len(latents) != 4 or latents[2] != latents[3] or 0 in latents:
        raise DataError(f"{path}: latents have shape {latents} instead of (images, channels, side, side).")
    if shapes.get("latents_flip", latents) != latents or shapes["labels"] != latents[:1]:
        raise DataError(f"{path}: the shapes do not fit each other: {shapes}.")
    return latents, "latents_flip" in keys
