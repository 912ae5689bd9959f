"""How many examples a property is tried with, and their count: tried, and survived without another error than ours."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from hypothesis import settings
from hypothesis.errors import StopTest, UnsatisfiedAssumption

from harness.system.errors import HarnessError

LONG = os.environ.get("HARNESS_FAULTS") == "long"
T = TypeVar("T")


@dataclass
class Count:
    tried: int = 0
    survived: int = 0


COUNTS: defaultdict[str, Count] = defaultdict(Count)


def examples(short: int, long: int) -> settings:
    return settings(max_examples=long if LONG else short)


@contextmanager
def counted(what: str) -> Iterator[None]:
    """One example of the property `what`. One that Hypothesis gives up while it is drawn is none."""
    try:
        yield
    except (StopTest, UnsatisfiedAssumption):
        raise
    except BaseException:
        COUNTS[what].tried += 1
        raise
    COUNTS[what].tried += 1
    COUNTS[what].survived += 1


def ours(call: Callable[[], T]) -> T | HarnessError:
    """What the call returns, or the error that tells a user what is wrong. Anything else that it raises is a bug."""
    try:
        return call()
    except HarnessError as error:
        if not str(error).strip():
            raise AssertionError(f"{type(error).__name__} says nothing") from None
        return error
