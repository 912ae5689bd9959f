"""The store of latents: what goes in comes out, what is damaged is refused, an interruption leaves no trace."""

import json
import os
import re
import shutil

import numpy as np
import pytest
import torch

from harness.data import npy
from harness.data.latents import sets as latents
from harness.data.latents import shards
from harness.data.latents.sets import LatentStore
from harness.data.latents.shards import Description, VaeIdentity
from harness.model.randomness import Draw
from harness.system.errors import DataError

COUNTS, CLASSES, SIDE = (5, 5, 2), 3, 4
SCALE = 0.18215
SD = VaeIdentity(id="stabilityai/sd-vae-ft-ema", revision="abc", sha256="0" * 64)


def description(**changes):
    facts = {
        "name": "tiny",
        "source": "a test",
        "layout": "mean,std",
        "channels": 4,
        "side": SIDE,
        "image_size": 32,
        "crop": "adm-centre",
        "vae": SD,
        "num_images": sum(COUNTS),
        "num_classes": CLASSES,
        "flips": "stored",
    }
    return Description(**facts | changes)


def moments(count, seed):  # (count, 8, S, S) float32, as an encoder gives them
    rng = np.random.default_rng(seed)
    values = rng.normal(scale=1 / SCALE, size=(count, 8, SIDE, SIDE)).astype(np.float32)
    values[:, 4:] = np.exp(values[:, 4:] / 5 - 3)
    return values


def parts(flips=True):
    """(number, values, labels, flipped) of each shard."""
    start = 0
    for number, count in enumerate(COUNTS):
        labels = np.arange(start, start + count) % CLASSES
        yield number, moments(count, number), labels, moments(count, 10 + number) if flips else None
        start += count


def make(folder, **changes):
    shape = description(**changes)
    shards.begin(folder, shape)
    for number, values, labels, flipped in parts(shape.flips == "stored"):
        shards.write_shard(folder, number, values, labels, flipped)
    shards.finish(folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("made") / "store")


