"""From a network's range to eight-bit pixels: one rule for every method.

N images, C channels, H height, W width.
"""

import torch
from torch import Tensor

from harness.system.errors import DataError

UINT8_RULE = "floor(127.5 x + 128) clipped to 0..255"


def to_uint8(x: Tensor) -> Tensor:  # (N, C, H, W) in [-1, 1] -> (N, H, W, C) uint8
    """Pixels, each rounded to the nearest level: UINT8_RULE, as in DiT's sample_ddp.py.

    MDT and MaskDiT leave out the half level before truncating, which makes their images half a level darker; here
    every method is rounded alike. Raises DataError when a value is not finite.
    """
    x = x.float()
    broken = int((~x.isfinite()).sum())
    if broken:
        raise DataError(
            f"{broken:,} of the {x.numel():,} values of the images are not finite. "
            "The weights or the sampler diverged: lower the learning rate, or sample from an earlier checkpoint."
        )
    return (127.5 * x + 128).floor().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
