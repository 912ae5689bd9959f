"""Data, a cache and run folders that many tests share."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from run_folders import XEON, write_run
from tiny_run import SIX_STEPS, run

from harness.data import sources
from harness.model.shape import Shape
from harness.records.schema import Device

torch.set_num_threads(1)  # the networks are so small that a second thread costs more than it gives


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """A cache of the tests' own, also for the processes they start: the user's is neither read nor written."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(folder))
        yield folder


@pytest.fixture
def no_weights(monkeypatch, tmp_path) -> None:
    """A machine without published weights and without a network: caches are folders of tmp_path."""
    from huggingface_hub import constants as hub

    for variable in ("HARNESS_FEATURES", "HARNESS_VAE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def digits() -> sources.Dataset:
    return sources.load("digits")


@pytest.fixture(scope="session")
def six_steps(tmp_path_factory) -> Path:
    """The folder of a finished run with tiny_run.SIX_STEPS. Tests copy what they change."""
    return run(tmp_path_factory.mktemp("six-steps"), *SIX_STEPS)[1]


@pytest.fixture
def shape() -> Shape:
    return Shape(channels=2, side=8, num_classes=5, patch=2, width=16, depth=3, num_heads=2)


@pytest.fixture
def run_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run folder below tmp_path/runs/<kind of device>; the keywords are write_run's."""

    def write(method: str = "dit", *, device: Device = XEON, **settings) -> Path:
        return write_run(tmp_path / "runs" / device.kind, method, device=device, **settings)

    return write


@pytest.fixture
def four_methods(tmp_path: Path) -> Path:
    """A folder of runs: every method once, under one protocol."""
    speeds_and_distances = {"dit": (10.2, 5.1), "maskdit": (7.4, 21.3), "mdt": (5.6, 4.2), "sddit": (5.1, 11.9)}
    for method, (speed, distance) in speeds_and_distances.items():
        write_run(tmp_path / "runs", method, speed=speed, distance=distance)
    return tmp_path / "runs"


@pytest.fixture(scope="session")
def worlds(tmp_path_factory) -> dict[str, dict[str, list]]:
    """Judgements by claim, in worlds where all claims hold, fail, are open, have one seed, or are not tested."""
    from claim_worlds import AS_PUBLISHED, H200, a_lot, arm, equal_world, judged, reversed_world, write

    root = tmp_path_factory.mktemp("worlds")
    return {
        "reproduced": judged(write(root / "published", AS_PUBLISHED, device=H200)),
        "not reproduced": judged(write(root / "reversed", reversed_world(AS_PUBLISHED), device=H200)),
        "inconclusive": judged(write(root / "equal", equal_world(AS_PUBLISHED), wobble=a_lot, device=H200)),
        "one seed": judged(write(root / "single", AS_PUBLISHED, seeds=(0,), device=H200)),
        "not tested": judged(write(root / "lonely", [arm("dit", 68.40)])),
    }
