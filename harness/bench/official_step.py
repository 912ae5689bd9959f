"""What the steps of the official codes have in common: how they compute, what they are given, and what is recorded.

N images, B of a batch, C channels, S side.
"""

import contextlib
import io
import itertools
import warnings
from abc import ABC, abstractmethod
from copy import deepcopy
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from harness.bench.official_checkout import Checkout, Project
from harness.model.shape import Shape
from harness.system import allocator
from harness.system.errors import UsageError, unknown
from harness.system.precision import tf32_restored

NAMED_SIZES = {(12, 384, 6): "S", (12, 768, 12): "B", (24, 1024, 16): "L", (28, 1152, 16): "XL"}
WITHOUT = ("DistributedDataParallel", "the data loader and the copy to the device: batches lie there")


class Precision(NamedTuple):
    """How a step computes."""

    name: str
    matmul: str = "highest"
    tf32_convolutions: bool = False
    autocast: torch.dtype | None = None


PRECISIONS = {
    "fp32": Precision("fp32"),
    "tf32": Precision("tf32", matmul="high", tf32_convolutions=True),
    "bf16": Precision("bf16", autocast=torch.bfloat16),
}
ON_CPU = ("fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the bench gives every contender."""

    shape: Shape
    batch_size: int
    device: torch.device
    precision: str | None = None  # None: the code's own, and fp32 on a CPU
    compile: bool | None = None  # None: as the code does
    latents: Tensor  # (N, C, S, S) float32, as a network is trained on them; at least a batch of them
    labels: Tensor  # (N,) int64
    name: str | None = None  # the contender's; None: its code's, with precision and compilation


class Wrapped(nn.Module):
    """Stands where theirs has DistributedDataParallel around the network, with accelerate's autocast inside.

    As accelerate does, the output is turned back into float32, so that the loss is computed in it.
    """

    def __init__(self, module: nn.Module, device: torch.device, autocast: torch.dtype | None):
        super().__init__()
        self.module = module
        self._device, self._autocast = device.type, autocast

    def forward(self, *inputs: Any, **named: Any) -> Any:
        if self._autocast is None:
            return self.module(*inputs, **named)
        with torch.autocast(self._device, self._autocast):
            out = self.module(*inputs, **named)
        return {name: value.float() for name, value in out.items()} if isinstance(out, dict) else out.float()


class OfficialStep(ABC):
    """A contender whose step is that of an official code."""

    project: ClassVar[Project]
    own_precision: ClassVar[Precision]
    compiles: ClassVar[bool] = False  # whether the code itself calls torch.compile
    left_out: ClassVar[tuple[str, ...]]
    optimizer_name: ClassVar[str]

    def __init__(self, setting: Setting, checkout: Checkout):
        self.setting, self.checkout = setting, checkout
        self.num_images, self.data_seconds = setting.batch_size, 0.0
        self.loss: Tensor | None = None  # the last step's, without gradient
        self.precision = self._precision()
        self.compiled = self.compiles if setting.compile is None else setting.compile
        made = f"{self.precision.name}{' compiled' if self.compiled else ''}"
        self.name = setting.name or f"official {self.project.name} {made}"
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # MDT calls torch.meshgrid without saying how, and prints its mask ratio
            self.network = self._network().to(setting.device)
        self.model: Any = Wrapped(self.network, setting.device, self.precision.autocast)
        if self.compiled:
            self.model = torch.compile(self.model)
        self._prepare()
        self.model.train()
        num_batches = len(setting.labels) // setting.batch_size
        rows = [slice(i * setting.batch_size, (i + 1) * setting.batch_size) for i in range(num_batches)]
        stored = self._stored()
        self._batches = itertools.cycle([tuple(values[some] for values in stored) for some in rows])

    def step(self) -> None:
        """Take one training step of the official code."""
        with tf32_restored():
            torch.set_float32_matmul_precision(self.precision.matmul)
            torch.backends.cudnn.allow_tf32 = self.precision.tf32_convolutions
            self.loss = self._step(*next(self._batches))

    def conditions(self) -> dict[str, Any]:
        """How the step is made, for the record, with what was left out of the official one."""
        fused = any(getattr(module, "fused_attn", False) for module in self.network.modules())
        return {
            "code": self.project.repository,
            "commit": self.checkout.commit,
            "changed_files": list(self.checkout.changed),
            "network": self._named() or "its class at another width, depth and number of heads",
            "precision": self.precision.name,
            "own_precision": self.own_precision.name,
            "compiled": self.compiled,
            "pipeline": "cached",
            "attention": "fused, torch's choice of kernel" if fused else "matrix products",
            "allocator": allocator.state(),
            "packages": {name: version(name) for name in {path.split(".")[0] for path in self.project.packages}},
            "optimizer": self.optimizer_name,
            "ema": "0.9999, one parameter after another",
            "left_out": list(WITHOUT + self.left_out),
            "notes": self._notes(),
        }

    def _precision(self) -> Precision:
        asked, own, on_cpu = self.setting.precision, self.own_precision, self.setting.device.type == "cpu"
        if asked is None:
            return PRECISIONS["fp32"] if on_cpu else own
        known = {own.name: own} | PRECISIONS
        if asked not in known:
            raise unknown(f"precision of the official {self.project.name}", asked, known)
        if on_cpu and asked not in ON_CPU:
            raise UsageError(f"a CPU does not compute in {asked}; take {' or '.join(ON_CPU)}.")
        return PRECISIONS.get(asked, own)

    def _notes(self) -> list[str]:
        if self.setting.precision is None and self.precision.name != self.own_precision.name:
            return [f"its own precision, {self.own_precision.name}, is not to be had on a CPU; fp32 takes its place"]
        return []

    def _named(self) -> str | None:
        """The size's name in all three codes, "S/2"; None for one they do not have."""
        shape = self.setting.shape
        size = NAMED_SIZES.get((shape.depth, shape.width, shape.num_heads))
        return f"{size}/{shape.patch}" if size and shape.patch in (2, 4, 8) else None

    def _numbers(self) -> dict[str, int]:
        """The size in the words of their constructors."""
        shape = self.setting.shape
        return {
            "depth": shape.depth, "hidden_size": shape.width, "num_heads": shape.num_heads, "patch_size": shape.patch,
        }  # fmt: skip

    def _data(self) -> dict[str, int]:
        """The data's shape in the words of their constructors."""
        shape = self.setting.shape
        return {"input_size": shape.side, "in_channels": shape.channels, "num_classes": shape.num_classes}

    def _stored(self) -> tuple[Tensor, Tensor]:
        """What their data set would give, on the device.   (N, C, S, S), (N,)"""
        return self.setting.latents.to(self.setting.device), self.setting.labels.to(self.setting.device)

    @abstractmethod
    def _network(self) -> nn.Module: ...

    @abstractmethod
    def _prepare(self) -> None:
        """Make the loss, the optimizer and the average."""

    @abstractmethod
    def _step(self, stored: Tensor, labels: Tensor) -> Tensor:
        """One step of their loop on a batch of what `_stored` gives; its loss, without gradient."""

    def _frozen_copy(self) -> nn.Module:
        """DiT train.py:147-148 and 186, MaskDiT train.py:134-135 and 190."""
        return deepcopy(self.network).requires_grad_(False).eval()
