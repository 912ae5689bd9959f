"""How many examples a property is tried with, and their count: tried, and survived without another error than ours."""

import functools
import os
from collections import defaultdict
from collections.abc import Callable
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


def tries(what: str, *, short: int, long: int) -> Callable[[Callable], Callable]:
    """Try a property, which is `what` in the table of faults, with so many examples, and count them.

    It stands above Hypothesis's @given. An example that Hypothesis gives up while it is drawn is none.
    """

    def decorate(test: Callable) -> Callable:
        inner = test.hypothesis.inner_test

        @functools.wraps(inner)
        def counted(*arguments: object, **named: object) -> None:
            count = COUNTS[what]
            try:
                inner(*arguments, **named)
            except (StopTest, UnsatisfiedAssumption):
                raise
            except BaseException:
                count.tried += 1
                raise
            count.tried += 1
            count.survived += 1

        test.hypothesis.inner_test = counted
        return settings(max_examples=long if LONG else short)(test)

    return decorate


def ours(call: Callable[[], T]) -> T | HarnessError:
    """What the call returns, or the error that tells a user what is wrong. Anything else that it raises is a bug."""
    try:
        return call()
    except HarnessError as error:
        if not str(error).strip():
            raise AssertionError(f"{type(error).__name__} says nothing") from None
        return error
