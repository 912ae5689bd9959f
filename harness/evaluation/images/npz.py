"""Archives of arrays (.npz) that are not trusted: judged before a value is read, read by rows, never unpickled.

B rows of a piece.
"""

import io
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from harness.data.latents.npy import writing
from harness.evaluation.images.image_set import ImageSet
from harness.system.errors import DataError, one_line
from harness.system.files import sync

ARRAY_BYTES = 2**28  # of an array that is read whole: a covariance of 4,096 features in float64 is half of it
LARGE_BYTES = 2**28  # from here on an array must not be packed tighter than MAX_RATIO
MAX_RATIO = 100  # times; images reach about 3, drawn ones 30, and a bomb of zeros 1,000
MAX_HEADER = 10_000  # bytes, as in numpy
MAX_SIDES = 32  # of a shape, as in every numpy
MAX_DIRECTORY = 2**22  # bytes of the archive's own list: 40,000 arrays, where ADM's have five
MAX_NAME = 100  # characters
SHOWN = 20  # names in a message
PIECE_BYTES = 2**25  # of images written at once
_END = 2**17  # bytes: a zip's last record, with a comment of 64 KiB at most
_CHUNK = 2**20  # zipfile copies what it unpacks, so it is asked for little at once

# As numpy writes it, and in the order it does; Python 2's numbers end in L. Matched, not evaluated; each digit
# can belong to one side only, or a header of digits would be tried for years.
_HEADER = re.compile(
    r"\{'descr': (?:'(?P<descr>[^']*)'|\[.*\]), 'fortran_order': (?P<columns>True|False), "
    r"'shape': \((?P<shape>(?:\d{1,15}L?(?:, ?\d{1,15}L?)*(?:, ?)?)?)\),? *\}\s*"
)
_DTYPE = re.compile(r"[<>|=]?[biufcSU]\d{1,9}")
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip's member: then its name and an extra field, of these lengths

# What zipfile raises for archives that are damaged, cut short, or made in a way it does not know.
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, OverflowError, RuntimeError)


@dataclass(frozen=True)
class Member:
    """An array as its header and the archive's directory describe it, which agree."""

    shape: tuple[int, ...]
    dtype: np.dtype  # as stored; arrays that are read have this machine's byte order
    columns_first: bool  # Fortran's order
    header: bytes
    info: zipfile.ZipInfo

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def stored(self) -> bool:
        """Not compressed: any row can be read without those before it."""
        return self.info.compress_type == zipfile.ZIP_STORED


