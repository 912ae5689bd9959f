"""The device of a run, its memory, and the description of both that a manifest records."""

import os
import platform
from pathlib import Path

import torch

from harness.records.schema import Device, MemoryKind


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
    """Bytes that this process could still allocate: of its GPU, or of this machine; None where that is unknown."""
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
