"""The numbers a network is built from."""

from dataclasses import dataclass
from typing import Literal

from harness.recipes.config import RunConfig
from harness.system.errors import UsageError

Norm = Literal["layer", "rms"]


@dataclass(frozen=True)
class Shape:
    """The data's shape, the network's size and its blocks' settings; every method's network is built from one."""

    channels: int
    side: int
    num_classes: int
    patch: int
    width: int
    depth: int
    num_heads: int
    mlp: Literal["gelu", "swiglu"] = "gelu"
    norm: Norm = "layer"
    rotary: bool = False
    qk_norm: bool = False

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.side // self.patch

    @property
    def num_tokens(self) -> int:
        return self.grid**2


def shape_of(cfg: RunConfig) -> Shape:
    """What the networks of this run are built from. Raises UsageError where the patch does not divide the input."""
    side = cfg.input.side
    if side % cfg.network.patch:
        raise UsageError(
            f"network.patch is {cfg.network.patch}, which does not divide an input of {side} x {side}; take a divisor "
            f"of {side}."
        )
    return Shape(**cfg.input.model_dump(), **cfg.network.model_dump(), **cfg.block.model_dump())
