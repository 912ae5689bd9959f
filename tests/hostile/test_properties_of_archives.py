"""Files of arrays that somebody else wrote: the values that are in them, or an error that says why not."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import readers
import seed_corpus
from examples import tries
from hostile_values import as_json, mutated, torn
from hypothesis import given
from hypothesis import strategies as st

from harness.data import npy
from harness.data.latents import shards
from harness.data.npz import Archive
from harness.system.errors import DataError

NAMES = ["arr_0", "mu", "sigma", "../x", "a" * 200, "\x1b[2J"]
DTYPES = ["|u1", "<f4", ">i2", "<f8", "<c8", "|b1", "<U3", "|S2", "<f2"]
sides = st.sampled_from([0, 1, 2, 3, 7, 2**16, 2**31, 2**32, 2**63 - 1, 10**15, 10**30])
bytes_of_headers = st.builds(
    lambda descr, columns, shape, pad: (
        f"{{'descr': '{descr}', 'fortran_order': {columns}, "
        f"'shape': ({', '.join(map(str, shape))}{',' * (len(shape) == 1)}), }}" + " " * pad + "\n"
    ).encode(),
    st.sampled_from([*DTYPES, "|O", "<f3", "|V8", "<U999999999", "|S0", ""]),
    st.booleans(),
    st.lists(sides, max_size=5) | st.just([1] * 70),
    st.integers(0, 130),
)


@st.composite
def arrays(draw: st.DrawFn) -> bytes:
    """A .npy of any header before a few bytes."""
    header = draw(bytes_of_headers)
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + draw(st.binary(max_size=24))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("hostile-archives")


@tries(".npz with bytes changed, cut off or put in", short=60, long=6_000)
@given(st.data())
def test_an_npz_of_changed_bytes_is_read_or_refused(place, data):
    path = place / "torn.npz"
    path.write_bytes(data.draw(torn(data.draw(st.sampled_from(seed_corpus.npzs())))))
    readers.read_npz(path)


@tries(".npz whose arrays describe themselves wrongly", short=60, long=6_000)
@given(st.lists(st.tuples(st.sampled_from(NAMES), arrays()), max_size=3),
       st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]))  # fmt: skip
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_npz_of_any_headers_is_read_or_refused(place, members, compression):
    path = place / "headers.npz"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(f"{name}.npy", content)
    readers.read_npz(path)


@tries(".npz as numpy writes it", short=60, long=6_000)
@given(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=4), st.integers(0, 2**32), st.booleans())
def test_an_npz_as_numpy_writes_it_is_read_as_numpy_reads_it(place, dtype, shape, seed, packed):
    kind = np.dtype(dtype)
    content = np.random.default_rng(seed).bytes(int(np.prod(shape)) * kind.itemsize)
    values = np.frombuffer(content if kind.kind != "U" else bytes(len(content)), kind).reshape(shape)
    path = place / "whole.npz"
    (np.savez_compressed if packed else np.savez)(path, x=values)
    with Archive(path) as archive:
        found = archive.array("x").whole()
    assert found.tobytes() == values.astype(kind.newbyteorder("=")).tobytes()
    assert found.shape == values.shape


@tries(".npy of any header or with bytes changed", short=60, long=8_000)
@given(st.data())
def test_an_npy_of_any_header_is_read_as_numpy_reads_it_or_refused(place, data):
    path = place / "any.npy"
    path.write_bytes(data.draw(arrays() | torn(data.draw(st.sampled_from(seed_corpus.npys())))))
    readers.read_npy(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return seed_corpus.store(tmp_path_factory.mktemp("hostile-store") / "store")


@tries("latents whose manifest, labels or shards were changed", short=30, long=3_000)
@given(st.data())
def test_a_store_of_changed_parts_is_read_or_refused(store, data):
    name = data.draw(st.sampled_from(["manifest.json", "labels.npy", "shard-00000.npy", "shard-00000.flip.npy"]))
    path, content = store / name, (store / name).read_bytes()
    if name == "manifest.json":
        document = json.loads(content)
        document.pop("sha256", None)
        path.write_bytes(as_json(data.draw(mutated(document))))
    else:
        path.write_bytes(data.draw(torn(content)))
        manifest = (store / "manifest.json").read_bytes()
        believed = manifest.replace(
            seed_corpus.sha256(content).encode(), seed_corpus.sha256(path.read_bytes()).encode()
        )
        document = json.loads(believed)
        document.pop("sha256", None)
        (store / "manifest.json").write_bytes(as_json(document))  # the hash is no defence against who writes both
    try:
        readers.read_store(store)
    finally:
        path.write_bytes(content)
        if name != "manifest.json":
            (store / "manifest.json").write_bytes(manifest)


@tries("unfinished latents whose sidecars were changed", short=20, long=1_500)
@given(st.data())
def test_an_unfinished_store_of_changed_sidecars_is_continued_or_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("unfinished")
    values = np.ones((2, 8, 2, 2), np.float32)
    description = shards.Description(
        name="x", source="x", layout="mean,std", channels=4, side=2, image_size=16, crop="none",
        vae=shards.VaeIdentity(id="x"), num_images=2, num_classes=2,
    )  # fmt: skip
    shards.begin(folder, description)
    shards.write_shard(folder, 0, values, np.array([0, 1]))
    name = data.draw(st.sampled_from(["description.json", "shard-00000.json"]))
    document = json.loads((folder / name).read_text())
    document.pop("sha256", None)
    (folder / name).write_bytes(as_json(data.draw(mutated(document))))
    readers.continue_store(folder)


@tries(".safetensors with bytes changed, cut off or put in", short=60, long=6_000)
@given(st.data())
def test_safetensors_of_changed_bytes_are_read_or_refused(place, data):
    path = place / "torn.safetensors"
    path.write_bytes(data.draw(torn(data.draw(st.sampled_from(seed_corpus.safetensors()))) | st.binary(max_size=40)))
    readers.read_safetensors(path)


# What the properties and the fuzzers found ------------------------------------------------------------------------


def test_a_shard_whose_values_begin_at_an_odd_byte_is_refused_and_not_read_beside_them(tmp_path):
    """A map of 16-bit numbers begins at an even byte: the values would have been halves of two neighbours."""
    header = b"{'descr': '<f2', 'fortran_order': False, 'shape': (4,), } \n"
    text = header[:-1] + b" " * (1 - (10 + len(header)) % 2) + b"\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(8))
    assert "no multiple of 16" in npy.problem(tmp_path / "x.npy", (4,), np.dtype(np.float16))


@pytest.mark.parametrize("end", ["", ",", " ", "), }"])
def test_a_header_of_nothing_but_digits_is_refused_at_once(tmp_path, end):
    """The fuzzer found one that was matched in more ways than there are seconds."""
    header = f"{{'descr': '<i8', 'fortran_order': False, 'shape': ({'2' * 60}{end}\n".encode()
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    (tmp_path / "x.npy").write_bytes(content)
    assert "describes no plain array" in npy.problem(tmp_path / "x.npy", (2,), np.dtype(np.int64))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("arr_0.npy", content)
    with Archive(tmp_path / "x.npz") as archive, pytest.raises(DataError, match="describes no plain array"):
        archive.array("arr_0")


@pytest.mark.parametrize("shape", ["(0, 999999999999999, 999999999999999)", f"({'1, ' * 70})"])
def test_a_shape_that_no_array_can_have_is_refused_even_of_no_values(tmp_path, shape):
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }} \n".encode()
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * ("1, 1" in shape)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("arr_0.npy", content)
    with Archive(tmp_path / "x.npz") as archive, pytest.raises(DataError, match="sides"):
        archive.array("arr_0")
    with pytest.raises(ValueError, match="sides"):
        npy.header(io.BytesIO(content))
