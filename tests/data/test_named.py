"""Data sets by name: where they are looked for, and that nothing but the published files is taken."""

import gzip
import hashlib
import io
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from harness.data import sources
from harness.data.images import named
from harness.data.images.fitting import adm_centre_crop
from harness.system.errors import DataError

needs_debian = pytest.mark.skipif(
    not (named.DEBIAN / "fashion-mnist").is_dir(), reason="needs Debian's package dataset-fashion-mnist"
)


@pytest.fixture
def no_net(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody answers there


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """MNIST's four files with 30 and 10 images, as .gz in a data folder, their hashes known."""
    generator = np.random.default_rng(0)
    hashes = {}
    (tmp_path / "mnist").mkdir()
    for part, count in (("train", 30), ("t10k", 10)):
        images, labels = generator.integers(0, 256, (count, 28, 28), np.uint8), np.arange(count, dtype=np.uint8) % 10
        for name, head, values in (("images-idx3", 16, images), ("labels-idx1", 8, labels)):
            content = bytes(head) + values.tobytes()
            (tmp_path / "mnist" / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(content))
            hashes[f"{part}-{name}-ubyte"] = hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(named.SETS, "mnist", replace(named.SETS["mnist"], files=hashes))
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    return tmp_path / "mnist"


def test_the_test_set_is_held_out_and_named_by_number_and_hash(small_mnist):
    data = sources.load("mnist")
    assert (len(data), data.shape.model_dump()) == (30, {"channels": 1, "side": 28, "num_classes": 10})
    assert data.identity.held_out.model_dump() == {
        "by": "the data set's own test set",
        "num_images": 10,
        "sha256": data.held_out.sha256,
    }
    content = gzip.decompress((small_mnist / "t10k-images-idx3-ubyte.gz").read_bytes())
    assert data.held_out.read(torch.tensor([9]))[0].numpy().tobytes() == content[16 + 9 * 784 :]


def test_images_are_padded_to_a_larger_size_and_cut_to_a_smaller_one(small_mnist):
    as_they_are, padded, cut = (sources.load("mnist", size=size) for size in (None, 32, 14))
    assert [data.side for data in (as_they_are, padded, cut)] == [28, 32, 14]
    (image, _), (framed, _) = as_they_are.read(torch.tensor([3])), padded.read(torch.tensor([3]))
    assert torch.equal(framed[:, :, 2:-2, 2:-2], image)
    assert framed.sum() == image.sum()  # the border is black
    cropped = np.asarray(adm_centre_crop(Image.fromarray(image[0, 0].numpy()), 14))
    assert np.array_equal(cut.read(torch.tensor([3]))[0][0, 0].numpy(), cropped)
    assert [data.identity.fitting for data in (as_they_are, padded, cut)] == [
        None, "padded with black to 32 x 32", "cut as ADM cuts to 14 x 14",
    ]  # fmt: skip
    assert len({data.sha256 for data in (as_they_are, padded, cut)}) == 3


def test_a_file_of_other_content_is_refused_by_its_hash(small_mnist):
    path = small_mnist / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1] + b"\x05"))
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz is not the published file"):
        sources.load("mnist")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"no gzip", id="no gzip"),
        pytest.param(gzip.compress(b"0" * 9999)[:-9], id="cut short"),
    ],
)
def test_a_damaged_file_is_refused_by_its_name(small_mnist, content):
    (small_mnist / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz (cannot be read|is not the published file)"):
        sources.load("mnist")


def test_a_small_file_that_unpacks_to_much_is_not_unpacked_whole(small_mnist, monkeypatch):
    monkeypatch.setitem(named.SETS, "mnist", replace(named.SETS["mnist"], largest=1000))
    with pytest.raises(DataError, match="not the published file"):
        sources.load("mnist")


def test_offline_the_error_names_the_three_ways(tmp_path, monkeypatch, no_net):
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    monkeypatch.setattr(named, "DEBIAN", tmp_path / "debian")
    with pytest.raises(DataError) as refused:
        sources.load("fashion-mnist")
    for said in (f"into {tmp_path / 'fashion-mnist'}", "Debian package dataset-fashion-mnist", "download"):
        assert said in str(refused.value)
    assert not (tmp_path / "fashion-mnist").exists()
    assert not sources.is_here("fashion-mnist")


@needs_debian
def test_fashion_mnist_is_read_from_debians_package(tmp_path, monkeypatch, no_net):
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    data = sources.load("fashion-mnist")
    assert (len(data), len(data.held_out)) == (60_000, 10_000)
    assert torch.bincount(data.labels).tolist() == [6000] * 10
    clean = data.to_clean(data.read(torch.arange(1000))[0], None)
    assert clean.min() == -1
    assert clean.max() == 1
    assert clean.mean() == pytest.approx(2 * 0.286 - 1, abs=0.02)  # its published mean, of values in [0, 1]


def test_cifar_is_read_byte_by_byte_and_known_by_its_hash(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    records = np.random.default_rng(0).integers(0, 256, (6, 4, named.RECORD), dtype=np.uint8)
    records[..., 0] %= 10
    path = tmp_path / "cifar10" / "cifar-10-binary.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        for name, batch in zip([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"], records, strict=True):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = batch.nbytes
            archive.addfile(member, io.BytesIO(batch.tobytes()))
    with pytest.raises(DataError, match="not the published file"):
        sources.load("cifar10")
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    monkeypatch.setitem(named.SETS, "cifar10", replace(named.SETS["cifar10"], files=hashes))
    data = sources.load("cifar10")
    rows = records.reshape(24, named.RECORD)
    assert data.labels.tolist() == rows[:20, 0].tolist()
    assert data.held_out.labels.tolist() == rows[20:, 0].tolist()
    # The first byte after the label is red, upper left; the next one lies to its right.
    images, _ = data.read(torch.tensor([7]))
    assert images[0, 0, 0, 1] == rows[7, 2]
    assert images[0, 2, 31, 31] == rows[7, -1]
