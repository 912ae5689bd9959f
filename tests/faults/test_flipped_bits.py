"""A file that was cut short, or in which a bit flipped: an error says so, or it has no effect. Never a wrong number."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import seed_corpus
from positions import LONG, record, try_all
from run_folders import write_run
from tensor_images import TensorImages

from harness.data import classifier, sources
from harness.data.latents import vae
from harness.data.latents.sets import LatentStore
from harness.evaluation import evaluate
from harness.evaluation.images.image_sets import NpzImages, PartImages, content_of
from harness.evaluation.images.npz import write_npz
from harness.evaluation.images.parts import draw_in_parts
from harness.evaluation.metrics.statistics import gaussian_of
from harness.evaluation.networks import extract, features, inception
from harness.evaluation.reference_file import read_reference, write_reference
from harness.model.nn.classifier import POOL_SIZE
from harness.records.folders import inspection, listing
from harness.records.schema import Record, write_record
from harness.records.store import load_run
from harness.system.errors import DataError
from harness.system.processes.world import World
from harness.system.weights import fingerprint
from harness.training import checkpoint
from harness.training.checkpoint import Checkpoint, Keep

CONFIG = "c" * 64
DIGITS = sources.digits().shape


def positions(short: int, long: int) -> int:
    return long if LONG else short


def same(one, other) -> bool:
    """Equal, bit for bit, with tensors and arrays anywhere inside."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def pixels() -> torch.Tensor:  # (60, 8, 8, 1) uint8
    return torch.randint(256, (60, 8, 8, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def told(read):
    """What `read` gives, or the message of the DataError that it ends with."""

    def outcome():
        try:
            return read()
        except DataError as error:
            return str(error)

    return outcome


def try_files(kind: str, paths, count: int, outcome, lost: str = "nothing", equal=same) -> None:
    """Every file of `paths` damaged in `count` ways; what undamaged ones give is the standard."""
    clean = outcome()
    assert not isinstance(clean, str), clean
    total = {"detected": 0, "harmless": 0}
    for path in paths:
        for name, number in try_all(path, count, outcome, clean, equal).items():
            total[name] += number
    assert total["detected"] > 0
    record(kind, "a flipped bit or a missing end", sum(total.values()), lost=lost, **total)


# Checkpoints -----------------------------------------------------------------------------------------------------


def some(step: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    weight = torch.nn.Parameter(torch.randn(5, 7, generator=generator))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.randn(5, 7, generator=generator)
    optimizer.step()
    return Checkpoint(step, 1.5, {"network.w": weight.detach()}, {"w": weight.detach() + 1}, optimizer.state_dict())


def test_a_damaged_checkpoint_is_passed_over_and_said_so_and_the_one_before_it_used(tmp_path):
    for step in (10, 20):
        checkpoint.save(tmp_path, some(step), CONFIG, Keep())

    def newest():
        notes = []
        found = checkpoint.load_newest(tmp_path, CONFIG, notes.append)
        if found is not None and found.step == 10:
            assert same(found, Checkpoint(*checkpoint.copied(list(some(10)))))
            return notes[0]
        return tuple(found)

    files = [tmp_path / "step-000000020" / name for name in (*checkpoint.FILES, "state.json")]
    try_files("checkpoint", files, positions(12, 200), newest, "the steps since the checkpoint before")


def test_an_average_that_is_sampled_is_whole_or_not_used(tmp_path):
    checkpoint.save_ema(tmp_path, 20, some(20).ema, CONFIG)

    def average():
        notes = []
        return checkpoint.load_ema(tmp_path, CONFIG, notes.append) or notes[0]

    folder = tmp_path / "step-000000020"
    try_files("imported checkpoint", sorted(folder.iterdir()), positions(12, 150), average)


# Latents ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path) -> Path:
    return seed_corpus.store(tmp_path / "store")


def everything_of(store: Path):
    data = LatentStore(store)
    data.check(lambda done: None)
    stored, labels = data.read(torch.arange(2 * len(data)))
    return stored, labels, data.manifest.model_dump(), data.sha256


def test_a_damaged_store_of_latents_trains_nothing(store):
    files = [store / name for name in ("shard-00000.npy", "shard-00000.flip.npy", "labels.npy", "manifest.json")]
    try_files("latents", files, positions(12, 150), told(lambda: everything_of(store)))


def test_a_shard_that_changed_without_its_time_is_read_again(store):
    everything_of(store)  # now its hashes are remembered
    path = store / "shard-00000.npy"
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "does not have the hash of the manifest" in told(lambda: everything_of(store))()


# Drawn images and their features ---------------------------------------------------------------------------------


def test_a_damaged_part_of_drawn_images_is_drawn_again(tmp_path):
    pixels = torch.randint(256, (10, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    drawn = []

    def draw(first, stop):
        drawn.append((first, stop))
        return pixels[first:stop]

    def images():
        paths = draw_in_parts(tmp_path, 10, 5, (4, 4, 3), draw, world=World())
        found = PartImages("drawn", paths, (4, 4, 3)).read(0, 10)
        assert torch.equal(found, pixels)
        again = len(drawn)
        drawn.clear()
        return f"drawn again: {again}" if again else found

    images()  # the first time all are drawn
    try_files("drawn images", sorted(tmp_path.glob("*-0000005.*")), positions(20, 200), images, "one part's drawing")


@pytest.fixture(scope="module")
def trained() -> classifier.Trained:
    """Untrained: its values do not matter here."""
    weights = classifier._initial_weights(DIGITS, torch.Generator().manual_seed(0))
    module = classifier._with_weights({name: weight.float() for name, weight in weights.items()}, DIGITS)
    return classifier.Trained(module, fingerprint({k: w.float() for k, w in module.state_dict().items()}), 0.5, 359)


@pytest.fixture(scope="module")
def network(trained) -> features.FeatureNetwork:
    return features.FeatureNetwork(
        "digits", trained.sha256, trained.module, (8, 8, 1), 64, POOL_SIZE, trained.module.spatial_size,
    )  # fmt: skip


def test_damaged_features_are_extracted_again(tmp_path, network):
    extract.features_of(TensorImages("digits", pixels()[:60]), network, tmp_path)
    (path,) = tmp_path.iterdir()
    try_files(
        "features", [path], positions(20, 300), lambda: extract.known(tmp_path, 60) or "extracted again", "one part's"
    )


def test_a_damaged_record_of_drawn_images_is_not_believed(tmp_path):
    path = tmp_path / "images.json"
    protocol = load_run(write_run(tmp_path)).evaluations["final"].protocol
    images = TensorImages("drawn", torch.zeros(3, 2, 2, 1, dtype=torch.uint8))
    evaluate._keep_record(path, images, None, torch.zeros(3), protocol)

    def pixels():
        found = evaluate._pixels_of(path)
        return [found] if found else "drawn again"

    try_files("record of drawn images", [path], positions(20, 200), pixels, "their drawing")


def test_a_damaged_classifier_of_digits_is_trained_again(tmp_path, trained):
    path = tmp_path / "classifier.safetensors"
    classifier._write(path, trained)

    def read():
        found = classifier._read(path, DIGITS)
        return (found.module.state_dict(), found.sha256) if found else "trained again"

    try_files("digits classifier", [path], positions(15, 200), read, "a few seconds")


# Archives --------------------------------------------------------------------------------------------------------


def stored(path: Path) -> None:
    write_npz(path, {"labels": np.arange(20) % 10}, TensorImages("digits", pixels()[:20]))


def compressed(path: Path) -> None:
    np.savez_compressed(path, arr_0=pixels()[:20].numpy(), arr_1=np.arange(20) % 10)


@pytest.mark.parametrize(("kind", "write"), [("samples.npz", stored), ("samples.npz, compressed", compressed)])
def test_a_damaged_archive_of_images_gives_no_number(kind, write, tmp_path):
    path = tmp_path / "samples.npz"
    write(path)

    def content():
        found = NpzImages(path)
        return content_of(found), found.labels

    try_files(kind, [path], positions(60, 600), told(content))


def test_a_name_that_changed_in_an_archives_directory_is_told(tmp_path):
    """Labels of another name would be no labels, and a metric fewer, without a word."""
    path = tmp_path / "samples.npz"
    stored(path)
    content = path.read_bytes()
    for start in (content.rindex(b"labels.npy"), content.index(b"labels.npy")):
        for bit in range(8 * len("labels.npy")):
            flipped = bytearray(content)
            flipped[start + bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            with pytest.raises(DataError, match="damaged"):
                NpzImages(path)
    record("samples.npz", "every bit of an array's name, in the directory and beside the array", 160, detected=160)


def test_a_damaged_reference_gives_no_number(tmp_path, network):
    path, images = tmp_path / "reference.npz", pixels()[:60]
    pool, spatial, _ = network(images)
    facts = {"features": network.name, "features_sha256": network.sha256}
    write_reference(
        path, pool=gaussian_of(pool[:, :8]), spatial=gaussian_of(spatial[:, :8]),
        images=TensorImages("digits", images), provenance=facts,
    )  # fmt: skip

    def content():
        found = read_reference(path)
        parts = [[g.mean, g.covariance, g.count] for g in (found.pool, found.spatial)]
        return parts, content_of(found.images), found.features, found.features_sha256, found.num_images

    try_files("reference", [path], positions(60, 600), told(content))


# Networks --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not LONG, reason="diffusers takes ten seconds to import: HARNESS_FAULTS=long")
def test_a_vae_that_is_not_the_one_that_made_the_latents_is_refused(tmp_path):
    folder = tmp_path / "own"
    model = vae.load("random-tiny").model
    model.save_pretrained(folder)
    weights = folder / vae.WEIGHTS
    expected = hashlib.sha256(weights.read_bytes()).hexdigest()

    def loaded():
        vae._on.cache_clear()  # as another process
        return vae.load(str(folder), sha256=expected).model.state_dict()

    try_files("VAE", [weights], positions(6, 60), told(loaded))
    vae._on.cache_clear()


def test_published_weights_of_inception_are_known_by_their_hash(tmp_path, monkeypatch):
    """With the hash of a small file in place of the published one's; what the file holds matters only if it fits."""
    monkeypatch.setenv("HARNESS_FEATURES", str(tmp_path))
    path = tmp_path / inception.PUBLISHED.file
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "PUBLISHED", replace(inception.PUBLISHED, sha256=sha256))
    monkeypatch.setattr(inception, "read_tensors", lambda path: {})
    monkeypatch.setattr(inception, "_extractor", lambda tensors, source: torch.nn.Linear(1, 1))
    try_files("Inception", [path], positions(20, 100), told(lambda: [inception.load().sha256]))


# Records of runs -------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path) -> Path:
    folder = write_run(tmp_path, "sddit", knobs={"mask_ratio": 0.5})
    added = load_run(folder).evaluations["final"].model_copy(update={"name": "guided"})
    (folder / "evaluations").mkdir()
    write_record(folder / "evaluations" / "guided.json", added)
    return folder


def test_a_damaged_record_of_a_run_is_told_and_gives_no_number(run):
    def read():
        found = load_run(run)
        if found.damaged_evaluations:
            return "left out: " + ", ".join(found.damaged_evaluations)
        return {
            name: value.model_dump() if isinstance(value, Record) else value
            for name, value in vars(found).items()
            if name not in ("path", "config")
        }, {name: value for name, value in found.config.items() if name != "execution"}

    files = [run / name for name in ("result.json", "manifest.json", "config.yaml", "evaluations/guided.json")]
    try_files("records of a run", files, positions(25, 300), told(read))


def test_whatever_bit_flips_in_a_run_folder_the_listing_names_the_run(run):
    def listed():
        entry = listing.entry_of(run)
        if entry.state == "foreign":  # by then not even its name is its own
            raise AssertionError(f"foreign: {entry.reason}")
        inspection.describe(run)
        return entry.reason or "read"

    for name in ("result.json", "manifest.json", "config.yaml", "metrics.jsonl"):
        try_all(run / name, positions(8, 100), listed, None, same)
