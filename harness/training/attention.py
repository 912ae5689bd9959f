"""Which kernel computes attention: asked for, and found out for the record."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from harness.model.formulations import Network
from harness.model.shape import Shape
from harness.records.machine import ran_out_of_memory
from harness.system.errors import SetupError

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


@contextmanager
def attention(kernel: str) -> Iterator[None]:
    """Attention by one kernel, a key of KERNELS, and by no other; "auto" leaves the choice to torch.

    A kernel that cannot do it makes scaled_dot_product_attention raise RuntimeError.
    """
    if kernel == "auto":
        yield
        return
    with sdpa_kernel(KERNELS[kernel]):
        yield


def kernels_of(network: Network, shape: Shape, *, kernel: str, precision: str, device: torch.device) -> str:
    """The kernels that compute the network's attention, keys of KERNELS or torch's names: "flash", or "flash, math".

    Found by an evaluation of one image, since it depends on the width of every block's heads and on its bias. Raises
    SetupError when the device has no such kernel for one of them.
    """
    clean = torch.zeros(1, shape.channels, shape.side, shape.side, device=device)
    noise, labels = torch.zeros(1, device=device), torch.zeros(1, dtype=torch.long, device=device)
    seen = _Kernels()
    try:
        with attention(kernel), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"), seen:
            network(clean, noise, labels)
    except RuntimeError as error:
        if kernel == "auto" or ran_out_of_memory(error):
            raise
        raise SetupError(
            f"execution.attention is {kernel!r}, and torch has no such kernel for this network in {precision} on this "
            f"{device.type} device: {error} Say --set attention=auto."
        ) from None
    return ", ".join(sorted(seen.names))


class _Kernels(TorchFunctionMode):
    """Asks torch, at each call of attention, which kernel it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, func: Callable, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            chosen = SDPBackend(torch._fused_sdp_choice(*args, **kwargs))
            self.names.add(next((name for name, known in KERNELS.items() if known == chosen), chosen.name.lower()))
        return func(*args, **kwargs)
