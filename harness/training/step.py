"""One training step: forward, backward, optimizer, teacher, average. Its result does not depend on how many processes
share the batch, nor on how many pieces each takes its share in, except for the rounding of sums.

B images of the global batch, R of this process, M of a micro-batch.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from harness.data.dataset import Dataset
from harness.data.loader import StoredBatch, rows_of
from harness.model import compiling
from harness.model.compiling import FirstStep
from harness.model.method import Batch, Method, Progress
from harness.model.nn.blocks import DiTBlock
from harness.model.optimizers import learning_rate_at, optimizer_of, set_learning_rate
from harness.model.randomness import Draw, seed_step
from harness.model.shape import shape_of
from harness.recipes.config import RunConfig
from harness.system.errors import UsageError
from harness.system.processes.world import World
from harness.training.attention import attention, kernels_of
from harness.training.checkpoint import Checkpoint
from harness.training.ema import Ema

# Of one step: this process's share of the losses, without gradient, and what the method logs beside them.
Losses = dict[str, Tensor]


class TrainStep:
    """What a step changes: the method's weights, the optimizer's moments, and the average."""

    def __init__(self, method: Method, cfg: RunConfig, data: Dataset, *, world: World, device: torch.device):
        self.method, self.data = method.to(device).train(), data
        self._cfg, self._device = cfg, device
        self._rows = rows_of(cfg, world, method.group)
        self._micro_batch = cfg.execution.micro_batch or self._rows.stop - self._rows.start
        protocol = cfg.protocol
        refuse_absent_extra(method, data, cfg)
        for frozen in method.frozen.values():
            frozen.load(device)
        self.optimizer = optimizer_of(method, protocol)
        self.learning_rate = protocol.learning_rate  # of the last step
        self.ema = Ema(method.network, protocol.ema_decay, warmup=protocol.ema_warmup)
        for block in _blocks(method.network):
            block.checkpointed = cfg.execution.activation_checkpointing
        self.attention = kernels_of(
            method.network, shape_of(cfg), kernel=cfg.execution.attention, precision=protocol.precision, device=device
        )
        self.not_compiled: str | None = None  # why, where it was asked for with "auto"
        self._infinite_by_design = {
            name for name, buffer in method.named_buffers() if buffer.is_floating_point() and not _are_finite([buffer])
        }
        if protocol.compile == "auto" and not compiling.pays(cfg, shape_of(cfg)):
            self.not_compiled = compiling.TOO_SHORT
        self._untried = self.compiled
        method.formulation.prepare(device)
        if self.compiled:
            compiling.compile_in_place(
                method,
                attention=cfg.execution.attention,
                cuda_graphs=cfg.execution.cuda_graphs and device.type == "cuda",
            )
        self._parallel = _parallel(method) if world.size > 1 else None
        self._now_tensors = torch.zeros((), device=device), torch.zeros((), device=device)
        self._now = Progress(*self._now_tensors)
        first, size = self._rows.start, self._micro_batch
        self._draws = [
            Draw(protocol.batch_size, start, start + size, device) for start in range(first, self._rows.stop, size)
        ]

    @property
    def compiled(self) -> bool:
        return bool(self._cfg.protocol.compile) and self.not_compiled is None

    def restore(self, saved: Checkpoint) -> None:
        """Before the first step: go on from `saved`, uncompiled where the run began so, or its bits would differ."""
        self.method.load_state_dict(saved.method)
        self.ema.network.load_state_dict(saved.ema)
        self.optimizer.load_state_dict(saved.optimizer)
        if self.compiled and saved.compiled is False:
            compiling.uncompile(self.method)
            self.not_compiled, self._untried = "the run began so", False

    def is_finite(self) -> bool:
        """Whether the weights, the buffers and the optimizer's moments are, but for buffers that never were.

        A method may register a mask that holds -inf. A second moment that has overflowed freezes its weight for good.
        """
        kept = [values for name, values in self.method.state_dict().items() if name not in self._infinite_by_design]
        moments = [values for state in self.optimizer.state.values() for values in state.values()]
        return _are_finite([values for values in (*kept, *moments) if values.is_floating_point()])

    def __call__(self, batch: StoredBatch, step: int, *, measure_gradient: bool) -> tuple[Losses, Tensor | None]:
        """Take `step` (counted from 0). Returns its losses and, if asked for, the gradient's norm; nothing waits."""
        protocol = self._cfg.protocol
        progress = Progress(step / protocol.steps, step * protocol.batch_size / len(self.data))
        for tensor, value in zip(self._now_tensors, progress, strict=True):
            tensor.fill_(value)  # a launch, and no copy that waits for the device
        totals = self._first_gradients(batch, step) if self._untried else self._gradients(batch, step)
        gradient_norm = None
        if protocol.clip is not None:
            gradient_norm = nn.utils.clip_grad_norm_(self.method.parameters(), protocol.clip)  # before it was clipped
        elif measure_gradient:
            gradient_norm = self._gradient_norm()
        self.learning_rate = learning_rate_at(step, protocol)
        set_learning_rate(self.optimizer, self.learning_rate)
        self.optimizer.step()
        totals |= self.method.after_step(progress) or {}
        self.ema.update(step)
        return totals, gradient_norm

    def _first_gradients(self, batch: StoredBatch, step: int) -> Losses:
        """Those of the step that compiles."""
        guard, self._untried = FirstStep(self.method, optional=self._cfg.protocol.compile == "auto"), False
        try:
            return self._gradients(batch, step)
        except compiling.FAILURES as error:
            self.not_compiled = guard.failed(error)
            return self._gradients(batch, step)

    def _gradients(self, batch: StoredBatch, step: int) -> Losses:
        """Forward and backward of all micro-batches: the gradients of the mean loss, and the losses."""
        self.optimizer.zero_grad(set_to_none=True)
        totals: Losses = {}
        for micro_batch, draw, synchronised in self._micro_batches(batch):
            seed_step(self._cfg.seed, step)
            with synchronised, attention(self._cfg.execution.attention):
                losses = self._losses(micro_batch, draw)
                weight = len(micro_batch.labels) / len(batch.labels)
                (losses["loss"] * weight).backward()
            for name, value in losses.items():
                totals[name] = totals.get(name, 0) + value.detach() * weight
        return totals

    def _micro_batches(self, batch: StoredBatch) -> Iterator[tuple[StoredBatch, Draw, AbstractContextManager]]:
        """Each with its random numbers, and with whether its backward exchanges gradients: only the last one does."""
        size, last = self._micro_batch, self._draws[-1]
        for index, draw in enumerate(self._draws):
            part = batch.each(itemgetter(slice(index * size, (index + 1) * size)))
            yield part, draw, self._parallel.no_sync() if self._parallel and draw is not last else nullcontext()

    def _losses(self, batch: StoredBatch, draw: Draw) -> Losses:
        clean = self.data.to_clean(batch.stored, draw)
        labels = drop_labels(batch.labels, self._cfg.protocol.label_dropout, draw, null_label=self.data.num_classes)
        bf16 = self._cfg.protocol.precision == "bf16"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=bf16):
            return (self._parallel or self.method)(Batch(clean, labels, batch.extra), self._now, draw)

    def _gradient_norm(self) -> Tensor:
        gradients = [p.grad for p in self.method.parameters() if p.grad is not None]
        return nn.utils.get_total_norm(gradients)


