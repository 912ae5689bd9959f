"""What --dry-run says before anything is spent, against what really happens where that can be measured here."""

from collections.abc import Iterable
from itertools import pairwise

import pytest
import torch
from counted import configured as config
from small import grouped, small_config, tiny_config
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import baselines
from harness.model.method import Batch, Progress
from harness.model.nn import blocks
from harness.model.nn.blocks import DiTBlock
from harness.model.randomness import Draw
from harness.planning import estimate as estimate_module
from harness.planning.activations import _AsOnGpu
from harness.planning.devices import DEVICES
from harness.planning.estimate import (
    ASSUMED_UTILISATION,
    checkpoint_bytes,
    estimate,
    fitting_micro_batch,
    largest_micro_batch,
    lines,
)
from harness.planning.plan import on_shapes
from harness.recipes.config import RunConfig
from harness.records.evidence import Count
from harness.training import checkpoint
from harness.training.checkpoint import Checkpoint, Keep
from harness.training.ema import Ema

METHODS = baselines.names()


SOME_COST = Count(params=1, gmacs_forward=1.0, gmacs_step=3.0)


def estimated(cfg: RunConfig, world_size: int = 1) -> dict:
    return estimate(cfg, SOME_COST, baselines.build(cfg, device="meta"), world_size)


# Memory ------------------------------------------------------------------------------------------------------------


def counted_bytes(cfg: RunConfig) -> int:
    parts = estimated(cfg)["memory_parts"]
    return parts["activations"] + parts.get("weights in bf16", 0)


def real_bytes(cfg: RunConfig, device: str = "cpu") -> int:
    """What autograd really keeps of a forward pass of the first micro-batch, besides the method's own tensors."""
    method, rows = baselines.build(cfg).to(device), cfg.execution.micro_batch
    clean = torch.zeros(rows, cfg.input.channels, cfg.input.side, cfg.input.side, device=device)
    labels = torch.zeros(rows, dtype=torch.long, device=device)
    own = {tensor.data_ptr() for tensor in [*method.parameters(), *method.buffers()]}
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # which keeps the memory from being used again
        return tensor

    with (
        saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast(device, torch.bfloat16, enabled=cfg.protocol.precision == "bf16"),
    ):
        method(Batch(clean, labels), Progress(0.0, 0.0), Draw(cfg.protocol.batch_size, 0, rows, clean.device))
    return sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in own)


@pytest.mark.parametrize("name", METHODS)
def test_the_count_on_shapes_is_what_a_real_forward_keeps(name):
    for formulation in baselines.load(name).Method.formulations:
        cfg = tiny_config(name, f"formulation={formulation}", "batch_size=6", "micro_batch=3", *grouped(name, 3))
        assert counted_bytes(cfg) == real_bytes(cfg)


@pytest.mark.parametrize("recipe", ["dit-s", "sddit-s"])
def test_the_count_is_right_for_a_network_of_a_paper_too(recipe):
    cfg = config(recipe, "micro_batch=1", "batch_size=2")
    assert counted_bytes(cfg) == real_bytes(cfg)


@pytest.mark.parametrize("name", METHODS)
def test_the_count_in_bf16_is_what_a_real_forward_keeps_under_autocast(name, monkeypatch):
    """Autocast for CPUs neither raises nor widens the operations that the one for CUDA does.

    A CPU's attention, which is in float32, is left out: the estimate is of a GPU.
    """
    monkeypatch.setattr(blocks, "_attention", lambda q, k, v, bias: F.scaled_dot_product_attention(q, k, v, bias))
    cfg = tiny_config(name, "precision=bf16", "batch_size=6", "micro_batch=3", *grouped(name, 3))
    on_gpu = counted_bytes(cfg)
    monkeypatch.setattr(_AsOnGpu, "raised", ())
    monkeypatch.setattr(_AsOnGpu, "widened", ())
    real = real_bytes(cfg)
    # SARA's cosines are computed without autocast, and counted with it.
    assert counted_bytes(cfg) == (pytest.approx(real, rel=0.002) if name == "sara" else real)
    assert real < on_gpu


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("recipe", ["dit-s", "maskdit-s", "mdt-s", "sddit-s"])
def test_the_count_is_what_a_gpu_keeps(recipe, precision):
    cfg = config(recipe, f"precision={precision}", "micro_batch=8")
    # Kernels round the sizes of small things up, and keep the state of a random generator.
    assert counted_bytes(cfg) == pytest.approx(real_bytes(cfg, "cuda"), rel=0.02)


