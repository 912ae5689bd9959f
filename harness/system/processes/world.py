"""The processes that work on one run, seen from one of them."""

from typing import Any, NamedTuple


class World(NamedTuple):
    """Which process of how many this one is."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among those on this machine: the index of its GPU
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and answers the user."""
        return self.rank == 0

    def wait(self) -> None:
        """Until every process has come here."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier()

    def agreed(self, value: Any) -> Any:
        """The main process's value, in all of them."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def gathered(self, value: Any) -> list[Any]:
        """Every process's value, in the order of their ranks, in all of them."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values
