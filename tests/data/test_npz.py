"""Archives of arrays: whatever is wrong with one is told in a line, and whatever is right is read as numpy reads it."""

import io
import json
import os
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from tensor_images import TensorImages

from harness.data.npz import Archive
from harness.evaluation.images.image_set import ImageSet
from harness.evaluation.images.npz import write_npz
from harness.system.errors import DataError

IMAGES = np.random.default_rng(0).integers(256, size=(37, 6, 5, 3), dtype=np.uint8)


def npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


def packed(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def changed(path: Path, offset: int, value: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[offset : offset + len(value)] = value
    path.write_bytes(content)


@pytest.fixture(params=["stored", "compressed"])
def archive(request, tmp_path) -> Path:
    path = tmp_path / "images.npz"
    save = np.savez if request.param == "stored" else np.savez_compressed
    save(path, arr_0=IMAGES, labels=np.arange(37))
    return path


# Reading ---------------------------------------------------------------------------------------------------------


def test_rows_are_the_array_s_in_whatever_pieces_and_order_they_are_read(archive):
    with Archive(archive) as opened:
        rows = opened.array("arr_0")
        for start, stop in [(0, 37), (0, 1), (1, 5), (20, 37), (3, 9), (9, 9), (36, 37), (0, 2)]:
            assert np.array_equal(rows.read(start, stop), IMAGES[start:stop])


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_rows_far_ahead_and_far_back_can_be_read(compression, tmp_path):
    """Another process begins with the second half of the images: it skips more than is read at once."""
    array = np.random.default_rng(0).integers(256, size=(24, 2**19), dtype=np.uint8)  # 12 MiB
    with Archive(packed(tmp_path / "a.npz", {"x": npy(array)}, compression)) as opened:
        rows = opened.array("x")
        for first in (20, 2, 23, 0):
            assert np.array_equal(rows.read(first, first + 1), array[first : first + 1])


def test_what_an_archive_holds_is_known_without_reading_it(archive):
    with Archive(archive) as opened:
        assert opened.names == ["arr_0", "labels"]
        assert (opened.array("arr_0").shape, opened.array("arr_0").dtype) == (IMAGES.shape, np.uint8)
        assert np.array_equal(opened.array("labels").whole(), np.arange(37))


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(12, dtype=">f4").reshape(3, 4),
        np.asfortranarray(np.arange(24, dtype=">i8").reshape(2, 3, 4)),
        np.float16([1, np.nan, np.inf]),
        np.array('{"a": "é"}'),
        np.array([True, False]),
        np.empty((0, 4)),
        np.array(3.5),
    ],
    ids=lambda array: f"{array.dtype.str}-{array.shape}-{'F' if np.isfortran(array) else 'C'}",
)
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_arrays_of_any_order_byte_order_and_version_are_read_as_numpy_reads_them(array, version, tmp_path):
    with Archive(packed(tmp_path / "a.npz", {"x": npy(array, version)})) as opened:
        found = opened.array("x").whole()
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype.newbyteorder("=")
    assert found.dtype.isnative


def test_rows_have_this_machine_s_byte_order(tmp_path):
    with Archive(packed(tmp_path / "a.npz", {"x": npy(np.arange(12, dtype=">u2").reshape(6, 2))})) as opened:
        found = opened.array("x").read(2, 4)
    assert found.dtype.isnative
    assert found.tolist() == [[4, 5], [6, 7]]


def test_headers_that_python_2_wrote_are_understood(tmp_path):
    text = b"{'descr': '<i4', 'fortran_order': False, 'shape': (2L, 3L), }"
    text = text.ljust(117) + b"\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + np.arange(6, dtype="<i4").tobytes()
    with Archive(packed(tmp_path / "a.npz", {"x": content})) as opened:
        assert opened.array("x").whole().tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_reading_by_rows_takes_the_memory_of_a_piece_and_not_of_the_array(compression, tmp_path):
    piece = 16 * 2**14
    array = np.random.default_rng(0).integers(4, size=(512, 2**14), dtype=np.uint8)  # 8 MiB
    with Archive(packed(tmp_path / "a.npz", {"x": npy(array)}, compression)) as opened:
        del array
        rows = opened.array("x")
        tracemalloc.start()
        for start in range(0, 512, 16):
            rows.read(start, start + 16)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 16 * piece  # half the array, most of it what zlib and zipfile need at any size


# Damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_short_is_refused_at_once(archive, share):
    content = archive.read_bytes()
    archive.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"images\.npz is damaged, or no \.npz.*Fetch or save it again"):
        Archive(archive)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(DataError, match=r"none\.npz cannot be read: No such file"):
        Archive(tmp_path / "none.npz")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_changed_byte_is_found_when_all_rows_were_read(compression, tmp_path):
    """Far behind the header, which zipfile reads with what follows it."""
    path = packed(tmp_path / "a.npz", {"arr_0": npy(np.tile(IMAGES, (1, 20, 20, 1)))}, compression)
    changed(path, path.stat().st_size * 2 // 3, b"\x13\x14")
    with Archive(path) as opened:
        rows = opened.array("arr_0")
        with pytest.raises(DataError, match="damaged"):
            [rows.read(start, start + 1) for start in range(37)]


def test_after_a_failed_read_no_wrong_rows_are_given(archive, monkeypatch):
    """An interruption in the middle of a piece must not shift the pieces after it."""
    with Archive(archive) as opened:
        rows = opened.array("arr_0")
        rows.read(0, 3)
        with monkeypatch.context() as patch:
            patch.setattr("harness.data.npz._fill", lambda stream, values: stream.read(7) and 1 / 0)
            with pytest.raises(ZeroDivisionError):
                rows.read(3, 5)
        assert np.array_equal(rows.read(3, 5), IMAGES[3:5])


@pytest.mark.parametrize("content", [npy(IMAGES)[:800], npy(IMAGES)[:-1], npy(IMAGES) + b"more"])
def test_an_array_that_ends_elsewhere_than_its_shape_says_is_refused(content, tmp_path):
    path = packed(tmp_path / "a.npz", {"arr_0": content})
    with Archive(path) as opened, pytest.raises(DataError, match="bytes instead of the"):
        opened.array("arr_0")


class Exploding:
    """Leaves a trace when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def test_pickled_objects_are_refused_and_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", arr_0=np.array([Exploding()], dtype=object), mu=np.zeros(3))
    with Archive(Path("a.npz")) as opened:
        with pytest.raises(DataError, match="arr_0: it holds pickled Python objects"):
            opened.array("arr_0")
        assert opened.array("mu").whole().shape == (3,)  # what nobody asks for does no harm
    assert not Path("unpickled").exists()


HEADERS = {
    "another format": b"GIF89a          ",
    "a newer version": b"\x93NUMPY\x03\x00" + struct.pack("<I", 10) + b"{}        ",
    "a huge header": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b" " * 100,
    "a header cut short": b"\x93NUMPY\x01\x00" + struct.pack("<H", 400) + b"{'descr': '<f8'",
    "an empty array": b"",
}
TEXTS = {
    "code": "{'descr': __import__('os').mkdir('run'), 'fortran_order': False, 'shape': (1,), }",
    "a record": "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,), }",
    "dates": "{'descr': '<M8[ns]', 'fortran_order': False, 'shape': (1,), }",
    "an unknown width": "{'descr': '<f3', 'fortran_order': False, 'shape': (1,), }",
    "a negative side": "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }",
    "an endless side": "{'descr': '<f8', 'fortran_order': False, 'shape': (" + "9" * 5000 + ",), }",
    "huge text": "{'descr': '<U999999999', 'fortran_order': False, 'shape': (999999999999999,), }",
    "deep brackets": "{'descr': " + "[" * 9000 + ", 'fortran_order': False, 'shape': (1,), }",
}
for name, text in TEXTS.items():
    HEADERS[name] = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize("content", HEADERS.values(), ids=HEADERS)
def test_a_header_that_describes_no_plain_array_is_refused(content, tmp_path):
    with (
        Archive(packed(tmp_path / "a.npz", {"x": content + bytes(8)})) as opened,
        pytest.raises(DataError, match=r"a\.npz is damaged, or no \.npz: x: .*Fetch or save it again") as caught,
    ):
        opened.array("x").whole()
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    """64 MiB of zeros in 64 kB: with a limit of 1 MiB here, so that no test needs to pack a gigabyte."""
    path = packed(tmp_path / "bomb.npz", {"arr_0": npy(np.zeros((2**26 // 48, 4, 4, 3), np.uint8))})
    assert path.stat().st_size < 2**17
    with (
        Archive(path, large_bytes=2**20) as opened,
        pytest.raises(DataError, match=r"unpacks .* bytes .* as no images do"),
    ):
        opened.array("arr_0")
    with Archive(path) as opened:  # what would take no time to read may be as empty as it likes
        assert not opened.array("arr_0").read(0, 10).any()


def test_an_array_that_is_to_be_read_whole_has_a_limit(archive):
    with Archive(archive) as opened, pytest.raises(DataError, match=r"declares 3,330 bytes, where 3,000 are the most"):
        opened.array("arr_0").whole(limit_bytes=3000)


def test_an_array_that_lies_about_its_size_takes_no_more_memory_than_it_declares(tmp_path):
    """Both the directory and the header say 80 bytes; 64 MiB follow."""
    path = packed(tmp_path / "a.npz", {"x": npy(np.zeros(2**26, np.uint8))})
    whole = path.read_bytes()
    directory = whole.rindex(b"PK\x01\x02")
    declared = len(npy(np.zeros(80, np.uint8)))
    changed(path, directory + 24, struct.pack("<I", declared))
    tracemalloc.start()
    with Archive(path) as opened, pytest.raises(DataError, match="damaged"):
        opened.array("x").whole()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


@pytest.mark.parametrize("flag", [1, 1 | 64])
def test_an_encrypted_array_is_refused(archive, flag):
    directory = archive.read_bytes().index(b"PK\x01\x02")
    changed(archive, directory + 8, struct.pack("<H", flag))
    with pytest.raises(DataError, match=r"arr_0.npy'.* is encrypted|strong encryption"):
        Archive(archive)


def test_a_way_of_compressing_that_numpy_does_not_use_is_refused(tmp_path):
    with (
        Archive(packed(tmp_path / "a.npz", {"x": npy(IMAGES)}, zipfile.ZIP_BZIP2)) as opened,
        pytest.raises(DataError, match="x is compressed in a way that numpy does not use"),
    ):
        opened.array("x").whole()


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_two_arrays_of_one_name_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", npy(np.zeros(3)))
        archive.writestr("x.npy", npy(np.ones(3)))
    with pytest.raises(DataError, match="two arrays of one name"):
        Archive(tmp_path / "a.npz")


def test_an_array_that_is_not_there_is_told_with_those_that_are(archive):
    with Archive(archive) as opened, pytest.raises(DataError, match="has no array 'mu'; it has arr_0, labels"):
        opened.array("mu").whole()


@pytest.mark.parametrize("name", ["a\nb", "a" * 101])
def test_names_that_are_no_names_are_refused(name, tmp_path):
    with pytest.raises(DataError, match="holds arrays whose names are no names"):
        Archive(packed(tmp_path / "a.npz", {name: npy(IMAGES)}))


def test_columns_first_cannot_be_read_by_rows(tmp_path):
    with (
        Archive(packed(tmp_path / "a.npz", {"x": npy(np.asfortranarray(IMAGES))})) as opened,
        pytest.raises(DataError, match=r"not stored row by row; save numpy\.ascontiguousarray"),
    ):
        opened.array("x").refuse_columns()


# Writing ---------------------------------------------------------------------------------------------------------


class Watched(ImageSet):
    """Notes how many images are read at once; fails, if wanted, at one of them."""

    def __init__(self, images: ImageSet, fails_at: int | None = None):
        self._images, self._fails_at, self.largest = images, fails_at, 0
        self.name, self.shape = images.name, images.shape

    def __len__(self):
        return len(self._images)

    def read(self, start, stop):
        self.largest = max(self.largest, stop - start)
        if self._fails_at is not None and self._fails_at < stop:
            raise KeyboardInterrupt
        return self._images.read(start, stop)


@pytest.fixture
def images() -> TensorImages:
    return TensorImages("images", torch.from_numpy(IMAGES))


def test_numpy_reads_what_was_written(images, tmp_path):
    arrays = {"labels": np.arange(37), "mu": np.float64([0.1, np.pi]), "text": np.array(json.dumps({"a": "ü"}))}
    write_npz(tmp_path / "new" / "a.npz", arrays, images)
    with np.load(tmp_path / "new" / "a.npz", allow_pickle=False) as found:
        assert found.files == ["arr_0", "labels", "mu", "text"]
        assert np.array_equal(found["arr_0"], IMAGES)
        for name, values in arrays.items():
            assert np.array_equal(found[name], values)
            assert found[name].shape == values.shape


def test_adm_s_evaluator_can_stream_what_was_written(images, tmp_path):
    """It opens arr_0.npy in the zip, and streams only the first two versions of the header, in C order."""
    write_npz(tmp_path / "a.npz", {}, images)
    with zipfile.ZipFile(tmp_path / "a.npz") as archive, archive.open("arr_0.npy") as file:
        assert np.lib.format.read_magic(file) == (1, 0)
        assert np.lib.format.read_array_header_1_0(file) == (IMAGES.shape, False, np.uint8)
        assert file.read() == IMAGES.tobytes()
        assert archive.getinfo("arr_0.npy").compress_type == zipfile.ZIP_STORED


def test_images_are_written_piece_by_piece(images, tmp_path, monkeypatch):
    monkeypatch.setattr("harness.evaluation.images.npz.PIECE_BYTES", 10 * 6 * 5 * 3)
    watched = Watched(images)
    write_npz(tmp_path / "a.npz", {}, watched)
    assert watched.largest == 10
    with np.load(tmp_path / "a.npz") as found:
        assert np.array_equal(found["arr_0"], IMAGES)


def test_the_same_content_is_written_as_the_same_bytes(images, tmp_path):
    for name in ("a", "b"):
        write_npz(tmp_path / name, {"labels": np.arange(37)}, images)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with zipfile.ZipFile(tmp_path / "a") as archive:  # which two writes within two seconds could not tell
        assert {info.date_time[0] for info in archive.infolist()} == {1980}


def test_an_interruption_while_writing_leaves_nothing_or_what_was_there(images, tmp_path, monkeypatch):
    monkeypatch.setattr("harness.evaluation.images.npz.PIECE_BYTES", 900)
    with pytest.raises(KeyboardInterrupt):
        write_npz(tmp_path / "a.npz", {}, Watched(images, fails_at=20))
    assert not list(tmp_path.iterdir())
    (tmp_path / "a.npz").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_npz(tmp_path / "a.npz", {}, Watched(images, fails_at=20))
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.npz", "old")]


def test_a_place_that_cannot_be_written_is_told(images, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"a\.npz cannot be written: .*Correct that and repeat"):
        write_npz(tmp_path / "file" / "a.npz", {}, images)
