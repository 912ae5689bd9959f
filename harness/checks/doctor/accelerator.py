"""torch's build, the GPUs and their driver, and what precisions they have."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from harness.checks.doctor.finding import Finding, failure, in_brief, in_words, ok, warning

INSTALL = "pip install --force-reinstall torch --index-url ADDRESS"
TINY_ONLY = "only the tiny recipes are practical"
BUSY = 0.5  # of a GPU's memory that others hold


def torch_build() -> Finding:
    """torch's version and what it was built for."""
    import torch

    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    if getattr(torch.version, "hip", None):
        built = f"for ROCm {torch.version.hip}, which this project has never been tried with"
    return ok("torch", f"{torch.__version__}, built {built}")


def gpus() -> Iterator[Finding]:
    """Every GPU that torch sees, each tried with one product; or why it sees none."""
    import torch

    if not torch.cuda.is_available():
        yield _no_gpu(torch.version.cuda)
        return
    for index in range(torch.cuda.device_count()):
        yield _gpu(index)


def _no_gpu(built_for: str | None) -> Finding:
    driver, shown = driver_version(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if driver is None:
        return warning(
            "GPU",
            f"none, and no NVIDIA driver: {TINY_ONLY}",
            "Nothing to mend for the demo; for the sizes of the paper take a machine with a GPU.",
        )
    if built_for is None:
        return warning(
            "GPU",
            f"driver {driver}, but torch was built without CUDA; {TINY_ONLY}",
            f"Run: {INSTALL}, which PyTorch's installation page gives for the newest CUDA that `nvidia-smi` allows.",
        )
    if shown is not None and not re.search(r"\d|GPU|MIG", shown.replace("-1", "")):
        return warning("GPU", f"driver {driver}; CUDA_VISIBLE_DEVICES={shown!r} hides all", "Unset that variable.")
    return failure(
        "GPU",
        f"driver {driver}, torch for CUDA {built_for}, and torch finds no GPU{_complaint()}",
        f"Update the driver to one that takes CUDA {built_for}, or run: {INSTALL}, which PyTorch's installation page "
        "gives for an older CUDA; in a container, start it with --gpus all.",
    )


def _complaint() -> str:
    """What CUDA says itself when it is asked to start."""
    import torch

    try:
        torch.cuda.init()
    except Exception as error:  # torch raises RuntimeError, AssertionError and DeferredCudaCallError, by its version
        return f": {in_brief(error)}"
    return ""


def driver_version() -> str | None:
    """Of NVIDIA's driver, or "unknown" where a device shows that there is one; None without any."""
    if shutil.which("nvidia-smi"):
        words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return "unknown"
        lines = done.stdout.split()
        if done.returncode == 0 and lines:
            return lines[0]
    said = Path("/proc/driver/nvidia/version")
    if said.is_file():
        match = re.search(r"\b(\d{3}\.\d[\d.]*)\b", said.read_text(encoding="utf-8", errors="replace"))
        return match[1] if match else "unknown"
    return "unknown" if Path("/dev/nvidiactl").exists() else None


def _gpu(index: int) -> Finding:
    import torch

    from harness.system.precision import AMPERE

    name, device = f"GPU {index}", torch.device("cuda", index)
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
            name,
            f"{found}: {in_brief(error)}",
            f"torch was built for {kernels}: run {INSTALL} of a CUDA that has this GPU, or end what holds its memory.",
        )
    if value != 64.0**3:
        return failure(
            name, f"{found}: a product of ones gave {value}", "Restart it; if that lasts, the GPU is broken."
        )
    found += f", {in_words(free)} of {in_words(total)} free"
    if free < BUSY * total:
        return warning(name, found, "Another program holds its memory: nvidia-smi names it; end it or use another GPU.")
    if capability < AMPERE:
        return warning(
            name, f"{found}; no bf16, no TF32", "Train with --precision fp32; A100 and newer have the others."
        )
    return ok(name, f"{found}, bf16 and TF32")


def precisions() -> Finding:
    """Which precisions the device that commands take has, and what this process begins with."""
    import torch

    from harness.system.errors import SetupError
    from harness.system.precision import default_device, require

    device = default_device()
    there = []
    for precision in ("fp32", "tf32", "bf16"):
        try:
            require(precision, device)
        except SetupError:
            continue
        there.append(precision)
    begins = torch.get_float32_matmul_precision()
    cudnn = "allowed" if torch.backends.cudnn.allow_tf32 else "forbidden"
    return ok(
        "precision",
        f"{', '.join(there)} on the {device.type}; before a command sets its own: matrix products {begins}, TF32 in "
        f"cuDNN {cudnn}",
    )
