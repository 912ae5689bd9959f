"""Image files that are not trusted: the one place that lists and reads them, for training and for measuring.

Every pixel is read as it is in the file, or the file is refused by its name. H height, W width, C channels.
"""

import logging
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from harness.system.errors import DataError, one_line, some_of

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")  # nothing else is even tried, whatever a file is called
SUFFIXES = frozenset({".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".webp", ".bmp"})
OTHER_SUFFIXES = frozenset({
    ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif", ".jp2", ".jxl", ".ppm", ".pgm", ".pbm", ".ico", ".tga", ".exr",
    ".psd", ".svg", ".apng", ".dcm",
})  # fmt: skip

_FORMAT_BY_START = {
    "PNG": rb"\x89PNG\r\n\x1a\n", "JPEG": rb"\xff\xd8\xff", "GIF": rb"GIF8", "WebP": rb"RIFF....WEBP",
    "TIFF": rb"II[*+]\0|MM\0[*+]", "HEIC or AVIF": rb"....ftyp(?:hei|hev|mif|msf|avi)", "JPEG 2000": rb"\0\0\0\x0cjP  ",
}  # fmt: skip
GREY_MODES = ("1", "L", "LA")  # of Pillow: one bit, grey, grey and alpha
MODES = (*GREY_MODES, "P", "RGB", "PA", "RGBA", "CMYK")

# What Pillow raises for files that are damaged, cut short, or something else than an image.
_UNREADABLE = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip

log = logging.getLogger(__name__)
_remarked: set[Path] = set()  # files of which something was said; training reads each of them many times


# Listing -----------------------------------------------------------------------------------------------------------


def listed(folder: Path) -> tuple[list[os.DirEntry[str]], list[os.DirEntry[str]]]:
    """The files and the folders in a folder, sorted by name, without hidden ones.

    Raises DataError when it cannot be listed, or holds what is neither (a link that leads nowhere), or a name that no
    record could hold.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        what = "its permissions" if isinstance(error, PermissionError) else "the path"
        raise DataError(f"{folder} cannot be listed: {error.strerror}. Check {what}.") from None
    refuse_name(folder, *(entry.name for entry in entries))
    files: list[os.DirEntry[str]] = []
    folders: list[os.DirEntry[str]] = []
    neither: list[os.DirEntry[str]] = []
    for entry in entries:
        try:
            (folders if entry.is_dir() else files if entry.is_file() else neither).append(entry)
        except OSError:  # links in a circle
            neither.append(entry)
    if neither:
        raise DataError(
            f"{len(neither):,} of the entries of {folder} can be neither read nor listed: "
            f"{some_of(map(_lost, neither))}. Restore what they lead to, or remove them."
        )
    return files, folders


def walk(folder: Path, above: tuple[str, ...] = ()) -> Iterator[os.DirEntry[str]]:
    """All files under a folder, each folder's own before those of the folders in it, sorted by name.

    Raises DataError as `listed` does, and for a folder that a link leads back to.
    """
    place = os.path.realpath(folder)
    if place in above:
        raise DataError(f"{folder} is a link that leads back to a folder it lies in. Remove it.")
    files, folders = listed(folder)
    yield from files
    for inner in folders:
        yield from walk(Path(inner.path), (*above, place))


def refuse_name(folder: Path, *names: str) -> None:
    """Raises DataError for a name, the folder's own or one in it, that is not UTF-8."""
    for name in (folder.resolve().name, *names):
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"the name {os.fsencode(name)!r}, of {one_line(ascii(str(folder)))} or in it, is not UTF-8, so that no "
                "record could hold it. Rename it."
            ) from None


def image_kind(file: Path) -> str | None:
    """What kind of image a file is by its first bytes or else by its name, like "a JPEG"; None: it is no image."""
    try:
        with open(file, "rb") as opened:
            start = opened.read(16)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}. Check its permissions.") from None
    for kind, pattern in _FORMAT_BY_START.items():
        if re.match(pattern, start, re.DOTALL):
            return f"a {kind}"
    return "no image that can be read" if file.suffix.lower() in SUFFIXES | OTHER_SUFFIXES else None


