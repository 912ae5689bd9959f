"""A folder of one's own images becomes pictures and numbers in one command, and a spoilt one leaves nothing behind."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import QUICK_EVALUATION, invoke
from PIL import Image
from sklearn.datasets import load_sample_images

from harness.data import sources
from harness.recipes.reading import families

TINY = ["--set", "width=16", "--set", "num_heads=2", "--set", "batch_size=8", "--set", "patch=4", "--steps", "4"]


@pytest.fixture
def folder(tmp_path) -> Path:
    """200 pieces of two photographs, in two classes, as PNGs of 16 x 16."""
    for name, photograph in zip(("temple", "flower"), load_sample_images().images, strict=True):
        (tmp_path / "own" / name / "deeper").mkdir(parents=True)
        for number in range(100):
            top, left = 4 * number, 6 * number
            path = tmp_path / "own" / name / ("deeper" if number % 2 else ".") / f"{number}.png"
            Image.fromarray(photograph[top : top + 16, left : left + 16]).save(path)
    return tmp_path / "own"


@pytest.mark.slow
def test_a_folder_of_200_pngs_ends_in_pictures_and_numbers_with_no_other_step(folder, tmp_path):
    done = invoke("run", "dit-tiny", "--data", "own", *TINY, *QUICK_EVALUATION, "--json", cwd=tmp_path)
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    metrics = result["evaluations"]["final"]["metrics"]
    assert {name.partition("@")[0] for name in metrics} >= {"fd-own", "precision-own", "recall-own"}
    assert all(np.isfinite(value) for value in metrics.values())
    run = next((tmp_path / "runs" / "dit-tiny").iterdir())
    with Image.open(run / "samples" / "grid.png") as grid:
        assert grid.mode == "RGB"
    data = json.loads((run / "manifest.json").read_text())["data"]
    assert (data["num_images"], data["held_out"]["num_images"]) == (180, 20)
    assert data["sha256"] != data["held_out"]["sha256"]


def test_a_folder_with_a_damaged_image_leaves_no_run_behind(folder, tmp_path):
    path = folder / "flower" / "2.png"
    path.write_bytes(path.read_bytes()[:-60])
    done = invoke("run", "dit-tiny", "--data", "own", *TINY, "--no-eval", cwd=tmp_path)
    assert done.exit_code == 4
    assert "own/flower/2.png is damaged" in done.stderr
    assert not list(tmp_path.rglob("manifest.json"))
    assert not list(tmp_path.rglob("config.yaml"))


@pytest.mark.slow
@pytest.mark.skipif(not sources.is_here("fashion-mnist"), reason="needs the Debian package dataset-fashion-mnist")
@pytest.mark.parametrize("method", families())
def test_every_method_trains_on_fashion_mnist_as_the_proxy_mini(method, tmp_path):
    steps = ["--steps", "8", "--set", "log_every=4", "--set", "learning_rate=0.002"]
    done = invoke("run", f"{method}-mini", *steps, "--no-eval", "--json", cwd=tmp_path)
    assert done.exit_code == 0, done.stderr
    run = next((tmp_path / "runs" / f"{method}-mini").iterdir())
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 2
    assert all(np.isfinite(losses))
    data = json.loads((run / "manifest.json").read_text())["data"]
    assert (data["num_images"], data["held_out"]["num_images"]) == (60_000, 10_000)
    assert data["fitting"] == "padded with black to 32 x 32"
