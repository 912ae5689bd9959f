"""Archives of arrays (.npz) that are not trusted: judged before a value is read, read by rows, never unpickled.

B rows of a piece.
"""

import io
import math
import mmap
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Self

import numpy as np

from harness.data import npy
from harness.system.errors import DataError, one_line, some_of

ARRAY_BYTES = 2**28  # of an array that is read whole: a covariance of 4,096 features in float64 is half of it
LARGE_BYTES = 2**28  # from here on an array must not be packed tighter than MAX_RATIO
MAX_RATIO = 100  # times; images reach about 3, drawn ones 30, and a bomb of zeros 1,000
MAX_DIRECTORY = 2**22  # bytes of the archive's own list: 40,000 arrays, where ADM's have five
MAX_NAME = 100  # characters
SHOWN = 20  # names in a message
_END = 2**17  # bytes: a zip's last record, with a comment of 64 KiB at most
_LOCAL_HEADER = "<26xHH"  # before each member: at its end the lengths of the name and of what follows it
PIECE_BYTES = 2**25  # of images that are read or written at once
_CHUNK = 2**20  # bytes: zipfile copies what it unpacks, so it is asked for little at once

# What zipfile raises for archives that are damaged, cut short, or made in a way it does not know.
DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, OverflowError, RuntimeError)


