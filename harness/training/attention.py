"""Which kernel computes attention: asked for, and found out for the record.

B images, H heads, L tokens, E width of a head.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.errors import SetupError
from harness.nn.shape import Shape

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


def kernel_of(shape: Shape, *, kernel: str, precision: str, device: torch.device) -> str:
    """The kernel that the blocks of a network of this shape get, a key of KERNELS or what torch calls it.

    Raises SetupError when the device has no such kernel for them.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    size = (1, shape.num_heads, shape.num_tokens, shape.width // shape.num_heads)  # (B, H, L, E)
    q = torch.empty(size, dtype=dtype, device=device, requires_grad=True)
    try:
        with attention(kernel):
            chosen = SDPBackend(torch._fused_sdp_choice(q, q, q))
    except RuntimeError as error:
        raise SetupError(
            f"execution.attention is {kernel!r}, and torch has no such kernel for {precision} and heads {size[-1]} "
            f"wide on this {device.type} device: {error} Say --set attention=auto."
        ) from None
    return next((name for name, backend in KERNELS.items() if backend == chosen), chosen.name.lower())
