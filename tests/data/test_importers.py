"""Other projects' latents, written here as their own programs write them, against the store that comes of them."""

import builtins
import io
import json
import os
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from harness.data.importers import FORMATS, import_latents
from harness.data.importers.source import std_of
from harness.data.latents import sets as latents
from harness.data.latents import shards
from harness.data.latents.sets import LatentStore
from harness.data.latents.shards import VaeIdentity
from harness.system.errors import DataError, SetupError, UsageError

lmdb = pytest.importorskip("lmdb")

NUM_IMAGES, CLASSES, SIDE, SCALE = 10, 3, 4, 0.18215
VAE = VaeIdentity(id="stabilityai/sd-vae-ft-mse")
LABELS = np.sort(np.arange(NUM_IMAGES) % CLASSES)  # ImageFolder's order


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_IMAGES", 4)


def samples(num_images=NUM_IMAGES, seed=0, channels=4):  # not scaled, float32
    return np.random.default_rng(seed).normal(0, 1 / SCALE, (num_images, channels, SIDE, SIDE)).astype(np.float32)


def logvars(num_images=NUM_IMAGES):
    return np.random.default_rng(9).normal(-17, 3, (num_images, 4, SIDE, SIDE)).astype(np.float32)


def stds(num_images=NUM_IMAGES):
    return np.exp(0.5 * logvars(num_images))


def bring(format, source, out, **settings):
    return import_latents(format, source, out, vae=VAE, **{"num_classes": CLASSES} | settings)


def half(values):
    return torch.from_numpy(values.astype(np.float16))


# Each format as its own program writes it ------------------------------------------------------------------------


def write_maskdit(folder, moments, labels, length=None):
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=2**26) as environment, environment.begin(write=True) as transaction:
        for number, (moment, label) in enumerate(zip(moments, labels, strict=True)):
            transaction.put(f"z-{number}".encode(), moment.tobytes())
            transaction.put(f"y-{number}".encode(), str(label).encode())
        if length != 0:
            transaction.put(b"length", str(length or len(moments)).encode())
    return folder.parent


def write_fast_dit(folder, scaled, labels=LABELS):
    for name in ("imagenet256_features", "imagenet256_labels"):
        (folder / name).mkdir(parents=True)
    for number, (sample, label) in enumerate(zip(scaled, labels, strict=False)):
        np.save(folder / "imagenet256_features" / f"{number}.npy", sample[None])
        np.save(folder / "imagenet256_labels" / f"{number}.npy", np.array([label]))
    return folder


def repa_files(moments, labels=LABELS):
    """Contents by their names."""
    files = {}
    for number, moment in enumerate(moments):
        content = io.BytesIO()
        np.save(content, moment)
        files[f"{number // 1000:05d}/img-mean-std-{number:08d}.npy"] = content.getvalue()
    pairs = None if labels is None else [[name, int(label)] for name, label in zip(files, labels, strict=True)]
    return files | {"dataset.json": json.dumps({"labels": pairs}).encode()}


