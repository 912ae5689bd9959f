"""Groups of images within a batch, for losses that compare images with each other."""

from torch import Tensor

from harness.model.randomness import Draw


def in_groups(x: Tensor, size: int, draw: Draw) -> Tensor:  # (R, ...) -> (G, size, ...)
    """Neighbouring rows of the batch in groups of `size`; a batch that is smaller is one group.

    Processes and micro-batches take whole groups (Method.group), so how they share the batch does not change a loss.
    """
    return x.unflatten(0, (-1, min(size, draw.batch_size)))
