"""Opening image files that are not trusted: the one place where Pillow reads a file, for training and for measuring."""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from harness.system.errors import DataError, one_line

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")  # nothing else is even tried, whatever a file is called
SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".webp", ".bmp"})

# What Pillow raises for files that are damaged, cut short, or something else than an image.
_UNREADABLE = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip


@contextmanager
def opened(path: Path, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """The image in a file, of one of the `formats`, its pixels not yet read.

    What reading it raises inside, ValueError included, becomes a DataError that names the file.
    """
    try:
        with Image.open(path, formats=formats) as image:
            yield image
    except _UNREADABLE as error:
        reason = one_line(str(error).replace(str(path), "")) or type(error).__name__
        raise DataError(
            f"{path} is damaged or no image that can be read ({reason}). Fetch it again or remove it, and repeat the "
            "command."
        ) from error
