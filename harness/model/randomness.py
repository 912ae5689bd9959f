"""Random numbers as functions of (seed, step, image): a continued run and any number of processes draw the same ones.

B images of the global batch, R rows of it that one process, or one micro-batch, works on.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.recipes.seeds import mix


def seed_step(seed: int, step: int) -> None:
    """Reseed every generator for one training step, alike in all processes: their rows of a Draw differ."""
    torch.manual_seed(mix("train", seed, step))


@dataclass(frozen=True, eq=False)
class Draw:
    """Random numbers for the rows [start, stop) of a global batch of `batch_size` images.

    The numbers of the whole batch are drawn and these rows taken, so that an image gets the same noise, level, mask and
    label dropout however the batch is cut into processes and micro-batches. All share the order of their draws.
    """

    batch_size: int
    start: int
    stop: int
    device: torch.device
    share: float = field(init=False)  # these rows' part of the batch: what a mean over them weighs in the whole mean
    _rows: Tensor | None = field(init=False)  # (R,) None: all. A tensor, since a compiled step takes numbers for fixed

    def __post_init__(self) -> None:
        whole = self.stop - self.start == self.batch_size
        rows = None if whole else torch.arange(self.start, self.stop, device=self.device)
        object.__setattr__(self, "share", (self.stop - self.start) / self.batch_size)
        object.__setattr__(self, "_rows", rows)

    @classmethod
    def all_of(cls, batch: Tensor) -> "Draw":
        """For a global batch that is worked on in one piece."""
        return cls(len(batch), 0, len(batch), batch.device)

    def normal(self, *shape: int) -> Tensor:  # (R, *shape)
        """Numbers of the standard normal distribution, for these rows of a draw of the whole batch."""
        return self._mine(torch.randn(self.batch_size, *shape, device=self.device))

    def uniform(self, *shape: int) -> Tensor:  # (R, *shape) in [0, 1)
        """Numbers between 0 and 1, for these rows of a draw of the whole batch."""
        return self._mine(torch.rand(self.batch_size, *shape, device=self.device))

    def integers(self, high: int) -> Tensor:  # (R,) in [0, high)
        """Whole numbers below `high`, int64, for these rows of a draw of the whole batch."""
        return self._mine(torch.randint(high, (self.batch_size,), device=self.device))

    def shared(self, *shape: int) -> Tensor:  # shape, in [0, 1)
        """Numbers between 0 and 1 that all rows of the batch have in common, in every process and micro-batch."""
        return torch.rand(shape, device=self.device)

    def _mine(self, numbers: Tensor) -> Tensor:  # (B, ...) -> (R, ...)
        return numbers if self._rows is None else numbers[self._rows]
