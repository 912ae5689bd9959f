"""NaN and infinity in data, gradients, losses, features and images: an end with the step's name, never a number."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from commands import prepared
from positions import LONG, record
from small import small_config
from tiny_run import SIX_STEPS, Silent, losses_of, run, weights_of

import baselines
from harness.data import npy, sources
from harness.data.images.uint8 import to_uint8
from harness.data.latents import sets as latents
from harness.data.latents import shards
from harness.data.latents.shards import Description, VaeIdentity
from harness.evaluation.images.image_sets import open_images
from harness.evaluation.metrics import measure as metrics
from harness.evaluation.metrics.statistics import Gaussian
from harness.evaluation.networks.base import Features
from harness.evaluation.reference_file import read_reference
from harness.records.folders import listing
from harness.records.schema import read_lines, write_record
from harness.runs import training_run as experiment
from harness.system.errors import DataError, Diverged
from harness.system.processes.world import World
from harness.training import checkpoint, engine
from harness.training.step import TrainStep

NAN, INF = float("nan"), float("inf")


class Injected:
    """A training step that, once, meets `value` in its loss or in a gradient, or in one gradient a number too large."""

    def __init__(self, where: str, step: int, value: float):
        self.where, self.step, self.value, self._real = where, step, value, TrainStep.__call__

    def install(self, patch: pytest.MonkeyPatch) -> None:
        injected = self

        def call(self, batch, step, *, measure_gradient):
            hooks = []
            if step == injected.step:
                if injected.where == "gradient":
                    weight = next(p for p in self.method.parameters() if p.requires_grad)
                    hooks.append(weight.register_hook(lambda gradient: gradient + injected.value))
                if injected.where == "loss":
                    hooks.append(self.method.register_forward_hook(injected.spoil))
            try:
                return injected._real(self, batch, step, measure_gradient=measure_gradient)
            finally:
                for hook in hooks:
                    hook.remove()

        patch.setattr(TrainStep, "__call__", call)

    def spoil(self, module, given, losses):
        return {**losses, "loss": losses["loss"] * self.value}


def assert_all_finite(folder: Path) -> list[int]:
    """Every checkpoint verifies and holds numbers. Returns their steps."""
    steps = []
    for path in sorted((folder / "checkpoints").iterdir()):
        loaded = checkpoint._load(path, checkpoint._verified_state(path, checkpoint.FILES))
        tensors = [*loaded.method.values(), *loaded.ema.values()]
        tensors += [value for state in loaded.optimizer["state"].values() for value in state.values()]
        assert all(values.isfinite().all() for values in tensors), path
        steps.append(loaded.step)
    return steps


FAULTS = [
    (where, step, value)
    for where, value in (("loss", NAN), ("loss", INF), ("gradient", NAN), ("gradient", -INF), ("gradient", 1e30))
    for step in ((2, 3, 4, 5) if LONG else (3,))
]


@pytest.mark.parametrize(("where", "step", "value"), FAULTS)
def test_a_run_that_diverges_names_the_step_and_keeps_its_last_good_checkpoint(
    where, step, value, six_steps, tmp_path, monkeypatch
):
    cfg = small_config("dit", *SIX_STEPS, "log_every=2")
    folder = tmp_path / cfg.recipe / cfg.run_id
    with monkeypatch.context() as patch:
        Injected(where, step, value).install(patch)
        with pytest.raises(Diverged, match=rf"(at|after) step ({step + 1}|{step + 2}) of dit-tiny.* --seed") as error:
            run(tmp_path, *SIX_STEPS, "log_every=2")
    assert error.value.exit_code == 5
    assert "\n" not in str(error.value)
    good = assert_all_finite(folder)
    assert good == [saved for saved in (2, 4, 6) if saved <= step][-2:]
    (divergence,) = [e for e in read_lines(folder / "events.jsonl")[0] if e["event"] == "divergence"]
    assert divergence["step"] in (step + 1, step + 2)
    assert listing.entry_of(folder).reason.startswith(f"failed: it diverged at step {divergence['step']}")
    # Without the fault the same command ends as if it had never been; and another seed is another run.
    _, folder, _ = run(tmp_path, *SIX_STEPS, "log_every=2")
    assert weights_of(folder) == weights_of(six_steps)
    assert [line["loss"] for line in read_lines(folder / "metrics.jsonl")[0]] == pytest.approx(
        [np.mean([loss for _, loss in losses_of(six_steps)[i : i + 2]]) for i in (0, 2, 4)]
    )
    record("not a number", f"{value} in the {where} of a step; then the same command without it",
           4 if LONG else 1, lost="the steps since the last checkpoint")  # fmt: skip


# Data ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def latents_with_nan(tmp_path) -> Path:
    """A store that was made elsewhere: its hashes fit, and one of its values is not a number."""
    folder, generator = tmp_path / "latents", np.random.default_rng(0)
    description = Description(
        name="tiny", source="a test", layout="sample", channels=4, side=8, image_size=64, crop="adm-centre",
        vae=VaeIdentity(id="random-tiny"), num_images=16, num_classes=2,
    )  # fmt: skip
    values = generator.normal(size=(16, 4, 8, 8)).astype(np.float16)
    shards.begin(folder, description)
    shards.write_shard(folder, 0, values, np.arange(16) % 2)
    shards.finish(folder)
    values[3, 1, 2, 2] = NAN
    manifest = shards.read_manifest(folder)
    (shard,) = manifest.shards
    shard = shard.model_copy(update={"sha256": npy.save(folder / shard.file, values)})
    write_record(folder / "manifest.json", manifest.model_copy(update={"shards": [shard]}))
    return folder


def test_latents_with_nan_end_a_run_with_exit_code_5_and_are_found_by_verify(latents_with_nan, tmp_path):
    cfg = small_config(
        "dit", "steps=8", "log_every=1", "checkpoint_every=1", f"data={latents_with_nan}", "flips=none",
        'input={"channels": 4, "side": 8, "num_classes": 2}', "batch_size=4",
    )  # fmt: skip
    with pytest.raises(Diverged, match=r"the loss is nan at step [1-4] of .*harness data verify"):
        experiment.run(cfg, tmp_path, command="", progress=Silent(), with_evaluation=False, force=False)
    if (tmp_path / cfg.recipe / cfg.run_id / "checkpoints").exists():
        assert_all_finite(tmp_path / cfg.recipe / cfg.run_id)
    assert "NaN" in latents.verify(latents_with_nan)[0]
    record("not a number", "NaN in a latent whose shard has the right hash", 1, lost="the run, which ends with 5")


# Images and features ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_feature_that_is_no_number_gives_no_metric(value):
    generator = torch.Generator().manual_seed(0)
    pool = torch.randn(60, 8, generator=generator)
    reference = metrics.Reference(Gaussian(60, np.zeros(8), np.eye(8)), None, torch.randn(60, 8, generator=generator))
    metrics.measure(Features(pool), reference, ["fd", "precision"])
    for spoiled in ("generated", "reference"):
        broken = pool.clone()
        broken[7, 3] = value
        both = (Features(broken), reference)
        if spoiled == "reference":
            both = (Features(pool), metrics.Reference(reference.pool, None, broken))
        for measure in (metrics.measure, metrics.standard_errors):
            with pytest.raises(DataError, match=rf"1 of the 480 pool features of the {spoiled} images are not finite"):
                measure(*both, ["fd", "precision"])
    record("not a number", f"{value} in features of images, generated or of the reference", 4)


@pytest.mark.parametrize("value", [NAN, INF])
def test_an_image_that_is_no_number_gives_no_pixels(value, tmp_path):
    images = torch.zeros(2, 3, 4, 4)
    images[1, 2, 3, 3] = value
    with pytest.raises(DataError, match="1 of the 96 values of the images are not finite"):
        to_uint8(images)
    np.savez(tmp_path / "samples.npz", arr_0=images.permute(0, 2, 3, 1).numpy())
    with pytest.raises(DataError, match="not finite"):
        open_images(tmp_path / "samples.npz")
    record("not a number", f"{value} in images, drawn or in a file", 2)


@pytest.mark.parametrize("name", ["mu", "sigma"])
def test_statistics_that_are_no_numbers_are_no_reference(name, tmp_path):
    arrays = {"mu": np.zeros(4), "sigma": np.eye(4)}
    arrays[name].flat[2] = NAN
    np.savez(tmp_path / "reference.npz", **arrays)
    with pytest.raises(DataError, match=f"1 of the .* values of {name} are not finite"):
        read_reference(tmp_path / "reference.npz")


# Two processes ---------------------------------------------------------------------------------------------------


def one_of_two(rank: int, root: str) -> None:
    """The gradient of rank 1 alone is spoiled."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{root}/rendezvous", rank=rank, world_size=2)
    cfg = small_config("dit", *SIX_STEPS)
    if rank == 1:
        Injected("gradient", 3, NAN).install(pytest.MonkeyPatch())
    try:
        engine.train(
            baselines.build(cfg), cfg, sources.load("digits"), Path(root), device=torch.device("cpu"),
            report=lambda line: None, note=lambda text: None, world=World(rank, 2, rank, 2),
        )  # fmt: skip
    except Diverged as error:
        Path(root, f"{rank}.txt").write_text(str(error))
        sys.exit(error.exit_code)


@pytest.mark.slow
def test_a_gradient_that_is_nan_in_one_process_ends_both(tmp_path):
    context = prepared()
    children = [context.Process(target=one_of_two, args=(rank, str(tmp_path))) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [5, 5]
    assert (tmp_path / "0.txt").read_text() == (tmp_path / "1.txt").read_text()
    assert assert_all_finite(tmp_path) == [2]
    record("not a number", "NaN in the gradient of one process of two: both end", 1)