def write_zip(path, files, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_folder(path, files):
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def write_lightningdit(folder, plain, flipped=None, labels=LABELS, cut=7):
    folder.mkdir()
    for shard, rows in enumerate((slice(0, cut), slice(cut, None))):
        tensors = {"latents": torch.from_numpy(plain[rows]), "labels": torch.from_numpy(labels[rows])}
        if flipped is not None:
            tensors["latents_flip"] = torch.from_numpy(flipped[rows])
        save_file(tensors, folder / f"latents_rank00_shard{shard:03d}.safetensors")
    (folder / "latents_stats.pt").write_bytes(b"\x80\x04never read")
    return folder


def moments_with(second_half):
    return np.concatenate([samples(len(second_half)), second_half], axis=1)


def sources(tmp_path):
    """A small source of each format, and the values a store must then hold."""
    moments, scaled = moments_with(stds()), samples() * np.float32(SCALE)
    maskdit = write_maskdit(tmp_path / "maskdit" / "train", moments_with(logvars()), LABELS)
    return {
        "maskdit-lmdb": (maskdit, moments),
        "fast-dit": (write_fast_dit(tmp_path / "fast", scaled), scaled / SCALE),
        "repa-zip": (write_zip(tmp_path / "repa.zip", repa_files(moments)), moments),
        "safetensors": (write_lightningdit(tmp_path / "lightning", samples()), samples()),
    }


# Round trips -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_a_store_holds_the_values_and_labels_of_its_source_to_float16(tmp_path, format):
    source, expected = sources(tmp_path)[format]
    done = []
    manifest = bring(format, source, tmp_path / "out", advance=done.append)
    stored, labels = LatentStore(tmp_path / "out").read(torch.arange(NUM_IMAGES))
    assert torch.equal(stored, half(expected))
    assert labels.tolist() == LABELS.tolist()
    assert manifest.layout == ("mean,std" if expected.shape[1] == 8 else "sample")
    assert (manifest.image_size, manifest.flips, manifest.vae) == (SIDE * 8, "none", VAE)
    assert manifest.source.startswith(f"imported from {format}")
    assert str(tmp_path) not in (tmp_path / "out" / "manifest.json").read_text()
    assert done == [4, 8, 10]
    assert latents.verify(tmp_path / "out", expected_images=NUM_IMAGES) == []


@pytest.mark.parametrize("format", FORMATS)
def test_an_interrupted_import_continues_and_makes_no_finished_shard_again(tmp_path, monkeypatch, format):
    source, _ = sources(tmp_path)[format]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    bring(format, source, whole, name="same")
    write, written = shards.write_shard, []

    def interrupted(folder, number, *arrays):
        if number == 2:
            raise KeyboardInterrupt
        write(folder, number, *arrays)

    def noted(folder, number, *arrays):
        written.append(number)
        write(folder, number, *arrays)

    monkeypatch.setattr(shards, "write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bring(format, source, cut, name="same")
    (cut / "shard-00001.npy").write_bytes(b"damaged")
    monkeypatch.setattr(shards, "write_shard", noted)
    bring(format, source, cut, name="same")
    assert written == [1, 2]
    assert {p.name: p.read_bytes() for p in cut.iterdir()} == {p.name: p.read_bytes() for p in whole.iterdir()}
    bring(format, source, cut, name="same")
    assert written == [1, 2]


def test_maskdits_second_half_are_the_mirrored_images_when_the_labels_come_twice(tmp_path):
    moments = moments_with(logvars(2 * NUM_IMAGES))
    source = write_maskdit(tmp_path / "db" / "train", moments, [*LABELS, *LABELS])
    manifest = bring("maskdit-lmdb", source, tmp_path / "out")
    assert (manifest.num_images, manifest.flips) == (NUM_IMAGES, "stored")
    expected = np.concatenate([moments[:, :4], np.exp(0.5 * moments[:, 4:])], axis=1)
    assert torch.equal(LatentStore(tmp_path / "out").everything(), half(expected))


def test_maskdits_log_variances_are_clamped_as_the_vae_clamps_them(tmp_path):
    extreme = logvars()
    extreme[0, 0, 0, :2] = -100, 21
    source = write_maskdit(tmp_path / "db" / "train", moments_with(extreme), LABELS)
    bring("maskdit-lmdb", source, tmp_path / "out")
    stored, _ = LatentStore(tmp_path / "out").read(torch.tensor([0]))
    assert stored[0, 4, 0, :2].tolist() == half(np.exp([-15.0, 10.0])).tolist()
    assert std_of(np.array([-2.0, 0.0]), "").tolist() == pytest.approx([np.exp(-1), 1])


def test_lightningdits_flips_are_kept_across_files(tmp_path):
    flipped = samples(seed=5)
    source = write_lightningdit(tmp_path / "source", samples(), flipped)
    assert bring("safetensors", source, tmp_path / "out").flips == "stored"
    assert torch.equal(LatentStore(tmp_path / "out").everything(), half(np.concatenate([samples(), flipped])))


def test_repa_reads_a_folder_and_a_compressed_zip_alike(tmp_path):
    files = repa_files(moments_with(stds()))
    folder = write_folder(tmp_path / "target" / "vae-sd", files).parent
    bring("repa-zip", folder, tmp_path / "a", name="same")
    bring("repa-zip", write_zip(tmp_path / "b.zip", files, zipfile.ZIP_DEFLATED), tmp_path / "b", name="same")
    a, b = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in "ab")
    assert a == b


def test_labels_are_given_where_the_source_has_none_and_only_there(tmp_path):
    bare = write_zip(tmp_path / "bare.zip", repa_files(moments_with(stds()), labels=None))
    with pytest.raises(DataError, match=r"no labels.*\.npy"):
        bring("repa-zip", bare, tmp_path / "out")
    np.save(tmp_path / "labels.npy", LABELS[::-1])
    bring("repa-zip", bare, tmp_path / "out", labels=tmp_path / "labels.npy")
    assert LatentStore(tmp_path / "out").labels.tolist() == LABELS[::-1].tolist()
    with pytest.raises(DataError, match="labels of its own"):
        bring("fast-dit", sources(tmp_path)["fast-dit"][0], tmp_path / "new", labels=tmp_path / "labels.npy")
    np.save(tmp_path / "short.npy", LABELS[1:])
    with pytest.raises(DataError, match="one whole number per image"):
        bring("repa-zip", bare, tmp_path / "new", labels=tmp_path / "short.npy")


# The wrong layout is never taken for the right one ---------------------------------------------------------------


WRONG_LAYOUTS = {
    "standard deviations in an LMDB": (
        "maskdit-lmdb", lambda path: write_maskdit(path / "train", moments_with(stds()), LABELS),
        "look like standard deviations",
    ),
    "log-variances in a zip": (
        "repa-zip", lambda path: write_zip(path, repa_files(moments_with(logvars()))),
        r"look like log-variances.*maskdit-lmdb",
    ),
    "moments where a sample belongs": (
        "fast-dit", lambda path: write_fast_dit(path, moments_with(stds())), r"\(1, 8, 4, 4\)",
    ),
    "latents that need their own statistics": (
        "safetensors", lambda path: write_lightningdit(path, samples(channels=32)), r"32 channels.*latents_stats\.pt",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("format", "write", "message"), WRONG_LAYOUTS.values(), ids=WRONG_LAYOUTS)
def test_values_of_another_layout_are_refused(tmp_path, format, write, message):
    with pytest.raises(DataError, match=message):
        bring(format, write(tmp_path / "source"), tmp_path / "out")


def test_edm2s_latents_of_images_in_0_to_1_are_refused(tmp_path):
    moments = moments_with(stds(120)) * np.float32(0.8)
    labels = np.arange(120) % CLASSES
    bring("repa-zip", write_zip(tmp_path / "repa.zip", repa_files(moments, labels)), tmp_path / "out")
    moments[:, :4] += np.array([5.81, 3.25, 0.12, -2.15], np.float32)[:, None, None]
    with pytest.raises(DataError, match="EDM2"):
        bring("repa-zip", write_zip(tmp_path / "edm2.zip", repa_files(moments, labels)), tmp_path / "new")


def test_fast_dits_samples_must_be_scaled_and_lightningdits_must_not(tmp_path):
    fast = write_fast_dit(tmp_path / "fast", samples())
    with pytest.raises(DataError, match="spread by 5"):
        bring("fast-dit", fast, tmp_path / "out")
    lightning = write_lightningdit(tmp_path / "lightning", samples() * np.float32(SCALE))
    with pytest.raises(DataError, match=r"spread by 1, .*about 5\.49"):
        bring("safetensors", lightning, tmp_path / "new")


def test_a_last_shard_of_one_plain_image_does_not_stop_an_import(tmp_path):
    values = samples(41)
    values[-1] *= 0.01
    lightning = write_lightningdit(tmp_path / "lightning", values, labels=np.arange(41) % CLASSES)
    assert bring("safetensors", lightning, tmp_path / "a").num_images == 41
    fast = write_fast_dit(tmp_path / "fast", values * np.float32(SCALE), np.arange(41) % CLASSES)
    assert bring("fast-dit", fast, tmp_path / "b").num_images == 41


@pytest.mark.parametrize("format", FORMATS)
def test_values_that_are_not_finite_are_refused(tmp_path, format):
    spoiled = moments_with(logvars() if format == "maskdit-lmdb" else stds())
    spoiled[7, 1, 0, 0] = np.nan
    source = {
        "maskdit-lmdb": lambda: write_maskdit(tmp_path / "db" / "train", spoiled, LABELS),
        "fast-dit": lambda: write_fast_dit(tmp_path / "fast", spoiled[:, :4]),
        "repa-zip": lambda: write_zip(tmp_path / "repa.zip", repa_files(spoiled)),
        "safetensors": lambda: write_lightningdit(tmp_path / "lightning", np.ascontiguousarray(spoiled[:, :4])),
    }[format]()
    with pytest.raises(DataError):
        bring(format, source, tmp_path / "out")
    with pytest.raises(DataError):
        LatentStore(tmp_path / "out")


@pytest.mark.parametrize("format", FORMATS)
def test_labels_outside_the_classes_are_refused(tmp_path, format):
    with pytest.raises(DataError, match="label 2 is outside 0 to 1"):
        bring(format, sources(tmp_path)[format][0], tmp_path / "out", num_classes=2)


# Incomplete and damaged sources ----------------------------------------------------------------------------------


def test_an_unfinished_maskdit_lmdb_is_refused(tmp_path):
    unfinished = write_maskdit(tmp_path / "a" / "train", moments_with(logvars()), LABELS, length=0)
    with pytest.raises(DataError, match="no entry length"):
        bring("maskdit-lmdb", unfinished, tmp_path / "out")
    lacking = write_maskdit(tmp_path / "b" / "train", moments_with(logvars()), LABELS, length=11)
    with pytest.raises(DataError, match="no entry y-10"):
        bring("maskdit-lmdb", lacking, tmp_path / "out")


@pytest.mark.parametrize("size", [4096 * 3, 100, 0])
def test_a_truncated_lmdb_is_an_error_and_not_the_end_of_the_process(tmp_path, size):
    source = write_maskdit(tmp_path / "db" / "train", moments_with(logvars()), LABELS)
    os.truncate(source / "train" / "data.mdb", size)
    with pytest.raises(DataError):
        bring("maskdit-lmdb", source, tmp_path / "out")


def test_an_entry_of_another_size_is_refused(tmp_path):
    source = write_maskdit(tmp_path / "db" / "train", moments_with(logvars()), LABELS)
    with lmdb.open(str(source / "train")) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"z-6", b"\0" * 100)
    with pytest.raises(DataError, match="z-6 has 100 bytes instead of 512"):
        bring("maskdit-lmdb", source, tmp_path / "out")


def test_importing_from_lmdb_writes_nothing_there(tmp_path):
    source, _ = sources(tmp_path)["maskdit-lmdb"]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (source / "train").iterdir()}
    bring("maskdit-lmdb", source, tmp_path / "out")
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (source / "train").iterdir()}