# Activation checkpointing ------------------------------------------------------------------------------------------


class _Made(TorchDispatchMode):
    """Remembers every storage that an operation makes, without keeping it alive."""

    def __init__(self):
        super().__init__()
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return out

    def alive_bytes(self, besides: Iterable[Tensor]) -> int:
        known = {tensor.untyped_storage()._cdata for tensor in besides}
        found = self._storages.items()
        return sum(size for address, (place, size) in found if address not in known and not place.expired())


def really_alive_bytes(cfg: RunConfig) -> int:
    """What is alive after a forward pass that was not before: kept by hooks, by checkpoints, or by anything else."""
    method, rows = baselines.build(cfg), cfg.protocol.batch_size
    for block in method.network.modules():
        if isinstance(block, DiTBlock):
            block.checkpointed = cfg.execution.activation_checkpointing
    clean = torch.zeros(rows, cfg.input.channels, cfg.input.side, cfg.input.side)
    labels = torch.zeros(rows, dtype=torch.long)
    inputs = Batch(clean, labels), Progress(0.0, 0.0), Draw.all_of(clean)
    method(*inputs)  # the formulation keeps its tables
    with _Made() as made:
        losses = method(*inputs)
    assert losses["loss"].requires_grad
    return made.alive_bytes(besides=[*method.parameters(), *method.buffers()])


CHECKPOINTED = "activation_checkpointing=true"


def test_checkpointed_blocks_of_dit_really_keep_their_inputs_and_the_estimate_adds_one_block():
    """All its blocks keep the same, so a block's insides are a part of what checkpointing saves."""
    depth = 4
    small = f"depth={depth}", "batch_size=8"
    plain, recomputing = tiny_config("dit", *small), tiny_config("dit", *small, CHECKPOINTED)
    block = (really_alive_bytes(plain) - really_alive_bytes(recomputing)) / depth
    assert block > 0
    assert counted_bytes(plain) - counted_bytes(recomputing) == (depth - 1) * block


@pytest.mark.parametrize("name", METHODS)
def test_checkpointing_is_estimated_at_what_really_stays_and_one_block(name):
    plain, recomputing = tiny_config(name, "batch_size=8"), tiny_config(name, "batch_size=8", CHECKPOINTED)
    stays, saved = really_alive_bytes(recomputing), really_alive_bytes(plain) - really_alive_bytes(recomputing)
    one_block = counted_bytes(recomputing) - stays
    assert 0 < one_block < saved / (2 if name == "sprint" else 3)  # whose middle blocks save a quarter of the others'
    assert counted_bytes(plain) == pytest.approx(stays + saved, abs=100)  # labels, losses


def test_estimating_a_method_whose_blocks_are_checkpointed_leaves_them_so():
    cfg = tiny_config("sddit", CHECKPOINTED)
    method = baselines.build(cfg)
    blocks = [module for module in method.network.modules() if isinstance(module, DiTBlock)]
    for block in blocks:
        block.checkpointed = True
    found = estimate(cfg, SOME_COST, method, 1)
    assert found == estimated(cfg)
    assert all(block.checkpointed for block in blocks)


# The micro-batch that fits -----------------------------------------------------------------------------------------


