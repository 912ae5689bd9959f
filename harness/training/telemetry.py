"""The clock, memory and device of a run. Methods cannot reach these, so no method can touch its own timing."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

WARMUP_STEPS = 10  # after every start: allocators, caches and thread pools settle


class Window(NamedTuple):
    """Steps timed since the last reading; warm-up, logging, checkpoints and evaluation are not in it."""

    steps: int
    seconds: float
    data_seconds: float  # of these, spent waiting for data

    @property
    def steps_per_sec(self) -> float | None:
        return self.steps / self.seconds if self.steps else None

    @property
    def data_wait_share(self) -> float | None:
        return self.data_seconds / self.seconds if self.steps else None


class StepClock:
    """Adds up the time of whole steps. It waits for the device only when it is read or paused, never in a step."""

    def __init__(self, device: torch.device):
        self._device = device
        self._warmup_left = WARMUP_STEPS
        self._reset()
        self._since = time.perf_counter()

    def _reset(self) -> None:
        self._steps, self._seconds, self._data_seconds = 0, 0.0, 0.0

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._data_seconds += time.perf_counter() - start

    def step_done(self) -> None:
        if self._warmup_left == 0:
            self._steps += 1
            return
        self._warmup_left -= 1
        if self._warmup_left == 0:
            self._synchronise()
            self._reset()
            self._since = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        self._synchronise()
        self._seconds += time.perf_counter() - self._since
        yield
        self._since = time.perf_counter()

    def read(self) -> Window:
        """The window so far, and begin the next. Call it while paused."""
        window = Window(self._steps, self._seconds, self._data_seconds) if self._steps else Window(0, 0.0, 0.0)
        self._reset()
        return window

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
