"""What a bench times: anything that takes one training step at a time."""

from typing import Any, Protocol


class Contender(Protocol):
    """One way to train, ready to step.

    Building it may be slow. A step waits for the device only where the code that it stands for does: then the wait is
    part of what is measured.
    """

    name: str  # unique in a bench: "sddit-s bf16 compiled", "official DiT"
    num_images: int  # of one step
    data_seconds: float  # spent waiting for data since the contender was made

    def step(self) -> None:
        """Take one training step: forward, backward, optimizer, averages."""

    def conditions(self) -> dict[str, Any]:
        """How the step is made, for the record: precision, compiled, pipeline, attention, ..."""
