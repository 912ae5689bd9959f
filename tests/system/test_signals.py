"""SIGTERM and Ctrl-C wherever a command is, also where what they raise is lost."""

import os
import signal
import threading

import pytest

from harness.system.errors import DataError, Preempted
from harness.system.processes.signals import preemption_raises


class Lost(Exception):
    pass


def lose_what_is_raised(number: signal.Signals) -> None:
    """As a call into C that clears the error and fails with its own."""
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


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGTERM, Preempted), (signal.SIGINT, KeyboardInterrupt)])
def test_a_stop_that_ends_in_another_error_is_still_a_stop(number, kind):
    with pytest.raises(kind) as ended, preemption_raises():
        lose_what_is_raised(number)
    assert isinstance(ended.value.__cause__, Lost)


def test_an_error_that_no_signal_made_stays_what_it_is():
    with pytest.raises(DataError), preemption_raises():
        raise DataError("a shard is damaged.")


def test_ctrl_c_that_the_parent_ignores_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with preemption_raises():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, signal.default_int_handler)
