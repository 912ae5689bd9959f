"""What --dry-run says before anything is spent, against what really happens where that can be measured here."""

import pytest
import torch
from small import small_config, tiny_config
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from harness.config import RunConfig, apply_overrides, validate
from harness.randomness import Draw
from harness.recipes import load_recipe
from harness.training import checkpoint, registry
from harness.training.checkpoint import Checkpoint, Keep
from harness.training.cost import Cost
from harness.training.ema import Ema
from harness.training.estimate import (
    ASSUMED_UTILISATION,
    DEVICES,
    Estimate,
    _AsOnGpu,
    checkpoint_bytes,
    estimate,
    lines,
    peak_flops,
)
from harness.training.method import Progress

METHODS = registry.names()


def config(recipe: str, *assignments: str) -> RunConfig:
    document = load_recipe(recipe).document
    knobs = registry.load(document["method"]).Config
    return validate(apply_overrides(document, assignments, knobs.model_fields), knobs)


SOME_COST = Cost(params=1, gmacs_forward=1.0, gmacs_step=3.0)


def estimated(cfg: RunConfig, world_size: int = 1) -> Estimate:
    return estimate(cfg, registry.shape_of(cfg), SOME_COST, registry.build(cfg, device="meta"), world_size)


# Memory ------------------------------------------------------------------------------------------------------------


def counted_bytes(cfg: RunConfig) -> int:
    return estimated(cfg).memory_parts["activations"]


def real_bytes(cfg: RunConfig, device: str = "cpu") -> int:
    """What autograd really keeps of a forward pass of the first micro-batch, besides the method's own tensors."""
    method, rows = registry.build(cfg).to(device), cfg.execution.micro_batch
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
        method(clean, labels, Progress(0.0, 0.0), Draw(cfg.protocol.batch_size, 0, rows, clean.device))
    return sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in own)


@pytest.mark.parametrize("name", METHODS)
def test_the_count_on_shapes_is_what_a_real_forward_keeps(name):
    for formulation in registry.load(name).Method.formulations:
        cfg = tiny_config(name, f"formulation={formulation}", "batch_size=6", "micro_batch=3")
        assert counted_bytes(cfg) == real_bytes(cfg)


@pytest.mark.parametrize("recipe", ["dit-s", "sddit-s"])
def test_the_count_is_right_for_a_network_of_a_paper_too(recipe):
    cfg = config(recipe, "micro_batch=1", "batch_size=2")
    assert counted_bytes(cfg) == real_bytes(cfg)


@pytest.mark.parametrize("name", METHODS)
def test_the_count_in_bf16_is_what_a_real_forward_keeps_under_autocast(name, monkeypatch):
    """Autocast for CPUs neither raises nor widens the operations that the one for CUDA does."""
    cfg = tiny_config(name, "precision=bf16", "batch_size=6", "micro_batch=3")
    on_gpu = counted_bytes(cfg)
    monkeypatch.setattr(_AsOnGpu, "raised", ())
    monkeypatch.setattr(_AsOnGpu, "widened", ())
    assert counted_bytes(cfg) == real_bytes(cfg) < on_gpu


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("recipe", ["dit-s", "maskdit-s", "mdt-s", "sddit-s"])
def test_the_count_is_what_a_gpu_keeps(recipe, precision):
    cfg = config(recipe, f"precision={precision}", "micro_batch=8")
    # Kernels round the sizes of small things up, and keep the state of a random generator.
    assert counted_bytes(cfg) == pytest.approx(real_bytes(cfg, "cuda"), rel=0.02)


def test_activations_grow_with_the_rows_of_a_process_and_not_with_the_batch():
    def activations(world_size: int, *assignments: str) -> int:
        return estimated(small_config("dit", "batch_size=64", *assignments), world_size).memory_parts["activations"]

    assert activations(4) == activations(1, "micro_batch=16") == activations(2, "micro_batch=16")
    assert 3.5 < activations(1) / activations(4) <= 4


@pytest.mark.parametrize("name", METHODS)
def test_the_parts_of_the_state_are_those_of_a_run(name):
    cfg = small_config(name)
    method = registry.build(cfg)
    trained = sum(p.numel() * 4 for p in method.parameters() if p.requires_grad)
    fixed = sum(p.numel() * 4 for p in method.parameters() if not p.requires_grad)
    average = Ema(method.network, 0.9, warmup=False).network
    parts = estimated(cfg).memory_parts
    assert (parts["weights"], parts["gradients"], parts["Adam's moments"]) == (trained, trained, 2 * trained)
    assert parts["average (EMA)"] == sum(t.nbytes for t in [*average.parameters(), *average.buffers()])
    assert parts["teacher, buffers"] == fixed + sum(b.nbytes for b in method.buffers())
    assert (fixed > 0) == (name == "sddit")