def refuse_absent_extra(method: Method, data: Dataset, cfg: RunConfig) -> None:
    """Raises UsageError where the data set lacks a tensor that the method reads."""
    absent = sorted(method.extra.keys() - set(data.extra))
    if absent:
        shapes = ", ".join(f"{name} as {' x '.join(map(str, method.extra[name]))}" for name in absent)
        raise UsageError(
            f"{cfg.method} reads {', '.join(absent)} of each image, and {data.name} has "
            f"{', '.join(data.extra) or 'nothing but images and labels'}; give --data a set that has {shapes}, "
            "stored with each image (extra of harness.data.dataset)."
        )


def _are_finite(tensors: list[Tensor]) -> bool:
    return not tensors or bool(torch.stack(torch._foreach_norm(tensors)).isfinite().all())


def _blocks(network: nn.Module) -> Iterator[DiTBlock]:
    return (module for module in network.modules() if isinstance(module, DiTBlock))


def _parallel(method: Method) -> DistributedDataParallel:
    """Gradients averaged over processes. Buffers are centres, which methods keep equal themselves."""
    new = "forward_sync_buffers" in signature(DistributedDataParallel).parameters  # torch renames broadcast_buffers
    sync: dict[str, Any] = {"forward_sync_buffers" if new else "broadcast_buffers": False}
    return DistributedDataParallel(method, gradient_as_bucket_view=True, **sync)


def drop_labels(labels: Tensor, probability: float, draw: Draw, *, null_label: int) -> Tensor:
    """Labels with each replaced by "no label" at `probability`, for classifier-free guidance: here, once, for all."""
    return torch.where(draw.uniform() < probability, null_label, labels)
