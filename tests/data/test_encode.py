"""A store of latents is the same however many processes made it and however often they were stopped."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from harness.data.images import image_folder
from harness.data.latents import encode, shards, vae
from harness.data.latents import sets as latents
from harness.system.errors import DataError, UsageError
from harness.system.processes import launch
from harness.system.processes.world import World
from harness.system.progress import NoProgress

SIZE, PER_CLASS, PER_SHARD = 64, 54, 12
SETTINGS = {"vae_id": "random-tiny", "image_size": SIZE, "flips": True, "batch_size": 5}
NUM_SHARDS = 9


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """108 pieces of two photographs, a class each."""
    root = tmp_path_factory.mktemp("images") / "photos"
    for name, photograph in zip(("temple", "flower"), load_sample_images().images, strict=True):
        (root / name).mkdir(parents=True)
        for number in range(PER_CLASS):
            top, left = 37 * number % (427 - SIZE), 53 * number % (640 - 2 * SIZE)
            piece = Image.fromarray(photograph[top : top + SIZE, left : left + SIZE + number])
            piece.save(root / name / f"{number:04d}.{'png' if number % 3 else 'JPEG'}")
    return root


def encoded(images: Path, out: Path, **changes) -> shards.Manifest:
    return encode.encode(images, out, **{**SETTINGS, "progress": NoProgress(), "shard_images": PER_SHARD, **changes})


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory) -> Path:
    """Made by one process without an interruption."""
    out = tmp_path_factory.mktemp("whole") / "latents"
    encoded(photos, out)
    return out


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "latents"))


def content(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*.npy")}


# What is stored --------------------------------------------------------------------------------------------------


def test_every_latent_is_the_posterior_of_its_image_and_of_its_mirror_image(photos, whole):
    store, files = latents.LatentStore(whole), image_folder.listing(photos).files
    assert (len(store), store.channels, store.side, store.num_classes, store.vae) == (108, 4, 8, 2, "random-tiny")
    assert store.labels.tolist() == [0] * PER_CLASS + [1] * PER_CLASS
    pixels = image_folder.Decoder(photos, SIZE).decode(files)
    both = vae.load("random-tiny").moments(torch.cat([pixels, pixels.flip(-1)]))
    stored, _ = store.read(torch.arange(2 * len(store)))
    assert torch.allclose(stored.float(), both, rtol=2e-3, atol=1e-4)  # half precision


def test_the_store_says_how_it_was_made_and_is_sound(whole):
    manifest = shards.read_manifest(whole)
    assert latents.verify(whole, expected_images=108) == []
    assert [shard.count for shard in manifest.shards] == [PER_SHARD] * NUM_SHARDS
    assert manifest.class_names == ["flower", "temple"]
    assert (manifest.layout, manifest.flips, manifest.crop, manifest.scale) == (
        "mean,std",
        "stored",
        "adm-centre",
        0.18215,
    )
    assert manifest.vae == vae.load("random-tiny").identity
    assert manifest.source.startswith("encoded by dit-harness from photos ")


# Interruptions ---------------------------------------------------------------------------------------------------


SCRIPT = """
import sys
from pathlib import Path
from harness.data.latents import encode
from harness.system.progress import NoProgress
encode.encode(Path(sys.argv[1]), Path(sys.argv[2]), progress=NoProgress(), {settings})
"""


def test_a_process_that_was_killed_and_continued_makes_the_same_bytes_as_one_that_was_not(photos, whole, tmp_path):
    settings = ", ".join(f"{key}={value!r}" for key, value in {**SETTINGS, "shard_images": PER_SHARD}.items())
    (tmp_path / "script.py").write_text(SCRIPT.format(settings=settings))
    out = tmp_path / "latents"
    root = str(Path(encode.__file__).parents[3])
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(photos), str(out)],
        env={**os.environ, "PYTHONPATH": root}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(list(out.glob("shard-*.json"))) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    process.communicate(timeout=30)
    assert (out / ".encode.lock").exists()  # what the kill left holds nothing
    finished, kept = shards.finished_shards(out), times(out)
    assert 1 < len(finished) < NUM_SHARDS
    damage(out / "shard-00001.flip.npy")  # while nobody looked

    encoded(photos, out)
    assert content(out) == content(whole)
    again = times(out)
    assert {number for number in finished if again[f"shard-{number:05d}.npy"] != kept[f"shard-{number:05d}.npy"]} == {1}


def damage(path: Path) -> None:
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.write_bytes(changed)


class Watch:
    """Progress that does something once images are being encoded."""

    def __init__(self, act):
        self.act, self.seen = act, []

    def note(self, text: str) -> None:
        raise AssertionError(f"nothing was to be said: {text}")

    def stage(self, name: str, total: int) -> None:
        self.total = total

    def advance(self, done: int) -> None:
        self.seen.append(done)
        if done and self.act:
            self.act()


@pytest.mark.parametrize("place", ["", "temple/latents"])
def test_latents_among_the_images_are_refused(place, photos):
    with pytest.raises(UsageError, match=r"lies in .*, among the images: it would be taken for a class"):
        encoded(photos, photos / place)


def test_a_second_command_that_encodes_into_the_same_folder_is_refused_and_disturbs_nothing(photos, whole, tmp_path):
    out, refused = tmp_path / "latents", []

    def second():
        if not refused:
            with pytest.raises(
                DataError, match=rf"another command encodes into .*latents: process {os.getpid()}"
            ) as error:
                encoded(photos, out, batch_size=1)
            refused.append(error)

    encoded(photos, out, progress=Watch(second))
    assert len(refused) == 1
    assert content(out) == content(whole)


class Alone(World):
    """One of several processes, without the others."""

    def wait(self) -> None: ...

    def agreed(self, value):
        return set() if value is None else value


def test_processes_share_the_shards_out_and_make_the_same_bytes_as_one(photos, whole, tmp_path):
    out = tmp_path / "latents"
    with pytest.raises(DataError, match="lacks shard 1"):
        encoded(photos, out, world=Alone(0, 2))
    assert shards.finished_shards(out) == {0, 2, 4, 6, 8}
    with pytest.raises(DataError, match="is not finished"):
        encoded(photos, out, world=Alone(1, 2))
    assert shards.finished_shards(out) == set(range(NUM_SHARDS))
    encoded(photos, out)
    assert content(out) == content(whole)


def test_a_damaged_image_ends_the_command_with_its_name_and_may_be_mended_under_way(photos, tmp_path):
    images = Path(shutil.copytree(photos, tmp_path / "photos"))
    damaged, out = images / "temple" / "0003.JPEG", tmp_path / "latents"
    intact = damaged.read_bytes()
    damaged.write_bytes(intact[:700])
    with pytest.raises(DataError, match=r"temple/0003.JPEG is damaged .* truncated"):
        encoded(images, out)
    assert len(shards.finished_shards(out)) == PER_CLASS // PER_SHARD
    damaged.write_bytes(intact)
    description = encode._description(image_folder.listing(images), vae.load("random-tiny"), out, SIZE, True)
    shards.begin(out, description)  # the store may be continued


def test_a_finished_store_is_left_alone(photos, copy, monkeypatch):
    before, watch = times(copy), Watch(None)
    monkeypatch.setattr(encode, "_encoded", lambda *arguments: pytest.fail("a shard was encoded"))
    encoded(photos, copy, progress=watch)
    assert times(copy) == before
    assert (watch.seen, watch.total) == ([108], 108)


# Refusals, before any work ---------------------------------------------------------------------------------------


def test_too_little_space_is_told_before_any_work(photos, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=200_000))
    with pytest.raises(DataError, match=r"has 0.00 GB free, and 108 latents take 0.00 GB"):
        encoded(photos, tmp_path / "latents")
    assert not list((tmp_path / "latents").glob("shard-*"))


def test_a_place_that_cannot_be_written_is_told_before_any_work(photos, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/latents cannot be written: Not a directory"):
        encoded(photos, tmp_path / "file" / "latents")


def test_latents_of_another_kind_are_not_mixed_into_a_store(photos, copy):
    before = content(copy)
    with pytest.raises(DataError, match="already holds other latents: they differ in flips"):
        encoded(photos, copy, flips=False)
    assert content(copy) == before


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"image_size": 36}, UsageError, "--size is 36; the VAE random-tiny needs a multiple of 8"),
        ({"batch_size": 0}, UsageError, "--batch is 0"),
        ({"vae_id": "randon"}, UsageError, "Did you mean random"),
        ({"images": Path("nowhere")}, DataError, "nowhere cannot be listed"),
    ],
)
def test_a_wrong_setting_is_told_before_anything_is_written(change, error, says, photos, tmp_path):
    with pytest.raises(error, match=says):
        encoded(change.pop("images", photos), tmp_path / "latents", **change)
    assert not (tmp_path / "latents").exists()


def test_no_more_processes_start_than_there_are_shards(photos, monkeypatch):
    assert encode.usual_processes(photos) == 1
    monkeypatch.setattr(encode, "SHARD_IMAGES", 1)
    assert encode.usual_processes(photos) > 0
    monkeypatch.setattr(launch, "processors", lambda: 5)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert encode.usual_processes(photos) == 5
