"""Random masking of tokens, shared by every masked method.   B batch, L tokens, K kept tokens, D width."""

import torch
from torch import Tensor

from harness.model.randomness import Draw


def num_kept(length: int, mask_ratio: float) -> int:
    """Tokens left of `length`: int(length (1 - mask_ratio)), as MaskDiT and MDT round. Raises ValueError for none."""
    kept = int(length * (1 - mask_ratio))
    if kept < 1:
        raise ValueError(
            f"mask_ratio {mask_ratio} keeps none of {length} tokens; keep at least one: {1 - 1 / length:.3f}"
        )
    return kept


def random_keep(draw: Draw, length: int, num_keep: int) -> Tensor:
    """Indices of the tokens to keep, a fresh uniform subset for each image, in ascending order.   (B, K)"""
    return draw.uniform(length).argsort(dim=1)[:, :num_keep].sort(dim=1).values


def random_keep_of(draw: Draw, length: int, most: int, mask_ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of `most` tokens in a random order, and which of these places are kept, for a ratio on the device.

    The first places are kept, as many as num_kept says.   () -> (B, most), (most,)
    """
    random = draw.uniform(length)
    order = random.argsort(dim=1)[:, :most]
    place = torch.arange(1, most + 1, device=order.device)
    return order, place <= length * (1 - mask_ratio)


def structured_keep(draw: Draw, grid: int, num_keep: int) -> Tensor:
    """Indices of `num_keep` tokens of each 2 x 2 of a grid, in ascending order.   (B, num_keep grid^2 / 4)"""
    places = draw.uniform(grid // 2, grid // 2, 4).argsort(dim=-1)[..., :num_keep]  # (B, grid / 2, grid / 2, num_keep)
    corner = 2 * torch.arange(grid // 2, device=places.device)
    row = corner[:, None, None] + places // 2
    column = corner[None, :, None] + places % 2
    return (row * grid + column).flatten(1).sort(dim=1).values


def gather(x: Tensor, keep: Tensor) -> Tensor:  # (B, L, D), (B, K) -> (B, K, D)
    """The kept tokens of each image, in the order of `keep`."""
    return x.gather(1, keep[..., None].expand(-1, -1, x.shape[-1]))


def scatter(x: Tensor, keep: Tensor, onto: Tensor) -> Tensor:  # (B, K, D), (B, K), (B, L, D) -> (B, L, D)
    """`onto` with the kept tokens written over it at their places."""
    return onto.to(x.dtype).scatter(1, keep[..., None].expand(-1, -1, x.shape[-1]), x)


def visible(keep: Tensor, length: int, seen: Tensor | None = None) -> Tensor:
    """1 where a token was kept, and its place in `keep` is `seen`; else 0.   (B, K), (K,) -> (B, L)"""
    masked = torch.zeros(keep.shape[0], length, device=keep.device)
    return masked.scatter(1, keep, 1.0 if seen is None else seen.float().expand_as(keep))
