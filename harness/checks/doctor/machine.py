"""What the machine has for this process: cores, memory, shared memory, open files, torch's build, and GPUs."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from harness.checks.doctor.words import in_brief
from harness.checks.finding import FAILURE, WARNING, Finding, failure, ok, warning
from harness.system.files import in_words

GIB = 2**30
LITTLE_MEMORY, TOO_LITTLE_MEMORY = 4 * GIB, 1 * GIB  # available: the tiny recipes and their evaluation take about 1.5
SHARED_MEMORY = 64 * 2**20  # what containers have by default
FILES = 1024  # ImageNet in latents is 313 shards, twice that with mirror images, beside libraries and sockets
INSTALL = "pip install --force-reinstall torch --index-url ADDRESS"
TINY_ONLY = "only the tiny recipes are practical"
BUSY = 0.5  # when less than this share of a GPU's memory is free, another program uses the GPU


def cores() -> Finding:
    """How many cores this process may use, and how many threads a library will start."""
    from harness.system.processes.launch import processors

    usable, there = processors(), os.cpu_count() or 1
    threads, quota = os.environ.get("OMP_NUM_THREADS"), _quota()
    found = f"{usable}" + (f" of {there}" if usable != there else "")
    found += f", OMP_NUM_THREADS={threads}" if threads else ", OMP_NUM_THREADS is not set"
    if quota is not None and quota < usable:
        found += f", and a limit of {quota:.2g} cores' time"
    if threads and threads.isdigit() and int(threads) > usable:
        return warning(found, f"Set OMP_NUM_THREADS={usable}: more threads than cores slow each other down.")
    if quota is not None and quota < usable and not threads:
        return warning(found, f"Set OMP_NUM_THREADS={max(1, int(quota))}: more threads than that wait for one another.")
    return ok(found)


def _quota() -> float | None:
    """Cores' worth of time that a container may use; None without a limit."""
    file = Path("/sys/fs/cgroup/cpu.max")
    if not file.is_file():
        return None
    quota, period = file.read_text(encoding="utf-8").split()
    return None if quota == "max" else int(quota) / int(period)


def memory() -> Finding:
    """Main memory of the machine, and how much of it is available to this process."""
    import torch

    from harness.records.machine import available_memory

    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = available_memory(torch.device("cpu"))
    found = in_words(total) + (f", {in_words(free)} available" if free is not None else "")
    if free is not None and free < TOO_LITTLE_MEMORY:
        return failure(found, "End other programs; even the tiny recipes need about 1 GiB.")
    if free is not None and free < LITTLE_MEMORY:
        return warning(found, "Enough for the tiny recipes; larger ones need --micro-batch or more memory.")
    return ok(found)


def shared_memory() -> Finding:
    """/dev/shm, through which processes of one machine exchange tensors."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return ok("no /dev/shm on this system")
    usage = shutil.disk_usage(folder)
    found = f"{in_words(usage.total)}, {in_words(usage.free)} free"
    if usage.free < SHARED_MEMORY:
        return warning(found, "Give the container more, like docker run --shm-size=2g; NCCL needs it with GPUs.")
    return ok(found)


def open_files() -> Finding:
    """How many files this process may hold open."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return ok("no limit")
    if soft < FILES:
        most = "unlimited" if hard == resource.RLIM_INFINITY else f"{hard}"
        return warning(f"up to {soft:,}", f"Run ulimit -n {FILES} first (at most {most} here).")
    return ok(f"up to {soft:,}")


def allocator() -> Finding:
    """Whether commands keep the memory that they free: we set the allocator as they do, and look at its state."""
    from harness.system import allocator

    allocator.keep_freed_memory()
    if allocator.state() == "kept":
        return ok("freed memory is kept for the next step (glibc)")
    if allocator.has_glibc():
        return ok("as the environment sets it (MALLOC_..., GLIBC_TUNABLES), or as glibc sets it itself")
    return ok("the C library's own: only glibc is told to keep freed memory, which saves a CPU up to a tenth of a step")


