"""Other projects' latents that are incomplete, damaged or none: the import refuses them and says why."""

import builtins
import json
import os
import zipfile

import numpy as np
import pytest
import torch
from foreign_latents import (
    LABELS,
    SCALE,
    bring,
    lmdb,
    logvars,
    moments_with,
    repa_files,
    samples,
    sources,
    stds,
    write_fast_dit,
    write_folder,
    write_lightningdit,
    write_maskdit,
    write_zip,
)
from safetensors.torch import save_file

from harness.data.importers import FORMATS
from harness.data.latents import shards
from harness.system.errors import DataError, SetupError, UsageError


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_IMAGES", 4)


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
