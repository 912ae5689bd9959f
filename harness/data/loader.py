"""Batches in order, each read while the step before it computes.

B images of the global batch, R rows of it that belong to this process.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from harness.data.dataset import Dataset
from harness.data.order import batch_indices, mirrored
from harness.recipes.config import RunConfig
from harness.system.errors import UsageError
from harness.system.processes.world import World

AHEAD = 2  # batches: one being read, one ready
LARGEST_SHARE = 0.8  # of the GPU's free memory that a resident data set may take


class StoredBatch(NamedTuple):
    """What the data set has of a step's images, on the device."""

    stored: Tensor  # (R, ...) as Dataset.read gives it
    labels: Tensor  # (R,)
    extra: Mapping[str, Tensor] = {}  # (R, ...) as Dataset.read_extra gives them

    def each(self, change: Callable[[Tensor], Tensor]) -> "StoredBatch":
        """The batch with every tensor changed alike: moved, or cut."""
        extra = {name: change(values) for name, values in self.extra.items()}
        return StoredBatch(change(self.stored), change(self.labels), extra)


class Loader:
    """This process's rows of the global batch of every step, from `first_step` on. Use it as a context manager."""

    def __init__(
        self,
        data: Dataset,
        *,
        seed: int,
        batch_size: int,
        flips: bool,
        rows: slice,
        first_step: int,
        device: torch.device,
        resident: bool,
    ):
        if flips and not data.has_flips:
            raise UsageError(
                f"protocol.flips is random, and {data.name} holds no mirror images. Encode it with --flips, or say "
                "--set flips=none."
            )
        self._data, self._device = data, device
        self._seed, self._batch_size, self._flips, self._rows = seed, batch_size, flips, rows
        self._resident = _hold(data, device) if resident else None
        self._step = first_step
        self._reader = None if data.in_memory or resident else ThreadPoolExecutor(1, "reader")
        self._ahead: list[Future[StoredBatch]] = []

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        if self._reader:
            self._reader.shutdown(cancel_futures=True)

    def next(self) -> StoredBatch:
        """The next step's rows, on the device. Raises what reading them raised."""
        if self._resident is not None:
            indices = self._indices(self._advance())
            if self._device.type == "cuda":  # a copy from ordinary memory would wait for the step before
                indices = indices.pin_memory().to(self._device, non_blocking=True)
            return self._resident.each(lambda values: values[indices])
        if self._reader is None:
            return self._to_device(self._read(self._advance()))
        while len(self._ahead) < AHEAD:
            self._ahead.append(self._reader.submit(self._read, self._advance()))
        return self._to_device(self._ahead.pop(0).result())

    def _advance(self) -> int:
        self._step += 1
        return self._step - 1

    def _indices(self, step: int) -> Tensor:  # (R,)
        indices = batch_indices(len(self._data), self._seed, step, self._batch_size)
        if self._flips:
            indices = indices + len(self._data) * mirrored(self._seed, step, self._batch_size)
        return indices[self._rows]

    def _read(self, step: int) -> StoredBatch:
        indices = self._indices(step)
        batch = StoredBatch(*self._data.read(indices), self._data.read_extra(indices))
        return batch.each(Tensor.pin_memory) if self._device.type == "cuda" else batch

    def _to_device(self, batch: StoredBatch) -> StoredBatch:
        return batch.each(lambda values: values.to(self._device, non_blocking=True))


def _hold(data: Dataset, device: torch.device) -> StoredBatch:
    """The whole set on the device. Raises UsageError when it does not fit there."""
    stored = data.everything()
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if stored.nbytes > LARGEST_SHARE * free:
            raise UsageError(
                f"{data.name} takes {stored.nbytes / 2**30:.1f} GiB and the GPU has {free / 2**30:.1f} GiB free, part "
                "of which training needs; say --set residency=host."
            )
    labels = data.labels.repeat(len(stored) // len(data))  # those of mirror images behind the others
    whole = StoredBatch(stored, labels, data.read_extra(torch.arange(len(stored))))
    return whole.each(lambda values: values.to(device))


def rows_of(cfg: RunConfig, world: World, group: int = 1) -> slice:
    """The rows of the global batch that belong to this process. `group` images are never parted (Method.group).

    Raises UsageError when the batch does not divide over the processes, or a process's share over micro-batches.
    """
    batch_size, micro_batch = cfg.protocol.batch_size, cfg.execution.micro_batch
    if batch_size % world.size:
        raise UsageError(
            f"a batch of {batch_size} does not divide over {world.size} processes; take a number of processes that "
            f"divides {batch_size}, or another --set batch_size."
        )
    share = batch_size // world.size
    if cfg.execution.cuda_graphs and micro_batch is not None and micro_batch < share:
        raise UsageError(
            f"execution.cuda_graphs records a step that takes its {share} images at once, and micro_batch is "
            f"{micro_batch}: recorded gradients do not add up over pieces. Leave one of the two out."
        )
    if micro_batch is not None and share % micro_batch:
        raise UsageError(
            f"--micro-batch {micro_batch} does not divide the {share} images that each process has of the batch of "
            f"{batch_size}; take a divisor of {share}."
        )
    together, whole = micro_batch or share, min(group, batch_size)
    if together % whole:
        raise UsageError(
            f"{cfg.method} compares groups of {whole} images, and takes {together} at once; take a batch, a number of "
            f"processes and a --micro-batch such that {whole} divides that, or smaller groups."
        )
    return slice(world.rank * share, (world.rank + 1) * share)