def bfloat16() -> Finding:
    """Whether --precision bf16 is worth its rounding on this processor."""
    import torch

    from harness.system.errors import SetupError
    from harness.system.precision import IMITATED, require, slower_than_fp32

    cpu = torch.device("cpu")
    try:
        require("bf16", cpu)
    except SetupError:
        return ok("not on this processor, which trains in fp32")
    return ok(IMITATED if slower_than_fp32("bf16", cpu) else "this processor has instructions for its products")


def torch_build() -> Finding:
    """torch's version and what it was built for."""
    import torch

    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    if getattr(torch.version, "hip", None):
        built = f"for ROCm {torch.version.hip}, on which this project was never tried"
    return ok(f"{torch.__version__}, built {built}")


def gpus() -> Finding:
    """Every GPU that torch sees, each tried with one product; or why torch sees none."""
    import torch

    if not torch.cuda.is_available():
        return _no_gpu(torch.version.cuda)
    findings = [_gpu(index) for index in range(torch.cuda.device_count())]
    worst = max(findings, key=lambda finding: (finding.status == FAILURE, finding.status == WARNING))
    return worst._replace(found="; ".join(f"GPU {index}: {each.found}" for index, each in enumerate(findings)))


def _no_gpu(built_for: str | None) -> Finding:
    driver, shown = driver_version(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if driver is None:
        return warning(
            f"none, and no NVIDIA driver: {TINY_ONLY}",
            "The demo needs none; for the sizes of the paper take a machine with a GPU.",
        )
    if built_for is None:
        return warning(
            f"driver {driver}, but torch was built without CUDA; {TINY_ONLY}",
            f"Run: {INSTALL}, which PyTorch's installation page gives for the newest CUDA that `nvidia-smi` allows.",
        )
    if shown is not None and not re.search(r"\d|GPU|MIG", shown.replace("-1", "")):
        return warning(f"driver {driver}; CUDA_VISIBLE_DEVICES={shown!r} hides all", "Unset that variable.")
    return failure(
        f"driver {driver}, torch for CUDA {built_for}, and torch finds no GPU{_complaint()}",
        f"Update the driver to one that takes CUDA {built_for}, or run: {INSTALL}, which PyTorch's installation page "
        "gives for an older CUDA; in a container, start it with --gpus all.",
    )


def _complaint() -> str:
    """What CUDA itself says when it is started."""
    import torch

    try:
        torch.cuda.init()
    except Exception as error:  # torch raises RuntimeError, AssertionError and DeferredCudaCallError, by its version
        return f": {in_brief(error)}"
    return ""


def driver_version() -> str | None:
    """The version of NVIDIA's driver, "unknown" where only its device is there; None without a driver."""
    if shutil.which("nvidia-smi"):
        words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return "unknown"
        lines = done.stdout.split()
        if done.returncode == 0 and lines:
            return lines[0]
    return "unknown" if Path("/dev/nvidiactl").exists() else None


def _gpu(index: int) -> Finding:
    import torch

    from harness.system.precision import AMPERE

    device = torch.device("cuda", index)
    properties = torch.cuda.get_device_properties(device)
    capability = (properties.major, properties.minor)
    found = f"{properties.name}, capability {properties.major}.{properties.minor}, driver {driver_version()}"
    try:
        ones = torch.ones(64, 64, device=device)
        value = float((ones @ ones).sum())
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError as error:
        kernels = ", ".join(torch.cuda.get_arch_list())
        return failure(
            f"{found}: {in_brief(error)}",
            f"torch was built for {kernels}: run {INSTALL} of a CUDA that has this GPU, or end what holds its memory.",
        )
    if value != 64.0**3:
        return failure(f"{found}: a product of ones gave {value}", "Restart it; if that does not help, it is broken.")
    found += f", {in_words(free)} of {in_words(total)} free"
    if free < BUSY * total:
        return warning(found, "Another program holds its memory: nvidia-smi names it; end it or use another GPU.")
    if capability < AMPERE:
        return warning(f"{found}; no bf16, no TF32", "Train with --precision fp32; A100 and newer have the others.")
    return ok(f"{found}, bf16 and TF32")
