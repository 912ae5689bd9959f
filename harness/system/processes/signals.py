"""SIGINT and SIGTERM during training: finish the step, save, then stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from harness.system.errors import HarnessError, Interrupted, Preempted

Signal = signal.Signals
WATCHED = {signal.SIGINT: Interrupted, signal.SIGTERM: Preempted}


class Inbox:
    """The first signal that arrived, if any."""

    def __init__(self) -> None:
        self.received: Signal | None = None


def error(received: Signal, step: int) -> HarnessError:
    """The error of a run that was asked to stop and has saved."""
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
    """SIGTERM raises Preempted wherever the program is, as Ctrl-C raises KeyboardInterrupt.

    Code that is interrupted may fail in another way: a call into C may drop the exception, and a thread may be joined
    before it has started. The block then still ends with the exception of the signal.
    """
    asked: list[BaseException] = []

    def stop(number: int, frame: FrameType | None) -> None:
        asked.append(Preempted("SIGTERM: stopped. The same command continues from the last checkpoint."))
        raise asked[-1]

    def interrupt(number: int, frame: FrameType | None) -> None:
        asked.append(KeyboardInterrupt())
        raise asked[-1]

    previous = {signal.SIGTERM: signal.signal(signal.SIGTERM, stop)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, or somebody else's
        previous[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except Exception as error:
        if not asked or isinstance(error, Preempted | Interrupted):
            raise
        raise asked[-1] from error
    finally:
        for watched, handler in previous.items():
            signal.signal(watched, handler)
