"""The clock, memory and device of a run. Methods cannot reach these, so no method can touch its own timing."""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from harness.records.schema import Device, MemoryKind

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


def reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> tuple[int | None, MemoryKind]:
    """Highest memory in bytes, and of what: the device's allocations, or this process as a whole on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), "device allocated"
    import resource  # absent on Windows, which trains only on CUDA here

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if platform.system() == "Darwin" else 1024), "process RSS"


def available_memory(device: torch.device) -> int | None:
    """Bytes that this process could still allocate: of its GPU, or of this machine; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    lines = dict(line.split(":") for line in meminfo.read_text(encoding="utf-8").splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    limit, used = (_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    return free if limit is None or used is None else min(free, limit - used)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU's or the host's allocator refused. The host's raises a bare RuntimeError, told by its words."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _number(path: Path) -> int | None:
    text = path.read_text(encoding="utf-8").strip() if path.exists() else ""
    return int(text) if text.isdigit() else None  # a cgroup without a limit says "max"


def describe(device: torch.device, num_processes: int = 1) -> Device:
    """The hardware as the manifest records it, without names of hosts or people. Each process has a GPU of its own."""
    threads = torch.get_num_threads()
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return Device(
            name=properties.name,
            kind="cuda",
            count=num_processes,
            threads=threads,
            memory_bytes=properties.total_memory,
            cuda=torch.version.cuda,
        )
    return Device(name=_processor(), kind="cpu", count=os.cpu_count() or 1, threads=threads)


def _processor() -> str:
    description = Path("/proc/cpuinfo")  # Linux; elsewhere the platform module's answer is the best there is
    lines = description.read_text(encoding="utf-8").splitlines() if description.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