def test_without_the_lmdb_package_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    source, _ = sources(tmp_path)["maskdit-lmdb"]
    original = builtins.__import__

    def without(name, *rest):
        if name == "lmdb":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SetupError, match="pip install lmdb") as error:
        bring("maskdit-lmdb", source, tmp_path / "out")
    assert error.value.exit_code == 3


def test_maskdits_pickled_tars_are_refused(tmp_path):
    (tmp_path / "latent_imagenet_512_train-0000.tar").write_bytes(b"")
    with pytest.raises(DataError, match="pickles"):
        bring("maskdit-lmdb", tmp_path, tmp_path / "out")


def test_fast_dit_files_that_several_processes_overwrote_are_recognised(tmp_path, monkeypatch):
    """Three processes share ten images: each numbers its own from 0, so files 0 to 3 remain."""
    from harness.data.importers import source as source_module

    monkeypatch.setattr(source_module, "IMAGENET_IMAGES", 10)
    source = write_fast_dit(tmp_path / "fast", samples(4) * np.float32(SCALE))
    with pytest.raises(DataError, match=r"4 images instead of 10.*overwrite.*3 processes leave exactly this number"):
        bring("fast-dit", source, tmp_path / "out", num_classes=1000)
    assert bring("fast-dit", source, tmp_path / "out", num_classes=1000, expected_images=4).num_images == 4


