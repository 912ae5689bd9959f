"""From photographs to images: encode, verify, train on the latents, sample through the VAE. All parts are real."""

import shutil

import numpy as np
import pytest
import torch
from photographs import photographs
from tiny_run import trained

from harness.data import sources
from harness.data.latents import encode, vae
from harness.data.latents import sets as latents
from harness.evaluation.generation import decoder
from harness.planning.plan import resolve
from harness.records.schema import Manifest, read_record
from harness.runs import sampling
from harness.system.errors import DataError, UsageError
from harness.system.processes.world import World
from harness.system.progress import NoProgress

SIDE = 64  # pixels; 8 x 8 latents


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("photos") / "photos", 24, 90, 120)


@pytest.fixture(scope="module")
def store(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("store") / "latents"
    encode.encode(photos, out, vae_id="random-tiny", image_size=SIDE, flips=True, batch_size=16, progress=NoProgress())
    return out


def run(data, out, *assignments):
    settings = [f"data={data}", "width=16", "depth=3", "num_heads=2", "batch_size=8", "steps=6", *assignments]
    return trained(resolve("dit-tiny", settings), out)


def test_photographs_become_latents_a_trained_run_and_images_again(store, tmp_path):
    assert latents.verify(store) == []
    folder = run(store, tmp_path, "flips=random")
    data = read_record(folder / "manifest.json", Manifest).data
    assert (data.vae, data.num_images, data.real) == ("random-tiny", 48, True)
    answer = sampling.sample(
        folder, 3, seed=0, label_rule="random", assignments=["guidance_scale=1.5", "sampling.num_steps=3"], npz=True,
        progress=NoProgress(), world=World(),
    )  # fmt: skip
    with np.load(answer["files"][-1], allow_pickle=False) as samples:
        assert samples["arr_0"].shape == (3, SIDE, SIDE, 3)
        assert samples["arr_0"].std() > 0


def test_what_training_sees_is_the_posterior_that_the_vae_gives_and_decodes_with_its_scale(store):
    data = sources.load(str(store))
    mean, _ = data.read(torch.arange(4))[0].float().chunk(2, dim=1)
    pixels = decoder(vae.load(data.vae, sha256=data.vae_sha256))(data.manifest.scale * mean)

    torch.testing.assert_close(pixels, vae.load("random-tiny").decode(mean))


def test_the_vae_inside_the_step_trains_on_the_same_latents_as_the_cached_ones(photos, store, tmp_path):
    """Up to the rounding of stored half precision: same images, same order, same posterior noise."""
    small = ("input={channels: 4, side: 8, num_classes: 2}", "vae=random-tiny", "log_every=1")
    cached = run(store, tmp_path / "cached", *small)
    online = run(photos, tmp_path / "online", *small, "pipeline=online-vae")
    losses = [
        [float(line.split('"loss": ')[1].split(",")[0]) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (cached, online)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [("a changed shard", "does not have the hash of the manifest"), ("another VAE", "was encoded with the VAE")],
)
def test_bad_latents_are_refused_before_a_step(damage, expected, store, tmp_path):
    assignments = []
    if damage == "another VAE":
        assignments = ["vae=stabilityai/sd-vae-ft-ema"]
    else:
        store = shutil.copytree(store, tmp_path / "copy")
        content = bytearray((store / "shard-00000.npy").read_bytes())
        content[-2] ^= 1
        (store / "shard-00000.npy").write_bytes(content)
    with pytest.raises(DataError, match=expected):
        run(store, tmp_path, *assignments)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_latents_of_another_shape_than_the_recipe_takes_are_refused(store):
    cfg = resolve("dit-s", [f"data={store}", "vae=random-tiny"])
    with pytest.raises(DataError, match="holds 4 x 8 x 8 with 2 classes, and this recipe takes 4 x 32 x 32 with 1,000"):
        sources.of(cfg)


def test_mirror_images_that_were_not_stored_are_asked_for_in_vain(photos, tmp_path):
    out = tmp_path / "latents"
    encode.encode(photos, out, vae_id="random-tiny", image_size=SIDE, flips=False, batch_size=16, progress=NoProgress())
    with pytest.raises(UsageError, match="holds no mirror images"):
        run(out, tmp_path / "runs", "flips=random")
    assert not list(tmp_path.rglob("*.jsonl"))
