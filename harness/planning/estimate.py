"""What a run will take, said before anything is spent: memory, disk, hours.

Memory is what the weights, the optimizer and the backward pass keep. The workspace of kernels, the allocator's slack,
what lives only within one operation, and the savings of torch.compile are not in it.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from harness.data.latents.shards import IMAGENET_IMAGES
from harness.data.sources import LATENT_SETS
from harness.model.method import Method
from harness.model.shape import shape_of
from harness.planning.activations import kept_bytes
from harness.planning.cost import GIGA
from harness.planning.devices import DEVICES
from harness.recipes.config import RunConfig
from harness.records.evidence import Count

ASSUMED_UTILISATION = 0.4  # share of a device's peak that well-fed transformers of this size reach; not measured
HALF = 2  # bytes
ACTIVATIONS = "activations"  # the part of the memory that grows with the micro-batch


def estimate(cfg: RunConfig, cost: Count, method: Method, world_size: int) -> dict[str, Any]:
    """What `cfg` takes on `world_size` processes, as `--dry-run --json` prints it.

    Parts are in bytes: those of the memory, of each process; on the disk, "checkpoints" go into the run's folder and
    "latents" may lie there already. Hours are those of the method's arithmetic on as many of one device as there are
    processes, at the peak of the data sheet and at ASSUMED_UTILISATION of it; not those of data, of a VAE in the step,
    or of evaluation. `method` is only looked at; build it on the meta device.
    """
    memory, latents = _memory_parts(cfg, method, world_size), _latent_bytes(cfg)
    disk = {"checkpoints": checkpoint_bytes(cfg, method), **({"latents": latents} if latents else {})}
    return {
        "processes": world_size,
        "precision": cfg.protocol.precision,
        "memory_bytes": sum(memory.values()),
        "memory_parts": memory,
        "disk_bytes": sum(disk.values()),
        "disk_parts": disk,
        "assumed_utilisation": ASSUMED_UTILISATION,
        "hours": _hours(cfg, cost, world_size),
    }


def lines(told: Mapping[str, Any]) -> list[str]:
    """An estimate for people."""
    precision, share = told["precision"], f"{told['assumed_utilisation']:.0%}"
    gpus = f"{told['processes']} GPU{'s' if told['processes'] > 1 else ''}"
    rows = []
    for device, *both in (row.values() for row in told["hours"]):
        hours = [_duration(value) for value in both if value is not None]
        rows.append(f"    {device:<24}" + (f"{hours[0]:>12}{hours[1]:>12}" if hours else f"{f'no {precision}':>12}"))
    return [
        f"  memory            {_size(told['memory_bytes'])} a process, without the workspace of kernels",
        *(f"    {name:<24}{_size(size):>12}" for name, size in told["memory_parts"].items()),
        f"  disk              {_size(told['disk_bytes'])}",
        *(f"    {name:<24}{_size(size):>12}" for name, size in told["disk_parts"].items()),
        f"  hours on {gpus:<9}{precision} arithmetic alone: at peak, and at {share} of it (assumed)",
        *rows,
    ]


def _size(size: int) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"


# Memory ----------------------------------------------------------------------------------------------------------


def largest_micro_batch(cfg: RunConfig, method: Method, available_bytes: float, *, world_size: int = 1) -> int | None:
    """Images that a process can take through the network at once in so many bytes, whatever `cfg` says of that.

    A divisor of the process's share of the batch; None where not even one image fits.
    """
    whole = cfg.model_copy(update={"execution": cfg.execution.model_copy(update={"micro_batch": None})})
    parts = _memory_parts(whole, method, world_size)
    share = math.ceil(cfg.protocol.batch_size / world_size)
    return fitting_micro_batch(parts, share, available_bytes, min(method.group, share))


def fitting_micro_batch(parts: Mapping[str, int], share: int, available_bytes: float, group: int = 1) -> int | None:
    """The largest micro-batch that fits, of whole groups; `parts` are an estimate's for a process's `share`."""
    room = available_bytes - sum(parts.values()) + parts[ACTIVATIONS]
    pieces = [rows for rows in range(share, 0, -1) if share % rows == 0 and rows % group == 0]
    fitting = (rows for rows in pieces if parts[ACTIVATIONS] * rows / share <= room)
    return next(fitting, None)


def _memory_parts(cfg: RunConfig, method: Method, world_size: int) -> dict[str, int]:
    """Bytes of each process. Weights stay single precision whatever the products are computed in."""
    batch_size, bf16 = cfg.protocol.batch_size, cfg.protocol.precision == "bf16"
    trained = _bytes(p for p in method.parameters() if p.requires_grad)
    kept = kept_bytes(
        method,
        shape_of(cfg),
        batch_size=batch_size,
        rows=cfg.execution.micro_batch or math.ceil(batch_size / world_size),
        bf16=bf16,
        checkpointing=cfg.execution.activation_checkpointing,
    )
    frozen = sum(_bytes(known.network.state_dict().values()) for known in method.frozen.values())
    resident = _latent_bytes(cfg) if cfg.execution.residency == "gpu" else 0
    return {
        "weights": trained,
        **({"weights in bf16": kept.weights} if bf16 else {}),
        "gradients": trained,
        "Adam's moments": 2 * trained,
        "average (EMA)": _bytes(method.network.parameters()) + _bytes(method.network.buffers()),
        "teacher, buffers": _bytes(p for p in method.parameters() if not p.requires_grad) + _bytes(method.buffers()),
        **({"frozen networks": frozen} if method.frozen else {}),
        ACTIVATIONS: kept.activations,
        **({"training set": resident} if resident else {}),
    }


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


# Disk and time ---------------------------------------------------------------------------------------------------


def checkpoint_bytes(cfg: RunConfig, method: Method) -> int:
    """All checkpoints that a run keeps at one time: the newest, the one that is being written, and the milestones."""
    trained = _bytes(p for p in method.parameters() if p.requires_grad)
    average = _bytes(method.network.state_dict().values())
    whole = _bytes(method.state_dict().values()) + average + 2 * trained
    milestones = cfg.protocol.steps // cfg.execution.keep_every if cfg.execution.keep_every else 0
    return whole * (cfg.execution.keep_last + 1) + average * milestones


def _latent_bytes(cfg: RunConfig) -> int:
    """Mean and standard deviation in half precision of every image of ImageNet, and of its mirror image."""
    if cfg.protocol.data not in LATENT_SETS or cfg.protocol.pipeline != "cached":
        return 0
    copies = 2 if cfg.protocol.flips == "random" else 1
    return IMAGENET_IMAGES * 2 * cfg.input.channels * cfg.input.side**2 * HALF * copies


def _duration(hours: float) -> str:
    """A column of hours has plain numbers, and what is shorter than one its unit."""
    seconds = 3600 * hours
    if seconds < 1:
        return "under 1 s"
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.0f} min" if hours < 1 else f"{hours:,.1f}"


def _hours(cfg: RunConfig, cost: Count, world_size: int) -> list[dict[str, Any]]:
    """A row for each family of devices, whose peaks are the same; None where it lacks the precision."""
    flops = 2 * cost.gmacs_step * GIGA * cfg.protocol.batch_size * cfg.protocol.steps
    rows = []
    for family, device in {device.family: device for device in DEVICES}.items():
        peak = device.peak(cfg.protocol.precision)
        floor = peak and flops / (peak * world_size) / 3600
        rows.append({"device": family, "floor_hours": floor, "assumed_hours": floor and floor / ASSUMED_UTILISATION})
    return rows
