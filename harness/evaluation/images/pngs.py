"""A folder of PNGs that is not trusted: judged by the first bytes of its files before one is decoded.

H height, W width, C channels.
"""

import math
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from harness.data.images import reading
from harness.system.errors import DataError

MAX_PIXELS = 2**24  # of one image, 4096 x 4096: a larger one is a mistake, or meant to fill the memory

_PNG = b"\x89PNG\r\n\x1a\n"
_IHDR = struct.Struct(">8s4x4sIIBB")  # signature, name of the first chunk, width, height, bits, kind of colour
_CHANNELS = {0: 1, 2: 3, 6: 3}  # grey, RGB and RGBA, whose pixels must be opaque
_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey and transparency", 6: "RGBA"}
_OTHERS = {b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"RIFF": "WebP", b"II*\0": "TIFF", b"MM\0*": "TIFF"}


def judged(folder: Path, pool: ThreadPoolExecutor) -> tuple[list[Path], tuple[int, int, int]]:
    """The images in a folder or, if there are none, in the folders in it: sorted files, and the shape of all of them.

    Raises DataError when there are none, of several sizes, or when one is no PNG, grey or RGB, with 8 bits.
    """
    entries = _listed(folder)
    found = _judged(entries, pool)
    if not found:
        inner = [entry for directory in entries if directory.is_dir() for entry in _listed(directory)]
        found = _judged(inner, pool)
    if not found:
        npz = next((entry for entry in entries if entry.suffix == ".npz"), None)
        hint = f"Give {npz}, if that is meant." if npz else "Give a folder of PNGs, or of folders of PNGs."
        raise DataError(f"{folder} holds no PNG images. {hint}")
    first, shape = found[0]
    for file, other in found:
        if other != shape:
            raise DataError(
                f"{folder} holds images of several sizes: {first.relative_to(folder)} is {_size(shape)}, "
                f"{file.relative_to(folder)} is {_size(other)}. Keep those of one size."
            )
    refuse_pixels(first, shape[:2])
    return [file for file, _ in found], shape


def decode(file: Path, shape: tuple[int, int, int]) -> np.ndarray:  # (H, W, C)
    """The pixels of a PNG that was judged. Raises DataError when they are damaged, transparent or of another shape."""
    with reading.opened(file, ("PNG",)) as image:
        if image.size != (shape[1], shape[0]):  # a second header, behind the one that was judged
            raise ValueError(f"it unpacks to {image.size[0]} x {image.size[1]} pixels")
        pixels = np.array(image)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if pixels.shape[2] == 4:
        if pixels[..., 3].min() < 255:
            raise DataError(f"{file} is partly transparent. Put it on a background and save it as RGB.")
        pixels = pixels[..., :3].copy()
    if pixels.shape != shape:
        raise DataError(f"{file} has become another image while the folder was read. Repeat the command.")
    return pixels


def refuse_pixels(path: Path, size: tuple[int, int]) -> None:  # (H, W)
    """Raises DataError for images that are too large to be meant."""
    if math.prod(size) > MAX_PIXELS:
        side = math.isqrt(MAX_PIXELS)
        raise DataError(f"{path}: images of {size[0]} x {size[1]} pixels are larger than {side} x {side}. Reduce them.")


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror}. Check its permissions.") from None


def _judged(entries: list[Path], pool: ThreadPoolExecutor) -> list[tuple[Path, tuple[int, int, int]]]:
    shapes = pool.map(_png_shape, entries)
    return [(entry, shape) for entry, shape in zip(entries, shapes, strict=True) if shape]


def _png_shape(file: Path) -> tuple[int, int, int] | None:
    """(H, W, C) by the first bytes, None for what is no image. DataError for an image that cannot be taken."""
    try:
        if not file.is_file():
            return None
        with open(file, "rb") as opened:
            start = opened.read(_IHDR.size)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}. Check its permissions.") from None
    if not start.startswith(_PNG):
        _refuse_other_format(file, start)
        return None
    if len(start) < _IHDR.size or start[12:16] != b"IHDR":
        raise DataError(f"{file} is cut short or damaged. Save it again, or remove it.")
    _, _, width, height, bits, colour = _IHDR.unpack(start)
    if bits != 8 or colour not in _CHANNELS or 0 in (width, height):
        kind = _COLOURS.get(colour, "unknown colours")
        raise DataError(
            f"{file} is {width} x {height}, {kind} with {bits} bits; metrics are of grey or RGB images with 8 bits, "
            "and converting would change them. Save the images as RGB."
        )
    return height, width, _CHANNELS[colour]


def _refuse_other_format(file: Path, start: bytes) -> None:
    kind = next((kind for magic, kind in _OTHERS.items() if start.startswith(magic)), None)
    if kind is None and file.suffix.lower() not in reading.SUFFIXES:
        return  # a text or a table beside the images
    why = "Lossy compression changes FID by several points (2.50 became 5.80 for one set)" if kind == "JPEG" else ""
    raise DataError(
        f"{file} is {'a ' + kind if kind else 'no image that can be read'}, and only PNGs are taken. "
        f"{why + '. ' if why else ''}Save the images as PNG from the start, not converted; or remove it."
    )


def _size(shape: tuple[int, int, int]) -> str:
    return f"{shape[1]} x {shape[0]} {'RGB' if shape[2] == 3 else 'grey'}"