class _Bounded(io.BufferedReader):
    """A file of which little is read at once: zipfile reads an archive's directory whole, whatever its size."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            size = _END  # it looks for the end of the archive
        if size > MAX_DIRECTORY:
            raise ValueError(f"its directory of {size:,} bytes is longer than any of arrays")
        return super().read(size)


class Archive:
    """An open .npz. Nothing of a member is believed, or refused, until it is asked for; every failure is a DataError.

    Closes itself when it is let go, or at the end of a `with`.
    """

    def __init__(self, path: Path, *, large_bytes: int = LARGE_BYTES):
        self.path, self._large_bytes = path, large_bytes
        with self._reading("the archive"):
            self._file = _Bounded(open(path, "rb", buffering=0))  # noqa: SIM115 (closed by `close`)
            self._size = path.stat().st_size
            try:
                self._zip = zipfile.ZipFile(self._file)
            except BaseException:
                self._file.close()
                raise
        infos = [info for info in self._zip.infolist() if info.filename.endswith(".npy")]
        self._infos = {info.filename.removesuffix(".npy"): info for info in infos}
        self._judged: dict[str, Member] = {}
        wrong = None
        with self._reading("the archive"):
            agree = self._names_agree()
        if not agree:
            wrong = "is damaged: its directory names other arrays than lie in it"
        elif len(self._infos) != len(infos):
            wrong = "holds two arrays of one name, so it is ambiguous"
        elif not all(name.isprintable() and len(name) <= MAX_NAME for name in self._infos):
            wrong = "holds arrays whose names are no names"
        if wrong:
            self.close()
            raise DataError(f"{path} {wrong}. Fetch it again, or save it again with numpy.savez.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_zip"):
            self.close()

    def close(self) -> None:
        self._zip.close()
        self._file.close()

    @property
    def names(self) -> list[str]:
        """Of the arrays, without ".npy"."""
        return list(self._infos)

    @property
    def listing(self) -> str:
        """The names, for messages."""
        more = f" and {len(self._infos) - SHOWN:,} more" if len(self._infos) > SHOWN else ""
        return ", ".join(self.names[:SHOWN]) + more or "no arrays"

    def member(self, name: str) -> Member:
        """What the array is, no value of it read. Raises DataError when it is missing, damaged or no plain numbers."""
        if name not in self._infos:
            raise DataError(f"{self.path} has no array {name!r}; it has {self.listing}.")
        if name not in self._judged:
            self._judged[name] = self._judge(name, self._infos[name])
        return self._judged[name]

    def array(self, name: str, *, limit_bytes: int = ARRAY_BYTES) -> np.ndarray:
        """A whole array that is small, in this machine's byte order. Raises DataError as `member`, or if it is not."""
        member = self.member(name)
        if member.num_bytes > limit_bytes:
            raise self._refused(
                name, f"declares {member.num_bytes:,} bytes, where {limit_bytes:,} are the most that make sense"
            )
        values = np.empty(member.shape, member.dtype, order="F" if member.columns_first else "C")
        with self._reading(name), self._opened(member) as stream:
            _fill(stream, values.T if member.columns_first else values)
        return _native(values)

    def rows(self, name: str) -> "Rows":
        """The array to be read by rows. Raises DataError as `member`, or when it is stored column by column."""
        member = self.member(name)
        if member.columns_first or not member.shape:
            raise self._refused(name, "is not stored row by row; save numpy.ascontiguousarray of it")
        return Rows(self, name, member)

    def _names_agree(self) -> bool:
        """Every member has its name twice. A flipped bit in one of them would make an array another one, or none."""
        with open(self.path, "rb") as file:
            for info in self._zip.infolist():
                file.seek(info.header_offset)
                length, _ = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
                encoding = "utf-8" if info.flag_bits & 0x800 else "cp437"
                if file.read(length) != info.orig_filename.encode(encoding):
                    return False
        return True

    def _judge(self, name: str, info: zipfile.ZipInfo) -> Member:
        if info.flag_bits & 1:
            raise self._refused(name, "is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise self._refused(name, "is compressed in a way that numpy does not use")
        unpacked, packed = info.file_size, info.compress_size
        if info.header_offset + packed > self._size or (info.compress_type == zipfile.ZIP_STORED and unpacked > packed):
            raise self._refused(name, f"is cut short: the file has {self._size:,} bytes")
        if unpacked > self._large_bytes and unpacked > MAX_RATIO * packed:
            raise self._refused(
                name, f"unpacks {packed:,} bytes to {unpacked:,}, more than {MAX_RATIO} times, as no images do"
            )
        with self._reading(name), self._zip.open(info) as stream:
            shape, dtype, columns_first, header = _header(stream)
            expected = len(header) + math.prod(shape) * dtype.itemsize
            if expected != unpacked:
                raise ValueError(f"{unpacked:,} bytes instead of the {expected:,} of shape {shape}, {dtype}")
        return Member(shape, dtype, columns_first, header, info)

    @contextmanager
    def _opened(self, member: Member) -> Iterator[IO[bytes]]:
        """The array's bytes after its header. zipfile compares their checksum when the last one is read."""
        with self._zip.open(member.info) as stream:
            stream.read(len(member.header))
            yield stream

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror or error}. Check the file.") from None
        except _DAMAGED as error:
            reason = one_line(error, 200) or type(error).__name__
            raise DataError(f"{self.path} is damaged, or no .npz: {name}: {reason}. Fetch or save it again.") from None

    def _refused(self, name: str, why: str) -> DataError:
        return DataError(f"{self.path} is refused: {name} {why}. Fetch it again, or save it with numpy.savez.")


