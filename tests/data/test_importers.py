"""Other projects' latents, written as their own programs write them, against the store that comes of them."""

import zipfile

import numpy as np
import pytest
import torch
from foreign_latents import (
    CLASSES,
    LABELS,
    NUM_IMAGES,
    SCALE,
    SIDE,
    VAE,
    bring,
    half,
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

from harness.data.importers import FORMATS
from harness.data.importers.source import std_of
from harness.data.latents import sets as latents
from harness.data.latents import shards
from harness.data.latents.sets import LatentStore
from harness.system.errors import DataError


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_IMAGES", 4)


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
