"""How precisely matrix products and convolutions are computed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def set_precision(precision: str) -> None:
    """Let matrix products and convolutions round to TF32, or forbid it, for the whole process."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


@contextmanager
def plain_fp32(device: torch.device) -> Iterator[None]:
    """No TF32, no autocast, no gradients: latents and features must not depend on a training step's precision.

    no_grad and not inference_mode, whose tensors could not take part in the training step that follows.
    """
    matmul, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    set_precision("fp32")
    try:
        with no_autocast(device):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolution


@contextmanager
def no_autocast(device: torch.device) -> Iterator[None]:
    """No autocast and no gradients; TF32 as the process has it."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield
