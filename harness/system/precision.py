"""How torch computes: how precisely, in what order, on which device and how many threads."""

import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from harness.system.errors import SetupError

AMPERE = (8, 0)  # the first compute capability with TF32 and bfloat16 matrix units


def require(precision: str, device: torch.device) -> None:
    """Raises SetupError where the device cannot multiply in this precision."""
    if precision == "fp32" or (precision == "bf16" and device.type == "cpu" and _cpu_has_bf16()):
        return
    if device.type == "cpu":
        has = "no TF32, which NVIDIA GPUs have" if precision == "tf32" else "no instructions for bfloat16"
        raise SetupError(f"--precision is {precision}, and this processor has {has}; take --precision fp32.")
    capability = torch.cuda.get_device_capability(device)
    if capability < AMPERE:
        name, mine = torch.cuda.get_device_name(device), ".".join(map(str, capability))
        raise SetupError(
            f"--precision is {precision}, which needs a GPU of compute capability 8.0 (A100) or newer, and {name} has "
            f"{mine}; take --precision fp32."
        )


def _cpu_has_bf16() -> bool:
    """AVX-512 or Arm's extension, without which torch has no kernels for bfloat16 products."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def slower_than_fp32(precision: str, device: torch.device) -> bool:
    """Whether this processor has AVX-512 without its bfloat16 instructions, so that torch imitates these products.

    A step in bf16 then takes about twice as long as in fp32. Processors with AMX or AVX512-BF16 do not imitate them.
    """
    if precision != "bf16" or device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    return not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


IMITATED = (
    "this processor has no instructions for bfloat16 products and imitates them: a step in bf16 takes about twice as "
    "long as in fp32"
)


def set_precision(precision: str) -> None:
    """Let matrix products and convolutions round to TF32, or forbid it, for the whole process."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


CUBLAS, FIXED_WORKSPACES = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")  # the values give its sums one order
NO_SUCH_FORM = re.compile(r"(\S+) does not have a deterministic implementation")


@contextmanager
def deterministic(asked: bool, device: torch.device) -> Iterator[None]:
    """Where `asked`, only operations that give the same bits every time, for the whole process; else as it was.

    Raises SetupError where it is too late to configure the device, and for an operation without a deterministic form.
    """
    if not asked:
        yield
        return
    if device.type == "cuda":
        _fix_workspaces()
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    except RuntimeError as error:
        found = NO_SUCH_FORM.search(str(error))
        if not found:
            raise
        raise SetupError(
            f"--deterministic was asked for, and {found.group(1)} has no deterministic form on this {device.type} "
            "device. Leave --deterministic out, or take another kernel or precision for it."
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]


def _fix_workspaces() -> None:
    """cuBLAS reads its variable when it is first used; after that it is too late to set it."""
    value = os.environ.get(CUBLAS)
    if value is None and not torch.cuda.is_initialized():
        os.environ[CUBLAS] = value = FIXED_WORKSPACES[0]
    if value not in FIXED_WORKSPACES:
        has = f"{CUBLAS} is {value}" if value else f"CUDA is in use already without {CUBLAS}"
        raise SetupError(
            f"--deterministic needs {CUBLAS} set to {' or '.join(FIXED_WORKSPACES)} before CUDA is used, and {has}. "
            f"Say `export {CUBLAS}={FIXED_WORKSPACES[0]}`, then repeat the command."
        )


@contextmanager
def plain_fp32(device: torch.device) -> Iterator[None]:
    """No TF32, no autocast, no gradients: latents and features must not depend on a training step's precision.

    no_grad and not inference_mode, whose tensors could not take part in the training step that follows.
    """
    with tf32_restored():
        set_precision("fp32")
        with no_autocast(device):
            yield


@contextmanager
def tf32_restored() -> Iterator[None]:
    """Afterwards torch's switches for TF32, which hold for the whole process, are as they were."""
    matmul, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolution


@contextmanager
def no_autocast(device: torch.device) -> Iterator[None]:
    """No autocast and no gradients; TF32 as the process has it."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def one_thread() -> Iterator[None]:
    """For work too small to share out: a second thread is no faster, and on a busy machine ten times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