@pytest.fixture
def store(made, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(made, tmp_path / "store")


def rewrite(folder, **changes):
    """Change the manifest by hand, so without the hash of what it was."""
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    document.pop("sha256", None)
    path.write_text(json.dumps(document | changes))


def values_of(flips=True):
    plain, mirrored = (np.concatenate([part[i] for part in parts()]) for i in (1, 3))
    return torch.from_numpy(np.concatenate([plain, mirrored] if flips else [plain]).astype(np.float16))


# What goes in comes out ------------------------------------------------------------------------------------------


def test_a_store_gives_back_what_was_written_to_float16(made):
    data, indices = LatentStore(made), torch.tensor([11, 0, 5, 4, 9, 0])
    stored, labels = data.read(indices)
    assert stored.dtype == torch.float16
    assert stored.is_contiguous()
    assert torch.equal(stored, values_of()[indices])
    assert labels.tolist() == (indices % CLASSES).tolist()
    assert (len(data), data.channels, data.side, data.num_classes, data.vae) == (12, 4, SIDE, CLASSES, SD.id)
    assert latents.verify(made) == []


def test_an_index_beyond_the_images_reads_the_mirror_image_with_the_same_label(made):
    data = LatentStore(made)
    plain, labels = data.read(torch.tensor([3, 11]))
    mirrored, same = data.read(torch.tensor([3 + 12, 11 + 12]))
    assert torch.equal(mirrored, values_of()[[15, 23]])
    assert not torch.equal(mirrored, plain)
    assert torch.equal(labels, same)


def test_everything_is_what_reading_each_index_gives(made):
    data = LatentStore(made)
    assert torch.equal(data.everything(), data.read(torch.arange(24))[0])


@pytest.mark.parametrize("index", [-1, 24])
def test_an_index_out_of_range_is_refused(made, index):
    with pytest.raises(IndexError, match="0 to 23"):
        LatentStore(made).read(torch.tensor([0, index]))


def test_without_flips_there_are_none(tmp_path):
    data = LatentStore(make(tmp_path, flips="none"))
    assert not data.has_flips
    assert len(data.everything()) == 12
    with pytest.raises(IndexError):
        data.read(torch.tensor([12]))


def test_changing_a_batch_does_not_change_the_store(made):
    data = LatentStore(made)
    data.read(torch.arange(12))[0].zero_()
    data.everything().zero_()
    assert torch.equal(data.read(torch.arange(24))[0], values_of())
    assert latents.verify(made) == []


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux's list of open files")
def test_an_open_store_holds_no_files_open(made):
    before = len(os.listdir("/proc/self/fd"))
    data = LatentStore(made)
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(data)


def test_training_images_are_scaled_samples_of_the_posterior(made):
    data = LatentStore(made)
    stored, _ = data.read(torch.zeros(4000, dtype=torch.long))
    torch.manual_seed(0)
    clean = data.to_clean(stored, Draw.all_of(stored))
    mean, std = values_of()[0].float().chunk(2)
    assert clean.dtype == torch.float32
    assert clean.shape == (4000, 4, SIDE, SIDE)
    assert torch.allclose(clean.mean(0), SCALE * mean, atol=5 * (SCALE * std).max().item() / 4000**0.5)
    assert torch.allclose(clean.std(0), SCALE * std, rtol=0.1)


def test_rows_of_a_batch_get_the_noise_they_have_in_the_whole(made):
    data = LatentStore(made)
    stored, _ = data.read(torch.arange(10))
    torch.manual_seed(3)
    whole = data.to_clean(stored, Draw.all_of(stored))
    torch.manual_seed(3)
    rows = data.to_clean(stored[4:7], Draw(10, 4, 7, stored.device))
    assert torch.equal(rows, whole[4:7])


def test_a_stored_sample_is_scaled_and_draws_nothing(tmp_path):
    shards.begin(tmp_path, description(layout="sample", flips="none", num_images=3))
    values = moments(3, 0)[:, :4]
    shards.write_shard(tmp_path, 0, values, np.arange(3))
    shards.finish(tmp_path)
    data = LatentStore(tmp_path)
    stored, _ = data.read(torch.arange(3))
    state = torch.get_rng_state()
    clean = data.to_clean(stored, Draw.all_of(stored))
    assert torch.equal(clean, SCALE * torch.from_numpy(values.astype(np.float16)).float())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_sha256_names_the_content_and_not_the_place(made, store, tmp_path):
    assert LatentStore(made).sha256 == LatentStore(store).sha256
    others = [make(tmp_path / "scaled", scale=0.5), make(tmp_path / "plain", flips="none")]
    replaced_labels(store, [2, 1, 0] * 4)
    assert len({LatentStore(folder).sha256 for folder in (made, store, *others)}) == 4


def test_the_manifest_holds_no_path(made):
    text = (made / "manifest.json").read_text()
    assert str(made.parent) not in text
    assert shards.read_manifest(made).description == description()


def test_info_tells_the_size_and_the_spread(made):
    facts = latents.info(made)
    assert facts["bytes"] == sum(path.stat().st_size for path in made.iterdir())
    assert (facts["images_per_class_min"], facts["images_per_class_max"]) == (4, 4)
    assert facts["mean_sd"] == pytest.approx(1 / SCALE, rel=0.1)
    assert facts["std_mean"] == pytest.approx(values_of(flips=False)[:, 4:].float().mean().item(), rel=1e-4)


# An interruption leaves no trace ---------------------------------------------------------------------------------


def test_a_continued_store_equals_one_made_at_once_and_keeps_finished_shards(made, tmp_path):
    folder, (first, second, third) = tmp_path / "store", parts()
    shards.begin(folder, description())
    shards.write_shard(folder, *second)
    before = (folder / "shard-00001.npy").stat().st_mtime_ns
    (folder / ".shard-00002.npy.1.tmp").write_bytes(b"killed while writing")
    (folder / "shard-00000.npy").write_bytes(b"killed before the sidecar")
    with pytest.raises(DataError, match="lacks shard 0"):
        shards.finish(folder)
    shards.begin(folder, description())
    assert shards.finished_shards(folder) == {1}
    for part in (first, third):
        shards.write_shard(folder, *part)
    shards.finish(folder)
    assert (folder / "shard-00001.npy").stat().st_mtime_ns == before
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {p.name: p.read_bytes() for p in made.iterdir()}


@pytest.mark.parametrize("file", ["shard-00001.npy", "shard-00001.flip.npy"])
@pytest.mark.parametrize("damage", ["changed", "truncated", "removed"])
def test_a_damaged_shard_of_an_unfinished_store_is_removed_to_be_made_again(tmp_path, file, damage):
    shards.begin(tmp_path, description())
    for part in parts():
        shards.write_shard(tmp_path, *part)
    spoil(tmp_path / file, damage)
    assert shards.finished_shards(tmp_path) == {0, 2}
    assert not list(tmp_path.glob("shard-00001*"))


@pytest.mark.parametrize("damage", ["changed", "truncated", "removed"])
def test_a_damaged_shard_of_a_complete_store_is_mended_by_continuing(made, store, damage):
    spoil(store / "shard-00002.flip.npy", damage)
    shards.begin(store, description())
    assert shards.finished_shards(store) == {0, 1}
    with pytest.raises(DataError, match="not finished"):
        LatentStore(store)
    shards.write_shard(store, *list(parts())[2])
    shards.finish(store)
    assert {p.name: p.read_bytes() for p in store.iterdir()} == {p.name: p.read_bytes() for p in made.iterdir()}


def test_damaged_labels_of_a_complete_store_have_all_shards_made_again(store):
    spoil(store / "labels.npy", "changed")
    assert shards.finished_shards(store) == set()


def test_a_folder_with_other_latents_is_refused_with_the_fields_that_differ(store, tmp_path):
    with pytest.raises(DataError, match=r"scale \(0.18215 there\), vae .*--out"):
        shards.begin(store, description(scale=1.0, vae=VaeIdentity(id="other")))
    shards.begin(tmp_path / "new", description())
    with pytest.raises(DataError, match="num_images"):
        shards.begin(tmp_path / "new", description(num_images=13))


def test_a_store_with_too_few_images_is_not_finished(tmp_path):
    shards.begin(tmp_path, description())
    shards.write_shard(tmp_path, *next(parts()))
    with pytest.raises(DataError, match=r"5 of 12 images.*continues"):
        shards.finish(tmp_path)
    with pytest.raises(DataError, match=r"not finished.*continues"):
        shards.read_manifest(tmp_path)


# What is wrong is refused ----------------------------------------------------------------------------------------


def spoil(path, damage):
    content = path.read_bytes()
    if damage == "removed":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[:-7])
    else:
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.__setitem__((0, 0, 0, 0), np.nan), "NaN"),
        (lambda values: values.__setitem__((0, 0, 0, 0), np.inf), "NaN or infinite"),
        (lambda values: values.__setitem__((0, 0, 0, 0), 70000), "float16 cannot hold"),
        (lambda values: values.__setitem__((1, 5, 0, 0), -0.5), "log-variances"),
    ],
)
def test_impossible_values_are_not_written(tmp_path, change, message):
    shards.begin(tmp_path, description(flips="none"))
    values = moments(5, 0)
    change(values)
    with pytest.raises(DataError, match=message):
        shards.write_shard(tmp_path, 0, values, np.zeros(5, int))
    assert not list(tmp_path.glob("shard*"))


