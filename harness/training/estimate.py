"""What a run will take, said before anything is spent: memory, disk, hours.

Memory is what the weights, the optimizer and the backward pass keep. The workspace of kernels, the allocator's slack,
what lives only within one operation, and the savings of torch.compile are not in it.
B images of the global batch, R of one micro-batch, H heads, L tokens, E width of a head.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from harness.config import RunConfig
from harness.data.shards import IMAGENET_IMAGES
from harness.data.sources import LATENT_SETS
from harness.nn.shape import Shape
from harness.randomness import Draw
from harness.training.cost import GIGA, Cost
from harness.training.method import Method, Progress

ASSUMED_UTILISATION = 0.4  # of a device's peak: what well-fed transformers of this size reach, not a measurement
HALF = 2  # bytes


class Device(NamedTuple):
    """A GPU's peak in TFLOP/s with dense matrices, from NVIDIA's data sheets; None for a type it cannot multiply.

    Figures that a data sheet gives "with sparsity" are halved.
    """

    name: str
    torch_name: str  # a pattern of what torch.cuda.get_device_name says, whole: a laptop's 4090 is another device
    fp32: float
    tf32: float | None
    bf16: float | None
    source: str

    def peak(self, precision: str) -> float | None:
        """FLOP/s of matrix products in this precision."""
        peak = {"fp32": self.fp32, "tf32": self.tf32, "bf16": self.bf16}[precision]
        return None if peak is None else peak * 1e12


DEVICES = (
    Device(
        "V100 SXM2", r"(Tesla )?V100-SXM2-(16|32)GB", 15.7, None, None,
        "NVIDIA A100 architecture whitepaper, comparison of data center GPUs: FP32 15.7, TF32 and BF16 NA",
    ),
    Device(
        "A100", r"(NVIDIA )?A100(-SXM4-(40|80)GB|-PCI[eE]-(40|80)GB| 80GB PCIe)", 19.5, 156, 312,
        "NVIDIA A100 80GB datasheet (1758950-r4): FP32 19.5, TF32 156 | 312*, BFLOAT16 312 | 624*",
    ),
    Device(
        "RTX 4090", r"(NVIDIA )?GeForce RTX 4090", 82.6, 82.6, 165.2,
        "NVIDIA Ada architecture whitepaper v2.1, appendix A: FP32 82.6, TF32 82.6/165.2, "
        "BF16 with FP32 accumulate 165.2/330.4",
    ),
    Device(
        "L40S", r"(NVIDIA )?L40S", 91.6, 183, 362.05,
        "NVIDIA L40S datasheet: FP32 91.6, TF32 183 | 366*, BFLOAT16 362.05 | 733*",
    ),
    Device(
        "H100 SXM", r"(NVIDIA )?H100 80GB HBM3", 67, 989 / 2, 1979 / 2,
        "NVIDIA H100 datasheet, SXM: FP32 67, TF32 989*, BFLOAT16 1,979*",
    ),
    Device(
        "H200 SXM", r"(NVIDIA )?H200", 67, 989 / 2, 1979 / 2,
        "NVIDIA H200 datasheet, SXM: FP32 67, TF32 989*, BFLOAT16 1,979*",
    ),
)  # fmt: skip


def peak_flops(device_name: str, precision: str) -> float | None:
    """FLOP/s that a device of this name reaches at most, as torch names it; None for one that is not in the table."""
    device = next((device for device in DEVICES if re.fullmatch(device.torch_name, device_name)), None)
    return device and device.peak(precision)


class DeviceHours(NamedTuple):
    """Of training on as many of one device as the run has processes; None where it lacks the precision."""

    device: str
    floor_hours: float | None  # the arithmetic alone, at the peak of the data sheet
    assumed_hours: float | None  # at ASSUMED_UTILISATION of it


class Estimate(NamedTuple):
    processes: int
    precision: str
    memory_parts: dict[str, int]  # bytes, of each process
    disk_parts: dict[str, int]  # bytes; "checkpoints" go into the run's folder, "latents" may lie there already
    hours: list[DeviceHours]

    @property
    def memory_bytes(self) -> int:
        return sum(self.memory_parts.values())

    @property
    def disk_bytes(self) -> int:
        return sum(self.disk_parts.values())

    def as_json(self) -> dict[str, Any]:
        """As `--dry-run --json` prints it, and as `lines` reads it."""
        return {
            "processes": self.processes,
            "precision": self.precision,
            "memory_bytes": self.memory_bytes,
            "memory_parts": self.memory_parts,
            "disk_bytes": self.disk_bytes,
            "disk_parts": self.disk_parts,
            "assumed_utilisation": ASSUMED_UTILISATION,
            "hours": [hours._asdict() for hours in self.hours],
        }


def estimate(cfg: RunConfig, shape: Shape, cost: Cost, method: Method, world_size: int) -> Estimate:
    """What `cfg` takes on `world_size` processes. `method` is only looked at; build it on the meta device.

    The hours are those of the method's arithmetic: not of data, of a VAE in the step, or of evaluation.
    """
    latents = _latent_bytes(cfg, shape)
    resident = {"training set": latents} if latents and cfg.execution.residency == "gpu" else {}
    return Estimate(
        world_size,
        cfg.protocol.precision,
        {**_state_bytes(method), "activations": _activation_bytes(cfg, shape, method, world_size), **resident},
        {"checkpoints": checkpoint_bytes(cfg, method), **({"latents": latents} if latents else {})},
        _hours(cfg, cost, world_size),
    )


def lines(document: Estimate | Mapping[str, Any]) -> list[str]:
    """An estimate, or what its as_json gave, for people."""
    told = document.as_json() if isinstance(document, Estimate) else document
    precision, share = told["precision"], f"{told['assumed_utilisation']:.0%}"
    gpus = f"{told['processes']} GPU{'s' if told['processes'] > 1 else ''}"
    rows = []
    for device, *both in (row.values() for row in told["hours"]):
        hours = [f"{value:,.1f}" if value >= 1 else f"{value:.2g}" for value in both if value is not None]
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


def _state_bytes(method: Method) -> dict[str, int]:
    """Weights stay single precision whatever the products are computed in."""
    trained = _bytes(p for p in method.parameters() if p.requires_grad)
    fixed = _bytes(p for p in method.parameters() if not p.requires_grad) + _bytes(method.buffers())
    return {
        "weights": trained,
        "gradients": trained,
        "Adam's moments": 2 * trained,
        "average (EMA)": _bytes(method.network.parameters()) + _bytes(method.network.buffers()),
        "teacher, buffers": fixed,
    }


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _activation_bytes(cfg: RunConfig, shape: Shape, method: Method, world_size: int) -> int:
    """What the forward pass of one micro-batch keeps for its backward pass, counted by running it on shapes alone."""
    batch_size = cfg.protocol.batch_size
    rows = cfg.execution.micro_batch or math.ceil(batch_size / world_size)
    clean = torch.empty(rows, shape.channels, shape.side, shape.side, device="meta")
    labels = torch.empty(rows, dtype=torch.long, device="meta")
    with _AsOnGpu(bf16=cfg.protocol.precision == "bf16"):
        return _saved_bytes(method, clean, labels, Draw(batch_size, 0, rows, clean.device))


def _saved_bytes(method: Method, clean: Tensor, labels: Tensor, draw: Draw) -> int:
    """Bytes that a forward pass keeps besides the method's own tensors, each storage once.

    Empty tensors take the place of the method's, wherever they are.
    """
    named = [*method.named_parameters(), *method.named_buffers()]
    own = {name: torch.empty_like(t, device="meta").requires_grad_(t.requires_grad) for name, t in named}
    known = {tensor.untyped_storage()._cdata for tensor in own.values()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            kept[storage._cdata] = storage  # held here, so that no other takes its place
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        torch.func.functional_call(method, own, (clean, labels, Progress(0.0, 0.0), draw))
    return sum(storage.nbytes() for storage in kept.values())


class _AsOnGpu(TorchFunctionMode):
    """Lets operations on shapes keep what they keep on a GPU: one fused attention, and autocast if `bf16`.

    torch.autocast does not reach the meta device. These are its lists for CUDA, as far as methods may need them.
    """

    lowered = (
        F.linear, F.scaled_dot_product_attention, torch.matmul, torch.bmm, Tensor.matmul, Tensor.__matmul__,
    )  # fmt: skip
    raised = (
        F.layer_norm, F.normalize, F.softmax, F.log_softmax, F.softplus, F.cross_entropy, torch.softmax, torch.exp,
        torch.log, torch.norm, torch.sum, Tensor.softmax, Tensor.log_softmax, Tensor.exp, Tensor.log, Tensor.norm,
        Tensor.sum, Tensor.pow, Tensor.__pow__, Tensor.rsqrt, Tensor.cumsum, Tensor.prod,
    )  # fmt: skip
    widened = (torch.addcmul, torch.addcdiv, Tensor.addcmul, Tensor.addcdiv, torch.cat, torch.stack)

    def __init__(self, *, bf16: bool):
        super().__init__()
        self._bf16 = bf16
        self._weights: dict[int, Tensor] = {}  # autocast casts each weight once

    def __torch_function__(self, func: Callable, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        if self._bf16 and func in self.lowered:
            args, kwargs = self._cast(args, torch.bfloat16), self._cast(kwargs, torch.bfloat16)
        elif self._bf16 and (func in self.raised or (func in self.widened and _mixed(args))):
            args = self._cast(args, torch.float32)
        if func is F.scaled_dot_product_attention:
            return _FusedAttention.apply(*args[:3], kwargs.get("attn_mask"))
        return func(*args, **kwargs)

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, dict):
            return {name: self._cast(part, dtype) for name, part in value.items()}
        if isinstance(value, (tuple, list)):
            return type(value)(self._cast(part, dtype) for part in value)
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == dtype:
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.to(dtype)
        if id(value) not in self._weights:
            self._weights[id(value)] = value.to(dtype)
        return self._weights[id(value)]


def _mixed(args: Iterable[Any]) -> bool:
    parts = [part for arg in args for part in (arg if isinstance(arg, (tuple, list)) else [arg])]
    return len({part.dtype for part in parts if isinstance(part, Tensor) and part.is_floating_point()}) > 1


class _FusedAttention(torch.autograd.Function):
    """Keeps what fused kernels keep: the inputs, the output, and one number a row; never the L x L weights."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:  # (R, H, L, E)
        batch, heads, length, _ = q.shape
        out = v.new_empty(batch, length, heads, v.shape[-1]).transpose(1, 2)
        ctx.save_for_backward(q, k, v, out, q.new_empty(batch, heads, length, dtype=torch.float32), bias)
        return out