def test_activations_grow_with_the_rows_of_a_process_and_not_with_the_batch():
    def activations(world_size: int, *assignments: str) -> int:
        return estimated(small_config("dit", "batch_size=64", *assignments), world_size)["memory_parts"]["activations"]

    assert activations(4) == activations(1, "micro_batch=16") == activations(2, "micro_batch=16")
    assert 3.5 < activations(1) / activations(4) <= 4


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", METHODS)
def test_half_the_rows_keep_half_the_activations(name, precision):
    """So that what fits can be worked out from one count; copies of weights are another part."""
    whole, half = (
        estimated(config(f"{name}-s", f"precision={precision}", f"micro_batch={rows}"))["memory_parts"]
        for rows in (32, 16)
    )
    assert whole.pop("activations") / half.pop("activations") == pytest.approx(2, rel=0.01)
    assert whole == half


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("world_size", [1, 2])
def test_the_largest_micro_batch_fits_and_the_next_one_does_not(name, world_size):
    alone = not grouped(name, 2)  # or pairs of images stay together
    small = ["batch_size=16", *grouped(name, 2)]
    cfg, sizes = small_config(name, *small), [1, 2, 4, 8] if alone else [2, 4, 8]
    needed = {
        rows: estimated(small_config(name, *small, f"micro_batch={rows}"), world_size)["memory_bytes"] for rows in sizes
    }
    for rows, larger in pairwise(sizes):
        available = (needed[rows] + needed[larger]) / 2
        assert largest_micro_batch(cfg, on_shapes(cfg), available, world_size=world_size) == rows
    assert largest_micro_batch(cfg, on_shapes(cfg), 1e12, world_size=world_size) == 16 // world_size
    assert largest_micro_batch(cfg, on_shapes(cfg), needed[sizes[0]] / 2, world_size=world_size) is None


def test_what_fits_can_be_told_from_the_parts_of_an_estimate():
    parts = {"weights": 100, "activations": 600, "average": 50}
    found = {bytes: fitting_micro_batch(parts, 12, bytes) for bytes in (750, 749, 450, 300, 199)}
    assert found == {750: 12, 749: 6, 450: 6, 300: 3, 199: None}


def test_checkpointing_lets_more_images_fit():
    plain, recomputing = config("dit-xl", "precision=bf16"), config("dit-xl", "precision=bf16", CHECKPOINTED)
    assert largest_micro_batch(recomputing, on_shapes(recomputing), 60e9) > 2 * largest_micro_batch(
        plain, on_shapes(plain), 60e9
    )


@pytest.mark.parametrize("name", METHODS)
def test_the_parts_of_the_state_are_those_of_a_run(name):
    cfg = small_config(name)
    method = baselines.build(cfg)
    trained = sum(p.numel() * 4 for p in method.parameters() if p.requires_grad)
    fixed = sum(p.numel() * 4 for p in method.parameters() if not p.requires_grad)
    average = Ema(method.network, 0.9, warmup=False).network
    parts = estimated(cfg)["memory_parts"]
    assert (parts["weights"], parts["gradients"], parts["Adam's moments"]) == (trained, trained, 2 * trained)
    assert parts["average (EMA)"] == sum(t.nbytes for t in [*average.parameters(), *average.buffers()])
    assert parts["teacher, buffers"] == fixed + sum(b.nbytes for b in method.buffers())
    assert (fixed > 0) == (name in ("sddit", "sra"))  # they have a teacher