@pytest.mark.parametrize("format", FORMATS)
def test_another_number_of_images_than_expected_is_refused(tmp_path, format):
    with pytest.raises(DataError, match="10 images instead of 11"):
        bring(format, sources(tmp_path)[format][0], tmp_path / "out", expected_images=11)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda features: (features / "4.npy").unlink(), "number 4 is missing"),
        (lambda features: (features / "9.npy").unlink(), "9 latents and 10 labels.*over each other"),
        (lambda features: (features / "0004.npy").write_bytes(b""), "number 4 is there twice"),
        (lambda features: (features / "best.npy").write_bytes(b""), "best.npy"),
        (lambda features: (features / "4.npy").write_bytes(b""), "4.npy cannot be read"),
        (lambda features: os.truncate(features / "4.npy", 200), "truncated"),
        (lambda features: np.save(features / "4.npy", np.ones((1, 4, 8, 8))), "like the others"),
        (lambda features: np.save(features / "4.npy", np.ones((1, 4, 4, 4), int)), "int64"),
    ],
)
def test_fast_dit_files_that_are_not_as_numbered_are_refused(tmp_path, change, message):
    source = write_fast_dit(tmp_path / "fast", samples() * np.float32(SCALE))
    change(source / "imagenet256_features")
    with pytest.raises(DataError, match=message):
        bring("fast-dit", source, tmp_path / "out")


def changed(files, name, content):
    return files | {name: content} if content is not None else {k: v for k, v in files.items() if k != name}


