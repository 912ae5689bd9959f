"""Files that claim, or unpack to, far more than they hold: refused before memory is taken for it."""

import io
import json
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import seed_corpus
import torch
from PIL import Image

from harness.data.images.image_folder import Decoder
from harness.data.npz import Archive
from harness.evaluation.images.image_sets import PngFolder
from harness.runs import published_weights
from harness.system.errors import DataError

ROOM = 2**29  # bytes of address space beyond what the imports took

CHILD = """
import json, resource, sys
from pathlib import Path
from harness.system.errors import HarnessError
from harness.evaluation.images.image_sets import open_images
from harness.evaluation.reference_file import read_reference
from harness.runs import published_weights
from harness.data.latents import sets as latents
from harness.records.schema import Result, read_record
from harness.recipes.config import read_config
import torch
read = {
    "npz": lambda path: (open_images(path), read_reference(path)),
    "pt": published_weights.read,
    "json": lambda path: read_record(path, Result),
    "yaml": read_config,
    "store": lambda path: latents.LatentStore(path),
    "png": open_images,
    "grab": lambda path: bytearray(2**30),
}
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]), used + int(sys.argv[2])))
for name, kind, path in json.loads(sys.argv[1]):
    try:
        said = read[kind](Path(path))
    except HarnessError as error:
        said = f"refused: {error}"
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    print(json.dumps([name, str(said)]))
"""


def zipped(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def header(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def bomb_of_zeros(path: Path, count: int = 2**18) -> Path:
    """An .npz of a few MB whose images unpack to 768 MB of zeros."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as file,
    ):
        file.write(header((count, 32, 32, 3)))
        zeros = bytes(2**24)
        for _ in range(count * 3072 // len(zeros)):
            file.write(zeros)
    return path


def many_members(path: Path) -> Path:
    """An archive whose directory alone takes 30 MB, by claim."""
    content = bytearray(seed_corpus.npz({"arr_0": np.zeros((2, 4, 4, 3), np.uint8)}))
    end = content.rindex(b"PK\x05\x06")
    start = content.index(b"PK\x01\x02")
    entry = bytes(content[start:end])
    number = 500_000
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, len(entry) * number, start, 0)
    path.write_bytes(bytes(content[:start]) + entry * number + tail)
    return path


def packed_weights(path: Path) -> Path:
    """A checkpoint of a few MB whose record unpacks to 640 MB, which torch would unpack."""
    plain = io.BytesIO()
    torch.save({"x": torch.zeros(4)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target:
        for name in source.namelist():
            target.writestr(name, bytes(5 * 2**27) if name.endswith("/data/0") else source.read(name))
    return path


def sparse(path: Path, size: int = 2**36) -> Path:
    with open(path, "wb") as file:
        file.truncate(size)
    return path


def png(path: Path, *sizes: tuple[int, int]) -> Path:
    """A PNG that says so of itself, once or more often, over a few bytes of pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    headers = b"".join(chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)) for size in sizes)
    pixels = chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + headers + pixels)
    return path


def hostile_store(folder: Path) -> Path:
    """A manifest of 10**15 images."""
    seed_corpus.store(folder)
    document = json.loads((folder / "manifest.json").read_text())
    document.pop("sha256", None)
    document["num_images"] = document["shards"][0]["count"] = 10**15
    document["class_counts"] = [10**15, 0]
    (folder / "manifest.json").write_text(json.dumps(document))
    return folder


LONG_HEADER = b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + bytes(2**27)
MEAN = header((2**20,), "<f8")
COVARIANCE = header((2**20, 2**20), "<f8")
BOMBS = {
    "an .npz of zeros": ("npz", bomb_of_zeros, "a.npz"),
    "an .npz of many members": ("npz", many_members, "a.npz"),
    "an .npz that claims terabytes": ("npz", lambda p: zipped(p, {"arr_0.npy": header((10**12, 4, 4, 3))}), "a.npz"),
    "an .npz in an .npz": ("npz", lambda p: zipped(p, {"arr_0.npy": seed_corpus.npzs()[0]}), "a.npz"),
    "an .npz of a huge header": ("npz", lambda p: zipped(p, {"arr_0.npy": LONG_HEADER}), "a.npz"),
    "a covariance of terabytes": ("npz", lambda p: zipped(p, {"mu.npy": MEAN, "sigma.npy": COVARIANCE}), "a.npz"),
    "packed weights": ("pt", packed_weights, "a.pt"),
    "a record of gigabytes": ("json", sparse, "result.json"),
    "a configuration of gigabytes": ("yaml", sparse, "config.yaml"),
    "latents of 10**15 images": ("store", hostile_store, "store"),
    "a picture of 100,000 x 100,000": ("png", lambda p: png(p / "a.png", (100_000, 100_000)).parent, "pngs"),
}  # fmt: skip


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> dict[str, str]:
    """What reading each bomb came to, in one process with little memory."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the limit of address space is Linux's")
    asked = [("what takes memory", "grab", ".")]
    for name, (kind, make, file) in BOMBS.items():
        asked.append((name, kind, str(make(tmp_path_factory.mktemp("bomb") / file))))
    command = [sys.executable, "-c", CHILD, json.dumps(asked), str(ROOM)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1500:]
    return dict(map(json.loads, done.stdout.splitlines()))


@pytest.mark.slow  # bombs are made in seconds, and a process with little memory reads them
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_within_512_mb(said, name):
    assert said[name].startswith("refused: "), said[name]
    assert "\n" not in said[name]


@pytest.mark.slow
def test_the_limit_would_be_felt(said):
    """A reader that took a bomb's claim for true would not come through."""
    assert said["what takes memory"].startswith("MemoryError")


def test_a_second_header_of_a_picture_is_not_believed(tmp_path):
    png(tmp_path / "pngs" / "a.png", (8, 8), (9000, 9000))
    with pytest.raises(DataError, match=r"damaged|larger than 4096 x 4096"):
        PngFolder(tmp_path / "pngs").read(0, 1)


def test_a_strip_that_would_be_resized_to_gigabytes_is_refused(tmp_path):
    """One pixel high and a million wide: brought to 256 pixels on the short side, it would take 200 GB."""
    Image.new("RGB", (1_000_000, 1)).save(tmp_path / "strip.png")
    with pytest.raises(DataError, match="more than any photograph"):
        Decoder(tmp_path, 256).decode(["strip.png"])


def test_a_photograph_of_any_usual_size_is_still_read(tmp_path):
    Image.new("RGB", (6000, 300)).save(tmp_path / "panorama.png")
    assert Decoder(tmp_path, 256).decode(["panorama.png"]).shape == (1, 3, 256, 256)


def test_a_tensor_that_repeats_one_stored_value_without_end_is_refused(tmp_path):
    torch.save({"x": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "a.pt")
    with pytest.raises(DataError, match="not stored value by value"):
        published_weights.read(tmp_path / "a.pt")


def test_an_archive_of_thousands_of_arrays_is_listed_in_few_words(tmp_path):
    zipped(tmp_path / "a.npz", {f"x{n}.npy": b"" for n in range(3000)}, zipfile.ZIP_STORED)
    with Archive(tmp_path / "a.npz") as archive, pytest.raises(DataError) as caught:
        archive.array("arr_0")
    assert len(str(caught.value)) < 500