class Rows:
    """An array's rows, a piece at a time, of which nothing is kept.

    A stored array is read where the rows lie. A compressed one is unpacked onward from the last piece, and from the
    start when rows before it are wanted. Reading all rows in order verifies the checksum of either.
    """

    def __init__(self, archive: Archive, name: str, member: Member):
        self._archive, self._name, self._member = archive, name, member
        self.shape, self.dtype = member.shape, member.dtype.newbyteorder("=")
        self._stream: IO[bytes] | None = None  # of a compressed array, unpacked up to the row self._next
        self._next = 0
        self._checksum = zlib.crc32(member.header)  # of a stored array, up to the row self._next

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, stop: int) -> np.ndarray:  # (B, ...)
        """Rows start .. stop - 1. Raises DataError when they are damaged."""
        assert 0 <= start <= stop <= len(self), f"rows {start} to {stop} of {len(self)}"
        values = np.empty((stop - start, *self.shape[1:]), self._member.dtype)
        with self._archive._reading(self._name):
            if self._member.stored:
                self._read_stored(start, values)
            else:
                self._unpack(start, values)
        return _native(values)

    def _read_stored(self, start: int, values: np.ndarray) -> None:
        info = self._member.info
        with open(self._archive.path, "rb", buffering=0) as file:
            file.seek(info.header_offset)
            skipped = sum(_LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))) + len(self._member.header)
            file.seek(skipped + start * self._member.row_bytes, os.SEEK_CUR)
            _fill(file, values)
        if start == self._next:
            self._checksum = zlib.crc32(_bytes_of(values), self._checksum)
            self._next += len(values)
            if self._next == len(self) and self._checksum != info.CRC:
                raise ValueError("its checksum is another")

    def _unpack(self, start: int, values: np.ndarray) -> None:
        stream, self._stream = self._stream, None  # kept again only if all goes well: its place must be known
        if stream is None or start < self._next:
            stream = self._archive._zip.open(self._member.info)
            stream.read(len(self._member.header))
            self._next = 0
        missing = (start - self._next) * self._member.row_bytes
        while missing:
            skipped = len(stream.read(min(missing, _CHUNK)))
            if not skipped:
                raise EOFError("it ends early")
            missing -= skipped
        _fill(stream, values)
        self._stream, self._next = stream, start + len(values)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype, bool, bytes]:
    """Shape, dtype, whether columns come first, and the bytes up to the values. ValueError unless plain numbers."""
    start = stream.read(8)
    width = {b"\x93NUMPY\x01\x00": 2, b"\x93NUMPY\x02\x00": 4}.get(start)
    if width is None:
        raise ValueError("it is no array of numpy's, or in a newer format")
    start += stream.read(width)
    length = int.from_bytes(start[8:], "little")
    if length > MAX_HEADER:
        raise ValueError(f"a header of {length:,} bytes is longer than any array needs")
    text = stream.read(length)
    if len(text) != length:
        raise EOFError("it ends in its header")
    match = _HEADER.fullmatch(text.decode("latin-1"))
    descr = (match["descr"] or "") if match else ""  # none of a record, whose descr is a list
    if descr.endswith("O"):
        raise ValueError("it holds pickled Python objects, which could run any program, so they are never read")
    if match is None or not _DTYPE.fullmatch(descr):
        raise ValueError(f"its header {text.strip()[:80]!r} describes no plain numbers or text")
    shape = tuple(int(side.strip(" L")) for side in match["shape"].split(",") if side.strip())
    if len(shape) > MAX_SIDES or math.prod(filter(None, shape)) >= 2**60:  # of no values too, if one side is 0
        raise ValueError(f"its header describes {len(shape)} sides, or more values than any memory has")
    try:
        return shape, np.dtype(descr), match["columns"] == "True", start + text
    except TypeError:
        raise ValueError(f"it holds values of the unknown kind {descr!r}") from None


def _fill(stream: Any, values: np.ndarray) -> None:
    """The next bytes of the stream into an array. EOFError when there are too few."""
    view, done = _bytes_of(values), 0
    while done < len(view):
        read = stream.readinto(view[done : done + _CHUNK])
        if not read:
            raise EOFError("it ends early")
        done += read


def _bytes_of(values: np.ndarray) -> memoryview:
    return memoryview(values.reshape(-1).view(np.uint8))


def _native(values: np.ndarray) -> np.ndarray:
    return values.astype(values.dtype.newbyteorder("="), copy=False)


# Writing -----------------------------------------------------------------------------------------------------------


def write_npz(path: Path, arrays: Mapping[str, np.ndarray], images: ImageSet | None = None) -> None:
    """Write `images` as arr_0, (N, H, W, C) uint8, and small `arrays` by their names, as ADM's evaluator reads them.

    Images are read and written piece by piece, not compressed. The file appears under its name when it is on the disk
    and whole, or not at all; the same content gives the same bytes. Raises DataError when it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
                if images is not None:
                    with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as file:
                        _write_images(file, images)
                for name, values in arrays.items():
                    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                        np.lib.format.write_array(
                            file, np.ascontiguousarray(values).reshape(values.shape), (1, 0), False
                        )
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _write_images(file: IO[bytes], images: ImageSet) -> None:
    shape = (len(images), *images.shape)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    at_once = max(1, PIECE_BYTES // math.prod(images.shape))
    for start in range(0, len(images), at_once):
        piece = images.read(start, min(start + at_once, len(images)))
        assert piece.shape[1:] == images.shape, f"images of shape {tuple(piece.shape[1:])}, expected {images.shape}"
        file.write(piece.contiguous().numpy())