FIRST, SIXTH = "00000/img-mean-std-00000000.npy", "00000/img-mean-std-00000005.npy"


@pytest.mark.parametrize("write", [write_zip, write_folder])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (SIXTH, None, "number 5 is missing"),
        (SIXTH, b"torn", "cannot be read as an array"),
        (SIXTH, b"\0" * (17 * 2**20), "may have"),
        (FIRST, b"", "cannot be read as an array"),
        ("other/img-mean-std-00000005.npy", b"", "other/img"),
        ("img-mean-std-00000005.npy", b"", "number 5 is there twice"),
        ("dataset.json", None, r"no dataset\.json|dataset\.json cannot be read"),
        ("dataset.json", b"{}", "does not hold labels"),
        ("dataset.json", b'{"labels": [[1, 2, 3]]}', "does not hold labels"),
        ("dataset.json", b"[" * 100_000, "does not hold labels"),
        ("dataset.json", json.dumps({"labels": [[FIRST, 0]]}).encode(), "no whole number for"),
        ("dataset.json", json.dumps({"labels": [[FIRST, "0"]]}).encode(), "no whole number for"),
    ],
)
def test_damaged_repa_files_are_refused(tmp_path, write, name, content, message):
    source = write(tmp_path / "repa", changed(repa_files(moments_with(stds())), name, content))
    with pytest.raises(DataError, match=message):
        bring("repa-zip", source, tmp_path / "out")


def test_members_that_point_out_of_a_zip_are_refused_and_nothing_is_unpacked(tmp_path):
    files = repa_files(moments_with(stds())) | {"../../img-mean-std-00000010.npy": b"x"}
    with pytest.raises(DataError, match=r"holds \.\./\.\."):
        bring("repa-zip", write_zip(tmp_path / "repa.zip", files), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["repa.zip"]


def test_a_member_that_unpacks_to_more_than_it_may_is_refused(tmp_path):
    bomb = changed(repa_files(moments_with(stds())), SIXTH, b"\0" * 2**26)
    source = write_zip(tmp_path / "repa.zip", bomb, zipfile.ZIP_DEFLATED)
    assert source.stat().st_size < 2**18
    with pytest.raises(DataError, match="67,108,864 bytes, more than"):
        bring("repa-zip", source, tmp_path / "out")


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_zip_is_an_error(tmp_path, damage, compression):
    source = write_zip(tmp_path / "repa.zip", repa_files(moments_with(stds())), compression)
    content = bytearray(source.read_bytes())
    content[300:310] = bytes(10)
    source.write_bytes({"cut": bytes(content[:-200]), "changed": bytes(content), "empty": b""}[damage])
    with pytest.raises(DataError):
        bring("repa-zip", source, tmp_path / "out")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("latents_rank00_shard000.safetensors", None, "number 0 is missing"),
        ("latents_rank02_shard000.safetensors", {"latents": torch.ones(1, 4, 4, 4)}, "number 1 is missing"),
        ("other.safetensors", {"latents": torch.ones(1)}, "holds other.safetensors"),
        (
            "latents_rank00_shard001.safetensors",
            {"latents": torch.ones(3, 4, 4, 4)},
            "instead of latents, latents_flip",
        ),
        (
            "latents_rank00_shard001.safetensors",
            {"latents": torch.ones(3, 4, 4, 4), "labels": torch.zeros(2).long()},
            "do not fit each other",
        ),
        (
            "latents_rank00_shard001.safetensors",
            {"latents": torch.ones(3, 4, 8, 8), "labels": torch.zeros(3).long()},
            "differ in the shape",
        ),
        ("latents_rank00_shard001.safetensors", b"torn", "cannot be read"),
    ],
)
def test_damaged_lightningdit_shards_are_refused(tmp_path, file, change, message):
    source = write_lightningdit(tmp_path / "source", samples())
    if change is None:
        (source / file).unlink()
    elif isinstance(change, bytes):
        (source / file).write_bytes(change)
    else:
        save_file(change, source / file)
    with pytest.raises(DataError, match=message):
        bring("safetensors", source, tmp_path / "out")


@pytest.mark.parametrize("format", FORMATS)
def test_a_source_of_another_kind_or_nowhere_is_refused(tmp_path, format):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"not a zip")
    for source in (tmp_path / "empty", tmp_path / "file", tmp_path / "nowhere"):
        with pytest.raises(DataError):
            bring(format, source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_format_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(UsageError, match="Did you mean fast-dit"):
        bring("fastdit", tmp_path, tmp_path / "out")
