"""Arrays as .npy files that are not trusted: judged by their header before a value is read, never unpickled."""

import io
import math
import os
import tokenize
import warnings
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch

from harness.system.errors import DataError
from harness.system.files import new_file, sha256_of

MAX_HEADER = 10_000  # bytes, as in numpy
MOST_SIDES = 32  # as in every numpy
ALIGNED = 16  # bytes: where the values begin, in every numpy
# What numpy raises for headers that are damaged, or deeper or larger than Python can take.
_MALFORMED = (ValueError, TypeError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError)


class Header(NamedTuple):
    """What an array says of itself."""

    shape: tuple[int, ...]
    dtype: np.dtype
    columns_first: bool  # Fortran's order
    start: int  # bytes before the values

    @property
    def num_bytes(self) -> int:
        """Of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


def header(file: IO[bytes]) -> Header:
    """The header of the array that begins here, read by numpy. ValueError unless it is of plain numbers or text."""
    start = file.read(MAX_HEADER)
    stream = io.BytesIO(start)
    try:
        with warnings.catch_warnings(action="ignore"):  # of headers that Python 2 wrote
            version = np.lib.format.read_magic(stream)
            if version not in ((1, 0), (2, 0)):
                raise ValueError("a newer version")
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, columns_first, dtype = read(stream, max_header_size=MAX_HEADER)
    except _MALFORMED:  # numpy's own words are of many lines, and advise to unpickle
        shown = start[:100].decode("latin-1")
        raise ValueError(f"its header {shown!r} describes no plain array, or is longer than any needs") from None
    if dtype.hasobject:
        raise ValueError("it holds pickled Python objects, which could run any program, so they are never read")
    if dtype.kind not in "biufcSU":
        raise ValueError(f"it holds {dtype}, no plain numbers or text")
    if len(shape) > MOST_SIDES or min(shape, default=0) < 0 or math.prod(filter(None, shape)) >= 2**60:
        raise ValueError(f"its header describes {len(shape)} sides, or more values than any memory has")
    return Header(shape, dtype, columns_first, stream.tell())


def parse(content: bytes) -> np.ndarray:
    """The array of a whole .npy file, read-only. ValueError when it is anything but that."""
    found = header(io.BytesIO(content))
    if len(content) != found.start + found.num_bytes:
        raise ValueError("truncated or too long")
    values = np.frombuffer(content, found.dtype, offset=found.start)
    return values.reshape(found.shape, order="F") if found.columns_first else values.reshape(found.shape)


def problem(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> str | None:
    """Why the file cannot hold this array, judged by its header and its size alone; None when it can."""
    try:
        with open(path, "rb") as file:
            found = header(file)
            size = file.seek(0, os.SEEK_END)
    except FileNotFoundError:
        return "is missing"
    except (OSError, ValueError) as error:
        return f"is no plain .npy array: {error}"
    if found.dtype != dtype:
        return f"holds {found.dtype} instead of {dtype}"
    if found.shape != shape:
        return f"has shape {found.shape} instead of {shape}"
    if found.columns_first and len(shape) > 1:
        return "is not stored row by row"
    if found.start % ALIGNED:
        return f"has values from byte {found.start} on, no multiple of {ALIGNED}"
    expected = found.start + found.num_bytes
    if size != expected:
        return f"is {'truncated' if size < expected else 'too long'}: {size:,} bytes instead of {expected:,}"
    return None


def mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A float16 file that has no problem, in place of a copy.

    Mapped by torch, which keeps no file open (a store with flips has 626), and as copy-on-write, so that tensors can
    be made of it without a warning; it is only read.
    """
    with open(path, "rb") as file:
        found = header(file)
    numbers = math.prod(shape)
    first = found.start // found.dtype.itemsize
    whole = torch.from_file(str(path), shared=False, size=first + numbers, dtype=torch.float16)
    return whole[first:].view(shape).numpy()


def read_into(path: Path, target: np.ndarray, *, first: int = 0) -> None:
    """Copy values of a file that has no problem, from its row `first` on, into an array; faster than from a map."""
    with open(path, "rb") as file:
        start = header(file).start
        file.seek(start + first * math.prod(target.shape[1:]) * target.itemsize)
        if file.readinto(target.reshape(-1).view(np.uint8)) != target.nbytes:
            raise DataError(f"{path} has become shorter while it was read. Repeat the command.")


def save(path: Path, array: np.ndarray) -> str:
    """Write the array, whole or not at all. Returns its file's sha256. Raises DataError when the disk refuses."""
    with new_file(path) as temporary:
        array = np.asarray(array, order="C")
        # np.save would not notice that the disk refuses the last bytes.
        with open(temporary, "wb") as file:
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
            file.write(array.data)
        return sha256_of(temporary)