class _Bounded(io.BufferedReader):
    """A file of which little is read at once: zipfile reads an archive's directory whole, whatever its size."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            size = _END  # zipfile looks for the end of the archive
        if size > MAX_DIRECTORY:
            raise ValueError(f"its directory of {size:,} bytes is longer than any of arrays")
        return super().read(size)


class Archive:
    """An open .npz. No array of it is believed, or refused, until it is asked for; every failure is a DataError.

    It closes itself when nothing refers to it any more, or at the end of a `with`.
    """

    def __init__(self, path: Path, *, large_bytes: int = LARGE_BYTES):
        self.path, self.large_bytes = path, large_bytes
        with self.reading("the archive"):
            self._file = _Bounded(open(path, "rb", buffering=0))  # noqa: SIM115 (closed by `close`)
            try:
                self.zip = zipfile.ZipFile(self._file)
                for info in self.zip.infolist():  # each has its name twice, and zipfile compares them
                    self.zip.open(info).close()
            except BaseException:
                self._file.close()
                raise
        infos = [info for info in self.zip.infolist() if info.filename.endswith(".npy")]
        self._infos = {info.filename.removesuffix(".npy"): info for info in infos}
        self._arrays: dict[str, Array] = {}
        wrong = None
        if len(self._infos) != len(infos):
            wrong = "two arrays of one name, so it is ambiguous"
        elif not all(name.isprintable() and len(name) <= MAX_NAME for name in self._infos):
            wrong = "arrays whose names are no names"
        if wrong:
            self.close()
            raise DataError(f"{path} holds {wrong}. Fetch it again, or save it again with numpy.savez.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_infos"):
            self.close()

    def close(self) -> None:
        self.zip.close()
        self._file.close()

    @property
    def names(self) -> list[str]:
        """Of the arrays, without ".npy"."""
        return list(self._infos)

    @property
    def listing(self) -> str:
        """The names, for messages."""
        return some_of(self.names, SHOWN) or "no arrays"

    def array(self, name: str) -> "Array":
        """The array, no value of it read yet. Raises DataError when it is missing, damaged or no plain numbers."""
        if name not in self._infos:
            raise DataError(f"{self.path} has no array {name!r}; it has {self.listing}.")
        if name not in self._arrays:
            self._arrays[name] = Array(self, name, self._infos[name])
        return self._arrays[name]

    @contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """What goes wrong inside, as a DataError."""
        try:
            yield
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror or error}. Check the file.") from None
        except DAMAGED as error:
            reason = one_line(error, 200) or type(error).__name__
            raise DataError(f"{self.path} is damaged, or no .npz: {name}: {reason}. Fetch or save it again.") from None


class Array:
    """An array of an archive, read whole or by rows, in this machine's byte order; nothing of it is kept.

    Rows are unpacked onward from the last piece, and from the start when rows before it are wanted. Reading all rows in
    order verifies their checksum. Reading raises DataError when the array is damaged.
    """

    def __init__(self, archive: Archive, name: str, info: zipfile.ZipInfo):
        self._archive, self._name, self._info = archive, name, info
        self._stream: IO[bytes] | None = None
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise self._refused("is compressed in a way that numpy does not use")
        unpacked, packed = info.file_size, info.compress_size
        if unpacked > archive.large_bytes and unpacked > MAX_RATIO * packed:
            raise self._refused(
                f"unpacks {packed:,} bytes to {unpacked:,}, more than {MAX_RATIO} times, as no images do"
            )
        with archive.reading(name), archive.zip.open(info) as stream:
            self._header = header = npy.header(stream)
            expected = header.start + header.num_bytes
            if expected != unpacked:
                raise ValueError(f"{unpacked:,} bytes instead of the {expected:,} of {header.shape}, {header.dtype}")
        self.shape, self.dtype = header.shape, header.dtype.newbyteorder("=")

    def __len__(self) -> int:
        return self.shape[0]

    def whole(self, *, limit_bytes: int = ARRAY_BYTES) -> np.ndarray:
        """All values of an array that is small. Raises DataError if it is not."""
        header = self._header
        if header.num_bytes > limit_bytes:
            raise self._refused(
                f"declares {header.num_bytes:,} bytes, where {limit_bytes:,} are the most that make sense"
            )
        with self._archive.reading(self._name), self._archive.zip.open(self._info) as stream:
            stream.read(header.start)
            values = np.empty(header.shape, header.dtype, order="F" if header.columns_first else "C")
            _fill(stream, values.T if header.columns_first else values)
        return values.astype(self.dtype, copy=False)

    def refuse_columns(self) -> None:
        """Raises DataError when the array cannot be read by rows."""
        if self._header.columns_first or not self.shape:
            raise self._refused("is not stored row by row; save numpy.ascontiguousarray of it")

    def read(self, start: int, stop: int) -> np.ndarray:  # (B, ...)
        """Rows start .. stop - 1 of an array that is stored row by row."""
        assert 0 <= start <= stop <= len(self), f"rows {start} to {stop} of {len(self)}"
        header, row = self._header, (self.shape[1:])
        with self._archive.reading(self._name):
            stream, self._stream = self._stream, None  # kept again only if all goes well: its place must be known
            if stream is None:
                stream = self._archive.zip.open(self._info)
                stream.read(header.start)
            _go_to(stream, header.start + start * math.prod(row) * header.dtype.itemsize)
            values = np.empty((stop - start, *row), header.dtype)
            _fill(stream, values)
            self._stream = stream
        return values.astype(self.dtype, copy=False)

    def mapped(self) -> np.ndarray | None:
        """All values in place of a copy, read-only, for any order of rows; None where they are compressed.

        Their checksum is not verified.
        """
        if self._info.compress_type != zipfile.ZIP_STORED:
            return None
        with self._archive.reading(self._name), open(self._archive.path, "rb") as file:
            file.seek(self._info.header_offset)
            head = struct.unpack(_LOCAL_HEADER, file.read(struct.calcsize(_LOCAL_HEADER)))
            start = file.tell() + sum(head) + self._header.start
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return np.frombuffer(memory, self._header.dtype, math.prod(self.shape), start).reshape(self.shape)

    def _refused(self, why: str) -> DataError:
        path, name = self._archive.path, self._name
        return DataError(f"{path} is refused: {name} {why}. Fetch it again, or save it with numpy.savez.")


def _go_to(stream: IO[bytes], place: int) -> None:
    """Skip to a place of the unpacked array in pieces: ZipExtFile.seek would read 16 MiB at once.

    Raises EOFError where the array ends before it.
    """
    if stream.tell() > place:
        stream.seek(0)
    while stream.tell() < place:
        if not stream.read(min(_CHUNK, place - stream.tell())):
            raise EOFError("it ends early")


def _fill(stream: IO[bytes], values: np.ndarray) -> None:
    """The next bytes of the stream into an array. EOFError when there are too few."""
    view, done = memoryview(values.reshape(-1).view(np.uint8)), 0
    while done < len(view):
        piece = stream.read(min(_CHUNK, len(view) - done))
        if not piece:
            raise EOFError("it ends early")
        view[done : done + len(piece)] = piece
        done += len(piece)