def test_estimating_from_a_real_method_gives_the_same_and_leaves_it_as_it_was():
    cfg = small_config("sddit")
    method = baselines.build(cfg)
    before, state = {n: t.clone() for n, t in method.state_dict().items()}, torch.get_rng_state()
    from_real = estimate(cfg, SOME_COST, method, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert from_real == estimated(cfg, 2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.state_dict().items())


def test_a_training_set_on_the_gpu_counts_there():
    on_gpu, on_host = config("dit-s", "residency=gpu"), config("dit-s")
    difference = estimated(on_gpu)["memory_bytes"] - estimated(on_host)["memory_bytes"]
    assert difference == estimated(on_gpu)["memory_parts"]["training set"] == 1_281_167 * 8 * 32 * 32 * 2


# Disk --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_checkpoints_take_the_room_that_was_estimated(name, tmp_path):
    cfg = tiny_config(name, "keep_every=20", "keep_last=2", "steps=50")
    method = baselines.build(cfg)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad])
    for parameter in method.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    ema = Ema(method.network, 0.9, warmup=False).network
    for step in (10, 20, 30, 40, 50):
        state = Checkpoint(step, 0.0, method.state_dict(), ema.state_dict(), optimizer.state_dict())
        checkpoint.save(tmp_path, state, cfg.sha256, Keep(cfg.execution.keep_last, cfg.execution.keep_every))
    kept = list(tmp_path.iterdir())
    size = {folder.name[-2:]: sum(file.stat().st_size for file in folder.iterdir()) for folder in kept}
    assert size.keys() == {"20", "40", "50"}
    # The newest two and the one that is being written are whole; milestones 20 and 40 (one of the newest) averages.
    assert checkpoint_bytes(cfg, method) == pytest.approx(3 * size["50"] + 2 * size["20"], rel=0.03)


def test_latents_of_imagenet_count_and_twice_with_mirror_images():
    side_32 = 1_281_167 * 2 * 4 * 32 * 32 * 2
    assert estimated(config("dit-s"))["disk_parts"]["latents"] == side_32
    assert estimated(config("dit-s", "flips=random"))["disk_parts"]["latents"] == 2 * side_32
    assert "latents" not in estimated(config("dit-s", "pipeline=online-vae"))["disk_parts"]
    assert "latents" not in estimated(small_config("dit"))["disk_parts"]


# Time --------------------------------------------------------------------------------------------------------------


def test_hours_follow_from_the_arithmetic_the_peak_and_the_number_of_processes():
    cfg = config("dit-s", "precision=bf16", "steps=1000", "batch_size=256")
    one, eight = estimated(cfg), estimated(cfg, 8)
    floors = {hours["device"]: hours["floor_hours"] for hours in one["hours"]}
    assert floors["A100"] == pytest.approx(2 * 3.0e9 * 256 * 1000 / 312e12 / 3600)
    assert floors["V100 SXM2"] is None
    for alone, shared in zip(one["hours"], eight["hours"], strict=True):
        if alone["floor_hours"] is not None:
            assert shared["floor_hours"] == pytest.approx(alone["floor_hours"] / 8)
            assert alone["assumed_hours"] == pytest.approx(alone["floor_hours"] / ASSUMED_UTILISATION)


def test_devices_that_differ_in_their_memory_alone_are_one_row():
    names = [hours["device"] for hours in estimated(config("dit-s"))["hours"]]
    assert names == list(dict.fromkeys(device.family for device in DEVICES))
    assert names.count("A100") == 1


# The text ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["dit-tiny", "sddit-xl"])
@pytest.mark.parametrize("world_size", [1, 1024])
def test_the_text_fits_a_terminal_and_names_what_is_assumed(recipe, world_size):
    cfg = config(recipe, "precision=bf16") if recipe != "dit-tiny" else tiny_config("dit", "batch_size=1024")
    text = lines(estimated(cfg, world_size))
    assert max(map(len, text)) <= 80
    assert any("(assumed)" in line for line in text)
    assert any("workspace" in line for line in text)
    assert recipe == "dit-tiny" or any(line.split() == ["V100", "SXM2", "no", "bf16"] for line in text)


def test_the_document_adds_up():
    told = estimated(config("sddit-s"))
    assert told["memory_bytes"] == sum(told["memory_parts"].values())
    assert told["disk_bytes"] == sum(told["disk_parts"].values())


def test_what_takes_less_than_an_hour_is_told_in_a_unit_of_its_own():
    shown = [estimate_module._duration(hours) for hours in (8.7e-7, 30 / 3600, 0.25, 8.71, 1234.5)]
    assert shown == ["under 1 s", "30 s", "15 min", "8.7", "1,234.5"]
