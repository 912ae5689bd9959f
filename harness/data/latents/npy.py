"""Arrays as plain .npy files that are not trusted: judged by their header before a value is read, never unpickled."""

import hashlib
import io
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from harness.system.errors import DataError

# Then the length of the header, and its text as numpy has always written it: matched, not evaluated.
_MAGIC = b"\x93NUMPY\x01\x00"
# Each digit can belong to one side only: with two ways to cut them, a header of digits would be tried for years.
_HEADER = re.compile(
    rb"{'descr': '([<|][fiu][1248])', 'fortran_order': False, "
    rb"'shape': \(((?:\d{1,15}(?:, ?\d{1,15})*(?:, ?)?)?)\), } *\n"
)
MOST_SIDES = 32  # as in every numpy
_ALIGNED = 16  # bytes: where the values begin, in every numpy


def header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, dtype and first byte of the values. ValueError unless these are numbers in row order."""
    magic, length = file.read(len(_MAGIC)), file.read(2)
    if magic != _MAGIC or len(length) < 2:
        raise ValueError("another format, or another version of it")
    text = file.read(int.from_bytes(length, "little"))
    match = _HEADER.fullmatch(text)
    if match is None:
        raise ValueError(f"its header {text.strip()[:80]!r} describes no numbers in row order")
    shape = tuple(int(side) for side in match.group(2).decode().split(",") if side.strip())
    if len(shape) > MOST_SIDES or math.prod(filter(None, shape)) >= 2**60:
        raise ValueError(f"its header describes {len(shape)} sides, or more values than any memory has")
    if file.tell() % _ALIGNED:
        raise ValueError(f"its values begin at byte {file.tell()}, no multiple of {_ALIGNED}")
    try:
        return shape, np.dtype(match.group(1).decode()), file.tell()
    except TypeError:  # f1
        raise ValueError(f"it holds values of the unknown kind {match.group(1).decode()!r}") from None


def parse(content: bytes) -> np.ndarray:
    """The array of a whole .npy file, read-only. ValueError when it is anything but that."""
    shape, dtype, start = header(io.BytesIO(content))
    if len(content) != start + math.prod(shape) * dtype.itemsize:
        raise ValueError("truncated or too long")
    return np.frombuffer(content, dtype, offset=start).reshape(shape)


def problem(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> str | None:
    """Why the file cannot hold this array, judged by its header and its size alone; None when it can."""
    try:
        with open(path, "rb") as file:
            found, dtype_found, start = header(file)
            size = file.seek(0, os.SEEK_END)
    except FileNotFoundError:
        return "is missing"
    except (OSError, ValueError) as error:
        return f"is no plain .npy array: {error}"
    if dtype_found != dtype:
        return f"holds {dtype_found} instead of {dtype}"
    if found != shape:
        return f"has shape {found} instead of {shape}"
    expected = start + math.prod(shape) * dtype.itemsize
    if size != expected:
        return f"is {'truncated' if size < expected else 'too long'}: {size:,} bytes instead of {expected:,}"
    return None


def mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A float16 file that has no problem, in place of a copy.

    Mapped by torch, which keeps no file open (a store with flips has 626), and as copy-on-write, so that tensors can
    be made of it without a warning; nobody writes.
    """
    with open(path, "rb") as file:
        _, dtype, start = header(file)
    numbers = math.prod(shape)
    first = start // dtype.itemsize  # a header's length is a multiple of 64
    whole = torch.from_file(str(path), shared=False, size=first + numbers, dtype=torch.float16)
    return whole[first:].view(shape).numpy()


def read_into(path: Path, target: np.ndarray) -> None:
    """Copy the values of a file that has no problem into an array of their shape; twice as fast as from a map."""
    with open(path, "rb") as file:
        header(file)
        if file.readinto(target.reshape(-1).view(np.uint8)) != target.nbytes:
            raise DataError(f"{path} has become shorter while it was read. Verify the data.")


def save(path: Path, array: np.ndarray) -> str:
    """Write the array beside its place, on the disk for certain, then move it there. Returns its file's sha256."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            with open(temporary, "wb+") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
                file.seek(0)
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return sha256


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A full or failing disk as an error that a user can mend."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or f"the disk took a part of it ({error})"  # numpy's own error has no reason
        raise DataError(f"{path} cannot be written: {reason}. Mend that and repeat.") from None
