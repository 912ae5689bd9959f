"""The numbers a network is built from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """The data's shape and the network's size together; every method's network is built from one of these."""

    channels: int
    side: int
    num_classes: int
    patch: int
    width: int
    depth: int
    num_heads: int

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.side // self.patch

    @property
    def num_tokens(self) -> int:
        return self.grid**2