@pytest.mark.parametrize(
    ("values", "labels", "flipped"),
    [
        (np.ones((5, 4, SIDE, SIDE)), np.zeros(5, int), None),  # a sample where moments belong
        (np.ones((5, 8, SIDE, SIDE + 1)), np.zeros(5, int), None),
        (np.ones((0, 8, SIDE, SIDE)), np.zeros(0, int), None),
        (np.ones((4097, 8, SIDE, SIDE), np.float16), np.zeros(4097, int), None),
        (np.ones((5, 8, SIDE, SIDE)), np.zeros(4, int), None),
        (np.ones((5, 8, SIDE, SIDE)), np.full(5, CLASSES), None),
        (np.ones((5, 8, SIDE, SIDE)), np.full(5, -1), None),
        (np.ones((5, 8, SIDE, SIDE)), np.zeros(5), None),
        (np.ones((5, 8, SIDE, SIDE)), np.zeros(5, int), np.ones((5, 8, SIDE, SIDE))),
    ],
)
def test_arrays_that_do_not_fit_the_description_are_not_written(tmp_path, values, labels, flipped):
    shards.begin(tmp_path, description(flips="none", num_images=5))
    with pytest.raises(DataError):
        shards.write_shard(tmp_path, 0, values, labels, flipped)
    assert not list(tmp_path.glob("shard*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "mean,logvar"}, "mean,logvar.*harness data import"),
        ({"layout": ["mean"]}, "unknown"),
        ({"schema_version": 2}, "schema version 2"),
        ({"kind": "run"}, "no manifest of latents"),
        ({"extra": 1}, "extra"),
        ({"scale": 0}, "scale"),
        ({"num_images": 13}, "differ"),
        ({"class_counts": [6, 6]}, "class counts"),
        ({"flips": "none"}, "flips"),
    ],
)
def test_a_manifest_that_is_not_understood_is_refused_in_one_line(store, changes, message):
    rewrite(store, **changes)
    with pytest.raises(DataError, match=message) as error:
        LatentStore(store)
    assert "\n" not in str(error.value)
    assert len(latents.verify(store)) == 1


def test_a_manifest_cannot_name_files_elsewhere(store):
    entries = json.loads((store / "manifest.json").read_text())["shards"]
    rewrite(store, shards=[entries[0] | {"file": "../shard-00000.npy"}, *entries[1:]])
    with pytest.raises(DataError, match=r"shards\.0\.file"):
        LatentStore(store)


def test_a_folder_without_latents_says_how_to_make_some(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match="harness data encode"):
            LatentStore(folder)