def is_named_as_image(name: str) -> bool:
    """Whether a file is to be read as an image, by its name alone: opening 1.3 million files would take too long."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def left_out(folder: Path, files: Iterable[os.DirEntry[str]]) -> list[str]:
    """What is wrong with these files of a folder, which are not named as images are: that some are images."""
    others = {entry.path: kind for entry in files if (kind := image_kind(Path(entry.path)))}
    if not others:
        return []
    return [
        f"{len(others):,} images in {folder} would be left out: "
        f"{some_of(f'{os.path.relpath(path, folder)} ({kind})' for path, kind in others.items())}. "
        f"Files called {', '.join(sorted(SUFFIXES))} are read. Save these as PNG, rename or remove them."
    ]


def _lost(entry: os.DirEntry[str]) -> str:
    if not entry.is_symlink():
        return f"{entry.name} (neither a file nor a folder)"
    return f"{entry.name} (a link to {ascii(os.readlink(entry.path))[1:-1]}, which is not there)"


# Reading -----------------------------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """The image in a file, of one of the `formats`, its pixels not yet read.

    What reading it raises inside, ValueError included, becomes a DataError that names the file.
    """
    try:
        with Image.open(path, formats=formats) as image:
            yield image
    except _UNREADABLE as error:
        reason = (
            one_line(str(error).replace(f"image file {str(path)!r}", "it").replace(str(path), ""))
            or type(error).__name__
        )
        raise DataError(
            f"{path} is damaged or no image that can be read ({reason}). Fetch it again or remove it, and repeat the "
            "command."
        ) from error


def read(
    path: Path, formats: tuple[str, ...] = FORMATS, *, judge: Callable[[Image.Image], None] = lambda image: None
) -> Image.Image:
    """The image in a file as grey ("L") or "RGB" with 8 bits; `judge` may refuse it before its pixels are read.

    Palettes and fewer than 8 bits become the same colours. CMYK is converted by Pillow's formula, as ADM and DiT do,
    and of a photograph with several pictures (MPO) the first is taken: a warning names each such file once. Raises
    DataError for what cannot be read exactly: more than 8 bits, transparent pixels, animations, other modes.
    """
    with opened(path, formats) as image:
        judge(image)
        _refuse_inexact(path, image)
        if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] != 255:
            raise DataError(f"{path} is partly transparent. Put it on a background and save it as RGB, or remove it.")
        if image.mode == "CMYK":
            _remark(path, "is CMYK, converted to RGB without a colour profile, as ADM and DiT convert it")
        mode = "L" if image.mode in GREY_MODES else "RGB"
        return image.copy() if image.mode == mode else image.convert(mode)


def shape(path: Path, formats: tuple[str, ...] = FORMATS) -> tuple[int, int, int]:  # (H, W, C)
    """What `read` would give, by the beginning of the file alone. Raises DataError where that shows that it cannot."""
    with opened(path, formats) as image:
        _refuse_inexact(path, image)
        return image.height, image.width, 1 if image.mode in GREY_MODES else 3


def _refuse_inexact(path: Path, image: Image.Image) -> None:
    """Raises DataError for what has no 8 bits, no colours that are known, or several frames."""
    several = getattr(image, "n_frames", 1)
    if several > 1 and image.format != "MPO":
        raise DataError(f"{path} holds {several:,} frames, and images have one. Save the frame that is meant.")
    if several > 1:
        _remark(path, f"holds {several} pictures; the first is taken")
    wrong = None
    if image.format == "PNG" and ";16" in str(getattr(image, "tile", "")):
        wrong = "has 16 bits a channel"
    elif image.mode not in MODES:
        wrong = f"has pixels of the kind {image.mode} (Pillow's mode)"
    if wrong:
        raise DataError(
            f"{path} {wrong}, and images here are grey or RGB with 8 bits: converting it would lose values. Scale it "
            "to 0 .. 255 yourself and save it with 8 bits, or remove it."
        )


def _remark(path: Path, what: str) -> None:
    if path not in _remarked:
        _remarked.add(path)
        log.warning("%s %s.", path, what)