def test_estimating_from_a_real_method_gives_the_same_and_leaves_it_as_it_was():
    cfg = small_config("sddit")
    method = registry.build(cfg)
    before, state = {n: t.clone() for n, t in method.state_dict().items()}, torch.get_rng_state()
    from_real = estimate(cfg, registry.shape_of(cfg), SOME_COST, method, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert from_real == estimated(cfg, 2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.state_dict().items())


def test_a_training_set_on_the_gpu_counts_there():
    on_gpu, on_host = config("dit-s", "residency=gpu"), config("dit-s")
    difference = estimated(on_gpu).memory_bytes - estimated(on_host).memory_bytes
    assert difference == estimated(on_gpu).memory_parts["training set"] == 1_281_167 * 8 * 32 * 32 * 2


# Disk --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_checkpoints_take_the_room_that_was_estimated(name, tmp_path):
    cfg = tiny_config(name, "keep_every=20", "keep_last=2", "steps=50")
    method = registry.build(cfg)
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
    assert estimated(config("dit-s")).disk_parts["latents"] == side_32
    assert estimated(config("dit-s", "flips=random")).disk_parts["latents"] == 2 * side_32
    assert "latents" not in estimated(config("dit-s", "pipeline=online-vae")).disk_parts
    assert "latents" not in estimated(small_config("dit")).disk_parts


# Time --------------------------------------------------------------------------------------------------------------


def test_hours_follow_from_the_arithmetic_the_peak_and_the_number_of_processes():
    cfg = config("dit-s", "precision=bf16", "steps=1000", "batch_size=256")
    one, eight = estimated(cfg), estimated(cfg, 8)
    floors = {hours.device: hours.floor_hours for hours in one.hours}
    assert floors["A100"] == pytest.approx(2 * 3.0e9 * 256 * 1000 / 312e12 / 3600)
    assert floors["V100 SXM2"] is None
    for alone, shared in zip(one.hours, eight.hours, strict=True):
        if alone.floor_hours is not None:
            assert shared.floor_hours == pytest.approx(alone.floor_hours / 8)
            assert alone.assumed_hours == pytest.approx(alone.floor_hours / ASSUMED_UTILISATION)


@pytest.mark.parametrize(
    ("device", "precision", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", 312e12),
        ("NVIDIA A100-SXM4-40GB", "tf32", 156e12),
        ("NVIDIA A100 80GB PCIe", "fp32", 19.5e12),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.5e12),
        ("NVIDIA H200", "tf32", 494.5e12),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2e12),
        ("NVIDIA L40S", "fp32", 91.6e12),
        ("Tesla V100-SXM2-32GB", "fp32", 15.7e12),
        ("Tesla V100-SXM2-32GB", "bf16", None),
        ("NVIDIA H200 NVL", "bf16", None),  # slower parts with a name that begins alike
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
        ("NVIDIA GeForce RTX 4090 D", "bf16", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16", None),
        ("NVIDIA H100 PCIe", "bf16", None),
        ("Intel(R) Xeon(R) Processor", "fp32", None),
    ],
)
def test_a_device_has_the_peak_of_its_data_sheet_or_none(device, precision, peak):
    assert peak_flops(device, precision) == peak


def test_every_peak_names_its_source():
    assert all("NVIDIA" in device.source for device in DEVICES)
    assert all(device.bf16 is None or device.tf32 <= device.bf16 for device in DEVICES)


# The text ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["dit-tiny", "sddit-xl"])
@pytest.mark.parametrize("world_size", [1, 1024])
def test_the_text_fits_a_terminal_and_names_what_is_assumed(recipe, world_size):
    cfg = config(recipe, "precision=bf16") if recipe != "dit-tiny" else tiny_config("dit", "batch_size=1024")
    told = estimated(cfg, world_size)
    text = lines(told)
    assert text == lines(told.as_json())
    assert max(map(len, text)) <= 80
    assert any("(assumed)" in line for line in text)
    assert any("workspace" in line for line in text)
    assert recipe == "dit-tiny" or any(line.split() == ["V100", "SXM2", "no", "bf16"] for line in text)


def test_the_document_adds_up():
    told = estimated(config("sddit-s")).as_json()
    assert told["memory_bytes"] == sum(told["memory_parts"].values())
    assert told["disk_bytes"] == sum(told["disk_parts"].values())
