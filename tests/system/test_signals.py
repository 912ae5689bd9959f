"""Signals to stop and Ctrl-C wherever a command is, also where what they raise is lost."""

import os
import signal
import threading

import pytest

from harness.system.errors import DataError, Preempted
from harness.system.processes.signals import deferred, preemption_raises

PREEMPTIONS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Lost(Exception):
    pass


def lose_what_is_raised(number: signal.Signals) -> None:
    """Does what a call into C does that clears the error and fails with its own."""
    try:
        os.kill(os.getpid(), number)
        threading.Event().wait(5)
    except BaseException:
        pass
    raise Lost


@pytest.fixture(autouse=True)
def python_answers_ctrl_c():
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.signal(signal.SIGINT, previous) is signal.default_int_handler


STOPS = [*((number, Preempted) for number in PREEMPTIONS), (signal.SIGINT, KeyboardInterrupt)]


@pytest.mark.parametrize(("number", "kind"), STOPS)
def test_a_stop_that_ends_in_another_error_is_still_a_stop(number, kind):
    with pytest.raises(kind) as ended, preemption_raises("Repeat it."):
        lose_what_is_raised(number)
    assert isinstance(ended.value.__cause__, Lost)
    assert kind is KeyboardInterrupt or str(ended.value) == f"{number.name}: stopped. Repeat it."


def test_an_error_that_no_signal_made_stays_what_it_is():
    with pytest.raises(DataError), preemption_raises("Repeat it."):
        raise DataError("a shard is damaged.")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=["Ctrl-C", "a hang-up under nohup"])
def test_a_signal_that_the_parent_ignores_stays_ignored(number):
    previous = signal.signal(number, signal.SIG_IGN)
    with preemption_raises("Repeat it."):
        os.kill(os.getpid(), number)
    assert signal.signal(number, previous) is signal.SIG_IGN


def test_a_hang_up_under_nohup_does_not_stop_training():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with deferred() as inbox:
        os.kill(os.getpid(), signal.SIGHUP)
    signal.signal(signal.SIGHUP, previous)
    assert inbox.received is None
