"""No pickle is opened, wherever one is planted: the command says so and ends with 4 or 2, and nothing has run.

Each test plants one, checks that Python's own reader would have run it, and asks the real command.
"""

import hashlib
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import planted
import pytest
import seed_corpus
import torch
from run_folders import write_run
from typer.testing import CliRunner

from harness.cli import app
from harness.data import classifier, npy
from harness.data.latents import shards, vae, verified
from harness.evaluation.networks import extract, features
from harness.recipes.config import InputShape
from harness.recipes.naming import digest
from harness.system.errors import DataError
from harness.training import checkpoint


@pytest.fixture
def mark(tmp_path) -> Path:
    return tmp_path / "mark"


def refused(*arguments: object, mark: Path, code: int = 4) -> str:
    """What the command says to stderr, on one line, and that it ran nothing."""
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert not mark.exists(), "the pickle ran"
    assert done.exit_code == code, done.output
    (said,) = [line for line in done.output.splitlines() if line.startswith("error: ")]
    assert "bug in the harness" not in said
    return said


def test_what_is_planted_would_run(mark):
    pickle.loads(planted.pickled(mark))
    assert mark.exists()


@pytest.mark.parametrize("names", [("arr_0",), ("mu", "sigma"), ("arr_0", "labels")])
def test_in_the_images_that_are_evaluated(tmp_path, mark, names):
    path = planted.npz(tmp_path / "samples.npz", mark, *names)
    refused("evaluate", path, "--reference", "digits", "--features", "digits", mark=mark)


@pytest.mark.parametrize("names", [("arr_0",), ("mu", "sigma"), ("mu", "sigma", "provenance")])
def test_in_the_reference(tmp_path, mark, names):
    samples = tmp_path / "samples.npz"
    np.savez(samples, arr_0=np.random.default_rng(0).integers(0, 255, (60, 8, 8, 1), np.uint8))
    path = planted.npz(tmp_path / "reference.npz", mark, *names)
    said = refused("evaluate", samples, "--reference", path, "--features", "digits", mark=mark)
    assert "pickled" in said


@pytest.mark.parametrize("name", ["shard-00000.npy", "shard-00000.flip.npy", "labels.npy"])
def test_in_a_store_of_latents(tmp_path, mark, name):
    store = seed_corpus.store(tmp_path / "store")
    (store / name).write_bytes(planted.npy(mark))
    refused("data", "verify", store, mark=mark)
    refused("run", "dit-s", "--data", store, "--no-eval", "--out", tmp_path / "runs", mark=mark)
    CliRunner().invoke(app, ["data", "info", str(store)])  # which reads no labels
    assert not mark.exists()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["DiT-XL-2-256x256.pt", "maskdit.pth"])
def test_in_an_official_checkpoint(tmp_path, mark, name, legacy):
    path = planted.saved(tmp_path / name, mark, legacy=legacy)
    said = refused("import-checkpoint", path, "--as", "dit-s", "--out", tmp_path / "runs", mark=mark)
    assert "Nothing was run" in said or "damaged" in said


@pytest.mark.parametrize("name", ["inception", "dinov2", "clip"])
@pytest.mark.parametrize("suffix", [".pth", ".bin", ".safetensors", ".pkl"])
def test_in_weights_of_a_feature_network(tmp_path, mark, name, suffix):
    path = planted.saved(tmp_path / f"weights{suffix}", mark)
    with pytest.raises(DataError):
        features.load(name, path)
    assert not mark.exists()


def test_in_the_weights_of_a_vae(tmp_path, mark):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{}")
    planted.saved(tmp_path / "vae" / "diffusion_pytorch_model.safetensors", mark)
    planted.saved(tmp_path / "vae" / "diffusion_pytorch_model.bin", mark)
    with pytest.raises(DataError):
        vae.load(str(tmp_path / "vae"))
    assert not mark.exists()