@pytest.mark.parametrize("file", ["shard-00000.npy", "shard-00002.flip.npy"])
@pytest.mark.parametrize("damage", ["truncated", "removed"])
def test_a_missing_or_truncated_shard_is_refused_before_training(store, file, damage):
    spoil(store / file, damage)
    with pytest.raises(DataError, match=file):
        LatentStore(store)
    assert [problem for problem in latents.verify(store) if file in problem]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((5, 8, SIDE, SIDE), np.float32), "float32 instead of float16"),
        (np.ones((5, 4, SIDE, SIDE), np.float16), r"shape \(5, 4, 4, 4\) instead of \(5, 8, 4, 4\)"),
        (np.asfortranarray(np.ones((5, 8, SIDE, SIDE), np.float16)), "is not stored row by row"),
    ],
)
def test_a_shard_of_another_shape_or_type_is_refused_before_training(store, array, message):
    np.save(store / "shard-00001.npy", array)
    with pytest.raises(DataError, match=message):
        LatentStore(store)


def replaced_labels(store, labels, **changes):
    """Other labels, with a manifest whose hash is theirs."""
    sha256 = npy.save(store / "labels.npy", np.array(labels))
    rewrite(store, labels_sha256=sha256, **changes)


def test_changed_labels_are_refused_by_their_hash(store):
    np.save(store / "labels.npy", np.zeros(12, np.int64))
    with pytest.raises(DataError, match="hash"):
        LatentStore(store)


@pytest.mark.parametrize(
    ("labels", "counts", "message"),
    [
        ([0, 1, 2] * 3 + [0, 1, 3], [4, 4, 4], "outside 0 to 2"),
        ([0] * 6 + [1] * 5 + [2], [4, 4, 4], "other numbers of images per class"),
        ([0, 2] * 6, [6, 0, 6], r"1 of 3 classes have no image \(1\)"),
    ],
)
def test_labels_that_cannot_be_those_of_the_images_are_refused_before_training(store, labels, counts, message):
    replaced_labels(store, labels, class_counts=counts)
    with pytest.raises(DataError, match=message):
        LatentStore(store)
    assert len(latents.verify(store)) == 1


def test_verify_finds_a_changed_value_that_opening_does_not(store):
    spoil(store / "shard-00001.npy", "changed")
    assert len(LatentStore(store)) == 12
    (problem,) = latents.verify(store)
    assert "shard-00001.npy does not have the hash" in problem
    assert "Repeat the command" in problem


def with_shard(store, number, values):
    """Another first array in a shard, with a manifest whose hash is its own."""
    entries = json.loads((store / "manifest.json").read_text())["shards"]
    entries[number]["sha256"] = npy.save(store / entries[number]["file"], values.astype(np.float16))
    rewrite(store, shards=entries)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.__setitem__((0, 0, 0, 0), np.nan), "NaN"),
        (lambda values: values.__setitem__((0, 5, 0, 0), np.inf), "infinite"),
        (lambda values: values.__setitem__((0, slice(4, 8)), -17.5), "below zero.*log-variances"),
    ],
)
def test_verify_finds_impossible_values_whatever_their_hash(store, change, message):
    values = moments(5, 1)
    change(values)
    with_shard(store, 1, values)
    (problem,) = latents.verify(store)
    assert re.search(message, problem)


def test_verify_finds_standard_deviations_that_are_something_else(store):
    for number, values, _, _ in list(parts()):
        values[:, 4:] = np.abs(values[:, :4]) * 9
        with_shard(store, number, values)
    assert any("something else" in problem for problem in latents.verify(store))


def test_verify_finds_latents_of_a_known_vae_that_were_scaled_before(store):
    for number, values, _, _ in list(parts()):
        with_shard(store, number, values * SCALE)
    (problem,) = latents.verify(store)
    assert "scaled already" in problem


def test_verify_finds_shards_that_are_there_twice(store):
    with_shard(store, 1, moments(5, 0))
    assert any("shard-00001.npy equals shard-00000.npy" in problem for problem in latents.verify(store))


def test_verify_compares_the_count_only_when_asked(made):
    assert latents.verify(made, expected_images=12) == []
    (problem,) = latents.verify(made, expected_images=shards.IMAGENET_IMAGES)
    assert "12 images instead of 1,281,167" in problem


def test_verify_lists_every_problem_and_reports_its_progress(store):
    spoil(store / "shard-00000.npy", "changed")
    spoil(store / "shard-00001.flip.npy", "removed")
    spoil(store / "labels.npy", "truncated")
    done = []
    problems = latents.verify(store, advance=done.append)
    assert done == [5, 10, 12]
    assert len(problems) == 3
