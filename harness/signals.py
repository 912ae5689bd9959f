"""SIGINT and SIGTERM during training: finish the step, save, then stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from harness.errors import HarnessError, Interrupted, Preempted

Signal = signal.Signals
WATCHED = {signal.SIGINT: Interrupted, signal.SIGTERM: Preempted}


class Inbox:
    """The first signal that arrived, if any."""

    def __init__(self) -> None:
        self.received: Signal | None = None


def error(received: Signal, step: int) -> HarnessError:
    """What a run ends with that was told to stop and has saved."""
    return WATCHED[received](f"{received.name} at step {step}: saved. The same command continues from there.")


@contextmanager
def deferred() -> Iterator[Inbox]:
    """Collects the first signal for the caller to act on between two steps; a second Ctrl-C stops at once.

    A second SIGTERM does not: schedulers signal a process more than once, itself and through the one that started it.
    """
    inbox = Inbox()

    def receive(number: int, frame: FrameType | None) -> None:
        inbox.received = inbox.received or Signal(number)
        signal.signal(signal.SIGINT, previous[signal.SIGINT])

    previous = {watched: signal.signal(watched, receive) for watched in WATCHED}
    try:
        yield inbox
    finally:
        for watched, handler in previous.items():
            signal.signal(watched, handler)


@contextmanager
def preemption_raises() -> Iterator[None]:
    """SIGTERM raises Preempted wherever the program is, as Ctrl-C raises KeyboardInterrupt."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Preempted("SIGTERM: stopped. The same command continues from the last checkpoint.")

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