def test_in_a_checkpoint_whose_hashes_fit(tmp_path, mark):
    ones = {"network.x": torch.ones(2)}
    checkpoint.save(tmp_path, checkpoint.Checkpoint(4, 1.0, ones, ones, {}), "c" * 64, checkpoint.Keep())
    folder = tmp_path / "step-000000004"
    for file in ("optimizer.pt", "ema.safetensors"):
        planted.saved(folder / file, mark)
        state = json.loads((folder / "state.json").read_text())
        del state["sha256"]
        state["files"][file] = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        (folder / "state.json").write_text(json.dumps({**state, "sha256": digest(state)}))
        with pytest.raises(DataError, match=r"refused|damaged"):
            checkpoint.load_newest(tmp_path, "c" * 64, note=pytest.fail)
        assert not mark.exists()


def test_in_configurations(tmp_path, mark):
    path = tmp_path / "config.yaml"
    path.write_text(planted.YAML.format(mark=mark))
    refused("run", "--config", path, mark=mark)
    refused("run", "dit-tiny", "--set", f"steps=!!python/object/apply:os.system ['touch {mark}']", mark=mark, code=2)
    run = write_run(tmp_path / "runs", "dit")
    (run / "config.yaml").write_text(planted.YAML.format(mark=mark))
    refused("evaluate", run, mark=mark)
    refused("sample", run, "--num", "1", mark=mark)
    refused("report", tmp_path / "runs", "--out", tmp_path / "report", mark=mark)


def fast_dit(folder: Path, mark: Path) -> Path:
    for name in ("imagenet256_features", "imagenet256_labels"):
        (folder / name).mkdir(parents=True)
        (folder / name / "0.npy").write_bytes(planted.npy(mark))
    return folder


def repa(path: Path, mark: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("00000/img-mean-std-00000000.npy", planted.npy(mark))
        archive.writestr("dataset.json", planted.pickled(mark))
    return path


def lightning(folder: Path, mark: Path) -> Path:
    folder.mkdir()
    planted.saved(folder / "latents_rank00_shard000.safetensors", mark)
    planted.saved(folder / "latents_stats.pt", mark)
    return folder


def tar(folder: Path, mark: Path) -> Path:
    folder.mkdir()
    (folder / "0.tar").write_bytes(planted.pickled(mark))
    return folder


def label_of_an_lmdb(path: Path, mark: Path) -> Path:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(path), map_size=2**20) as database, database.begin(write=True) as transaction:
        transaction.put(b"length", b"1")
        transaction.put(b"z-0", planted.pickled(mark))
        transaction.put(b"y-0", planted.pickled(mark))
    return path


@pytest.mark.parametrize(
    ("write", "form"),
    [
        (fast_dit, "fast-dit"),
        (repa, "repa-zip"),
        (lightning, "safetensors"),
        (tar, "maskdit-lmdb"),
        (label_of_an_lmdb, "maskdit-lmdb"),
    ],
)
def test_in_what_other_projects_wrote(write, form, tmp_path, mark):
    theirs = write(tmp_path / "theirs", mark)
    refused("data", "import", theirs, "--from", form, "--out", tmp_path / "out", "--vae", "stabilityai/sd-vae-ft-ema",
            mark=mark)  # fmt: skip


def test_in_the_caches(tmp_path, mark):
    """A cache is made again where it cannot be read."""
    planted.saved(tmp_path / "features-0000000-0000002.safetensors", mark)
    assert extract.known(tmp_path, 2) is None
    planted.saved(tmp_path / "classifier.safetensors", mark)
    assert classifier._read(tmp_path / "classifier.safetensors", InputShape(channels=1, side=8, num_classes=10)) is None
    (tmp_path / "verified.json").write_bytes(planted.pickled(mark))
    assert verified._read(tmp_path / "verified.json") == {}
    (tmp_path / "images-0000000-0000002.npy").write_bytes(planted.npy(mark))
    assert npy.problem(tmp_path / "images-0000000-0000002.npy", (2, 8, 8, 1), np.dtype(np.uint8))
    assert not mark.exists()


def test_in_a_store_that_is_continued(tmp_path, mark):
    store = tmp_path / "store"
    store.mkdir()
    (store / "description.json").write_bytes(planted.pickled(mark))
    (store / "shard-00000.json").write_bytes(planted.pickled(mark))
    assert shards.finished_shards(store) == set()
    with pytest.raises(DataError):
        shards.finish(store)
    assert not mark.exists()
