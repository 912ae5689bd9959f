"""Checks that do to their process what a broken installation may, for tests of who survives it."""

import os
import signal
import time
from collections.abc import Iterator

from harness.checks.doctor.checks import ENVIRONMENT, MACHINE
from harness.checks.doctor.finding import Check, Finding, ok


def fine() -> Finding:
    print('{"begins": 5}')  # a library's own words, which look like an answer
    return ok("fine", "as it should be")


def raises_late() -> Iterator[Finding]:
    yield ok("first half", "done")
    raise RuntimeError("the second half\nfailed")


def leaves() -> Finding:
    raise SystemExit("a library called exit")


def dies() -> Finding:
    os.write(2, b"terminate called after throwing\n")
    os.kill(os.getpid(), signal.SIGSEGV)
    return ok("dies", "it did not")


def sleeps() -> Finding:
    time.sleep(600)
    return ok("sleeps", "it did not")


def checks(nproc: int) -> list[Check]:
    return [
        Check(ENVIRONMENT, "fine", fine),
        Check(MACHINE, "raises late", raises_late),
        Check(ENVIRONMENT, "leaves", leaves),
        Check(MACHINE, "dies", dies),
        Check(ENVIRONMENT, "sleeps", sleeps, 0.5),
        Check(MACHINE, "last", lambda: ok("last", f"of {nproc}")),
    ]
