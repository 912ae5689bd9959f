"""Cores, memory, shared memory and open files of this machine, for this process."""

import os
import shutil
from pathlib import Path

from harness.checks.doctor.finding import Finding, failure, in_words, ok, warning

GIB = 2**30
LITTLE_MEMORY, TOO_LITTLE_MEMORY = 4 * GIB, 1 * GIB  # available: the tiny recipes and their evaluation take about 1.5
SHARED_MEMORY = 64 * 2**20  # what containers give when nobody asks for more
FILES = 1024  # ImageNet in latents is 313 shards, twice that with mirror images, beside libraries and sockets


def cores() -> Finding:
    """How many there are for this process, and how many threads a library will start."""
    from harness.system.processes.launch import processors

    usable, there = processors(), os.cpu_count() or 1
    found = f"{usable}" + (f" of {there}" if usable != there else "")
    threads = os.environ.get("OMP_NUM_THREADS")
    found += f", OMP_NUM_THREADS={threads}" if threads else ", OMP_NUM_THREADS is not set"
    quota = _quota()
    if quota is not None and quota < usable:
        found += f", and a limit of {quota:.2g} cores' time"
    if threads and threads.isdigit() and int(threads) > usable:
        return warning("cores", found, f"Set OMP_NUM_THREADS={usable}: more threads than cores slow each other down.")
    if quota is not None and quota < usable and not threads:
        return warning(
            "cores", found, f"Set OMP_NUM_THREADS={max(1, int(quota))}: more threads than that wait for one another."
        )
    return ok("cores", found)


def _quota() -> float | None:
    """Cores' worth of time that a container may use; None without a limit."""
    file = Path("/sys/fs/cgroup/cpu.max")
    if not file.is_file():
        return None
    quota, period = file.read_text(encoding="utf-8").split()
    return None if quota == "max" else int(quota) / int(period)


def memory() -> Finding:
    """Main memory that is there, and that this process could still have."""
    import torch

    from harness.records.machine import available_memory

    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = available_memory(torch.device("cpu"))
    found = in_words(total) + (f", {in_words(free)} available" if free is not None else "")
    if free is not None and free < TOO_LITTLE_MEMORY:
        return failure("memory", found, "End other programs; even the tiny recipes need about 1 GiB.")
    if free is not None and free < LITTLE_MEMORY:
        return warning("memory", found, "Enough for the tiny recipes; larger ones need --micro-batch or more memory.")
    return ok("memory", found)


def shared_memory() -> Finding:
    """/dev/shm, through which processes of one machine exchange tensors."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return ok("shared memory", "no /dev/shm on this system")
    usage = shutil.disk_usage(folder)
    found = f"{in_words(usage.total)}, {in_words(usage.free)} free"
    if usage.free < SHARED_MEMORY:
        return warning(
            "shared memory", found, "Give the container more, like docker run --shm-size=2g; NCCL needs it with GPUs."
        )
    return ok("shared memory", found)


def open_files() -> Finding:
    """How many files this process may hold open."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = "no limit" if soft == resource.RLIM_INFINITY else f"up to {soft:,}"
    if soft != resource.RLIM_INFINITY and soft < FILES:
        most = "unlimited" if hard == resource.RLIM_INFINITY else f"{hard}"
        return warning("open files", found, f"Say ulimit -n {FILES} first (at most {most} here).")
    return ok("open files", found)