# Disk and time ---------------------------------------------------------------------------------------------------


def checkpoint_bytes(cfg: RunConfig, method: Method) -> int:
    """All checkpoints that a run keeps at one time: the newest, the one that is being written, and the milestones."""
    trained = _bytes(p for p in method.parameters() if p.requires_grad)
    average = _bytes(method.network.state_dict().values())
    whole = _bytes(method.state_dict().values()) + average + 2 * trained
    milestones = cfg.protocol.steps // cfg.execution.keep_every if cfg.execution.keep_every else 0
    return whole * (cfg.execution.keep_last + 1) + average * milestones


def _latent_bytes(cfg: RunConfig, shape: Shape) -> int:
    """Mean and standard deviation in half precision of every image of ImageNet, and of its mirror image."""
    if cfg.protocol.data not in LATENT_SETS or cfg.protocol.pipeline != "cached":
        return 0
    copies = 2 if cfg.protocol.flips == "random" else 1
    return IMAGENET_IMAGES * 2 * shape.channels * shape.side**2 * HALF * copies


def _hours(cfg: RunConfig, cost: Cost, world_size: int) -> list[DeviceHours]:
    flops = 2 * cost.gmacs_step * GIGA * cfg.protocol.batch_size * cfg.protocol.steps
    found = []
    for device in DEVICES:
        peak = device.peak(cfg.protocol.precision)
        floor = None if peak is None else flops / (peak * world_size) / 3600
        found.append(DeviceHours(device.name, floor, None if floor is None else floor / ASSUMED_UTILISATION))
    return found
