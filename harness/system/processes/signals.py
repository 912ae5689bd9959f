"""Signals that ask a command to stop. During training: finish the step, save, then stop.

SIGHUP comes when a terminal closes, SIGUSR1 and SIGUSR2 are what jobs often ask their scheduler for.
"""

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from harness.system.errors import HarnessError, Interrupted, Preempted

Signal = signal.Signals
STOPS: dict[Signal, type[HarnessError]] = {
    signal.SIGINT: Interrupted,
    signal.SIGTERM: Preempted,
    signal.SIGHUP: Preempted,
    signal.SIGUSR1: Preempted,
    signal.SIGUSR2: Preempted,
}


def watched() -> list[Signal]:
    """The signals that stop this process: all of STOPS, but not SIGHUP where `nohup` started it."""
    return [number for number in STOPS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


@contextmanager
def handled(handlers: Mapping[Signal, Callable[[int, FrameType | None], None]]) -> Iterator[None]:
    """These handlers for the block, and those from before after it."""
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, earlier in previous.items():
            signal.signal(number, earlier)


class Inbox:
    """The first signal that arrived, if any."""

    def __init__(self) -> None:
        self.received: Signal | None = None


def error(received: Signal, step: int) -> HarnessError:
    """The error of a run that was asked to stop and has saved."""
    return STOPS[received](f"{received.name} at step {step}: saved. The same command continues from there.")


@contextmanager
def deferred() -> Iterator[Inbox]:
    """Collects the first signal for the caller to act on between two steps; a second Ctrl-C stops at once.

    A second SIGTERM or SIGUSR1 does not: schedulers signal a process itself, and also through the one that started it.
    """
    inbox, interrupts = Inbox(), signal.getsignal(signal.SIGINT)

    def receive(number: int, frame: FrameType | None) -> None:
        inbox.received = inbox.received or Signal(number)
        signal.signal(signal.SIGINT, interrupts)

    with handled(dict.fromkeys(watched(), receive)):
        yield inbox


@contextmanager
def preemption_raises(when_stopped: str) -> Iterator[None]:
    """A signal raises Preempted wherever the program is, as Ctrl-C raises KeyboardInterrupt.

    `when_stopped` is the end of the message and says what to do then.

    Code that is interrupted may fail in another way: a call into C may drop the exception, and a thread may be joined
    before it has started. The block then still ends with the exception of the signal.
    """
    asked: list[BaseException] = []

    def stop(number: int, frame: FrameType | None) -> None:
        asked.append(Preempted(f"{Signal(number).name}: stopped. {when_stopped}"))
        raise asked[-1]

    def interrupt(number: int, frame: FrameType | None) -> None:
        asked.append(KeyboardInterrupt())
        raise asked[-1]

    handlers = {number: stop for number in watched() if STOPS[number] is Preempted}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, or somebody else's
        handlers[signal.SIGINT] = interrupt
    with handled(handlers):
        try:
            yield
        except Exception as error:
            if not asked or isinstance(error, Preempted | Interrupted):
                raise
            raise asked[-1] from error
