"""Checks that do to their process what a broken installation may do."""

import os
import signal
import sys
import time

from harness.checks.finding import Finding, ok


def fine(word: str = "as it should be") -> Finding:
    print("words of a library")
    return ok(word)


def raises() -> Finding:
    raise RuntimeError("the second half\nfailed")


def leaves() -> Finding:
    raise SystemExit("a library called exit")


def lacks() -> Finding:
    import no_such_package  # noqa: F401

    return ok("it is there")


def dies() -> Finding:
    print("terminate called after throwing", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
    return ok("it did not")


def sleeps() -> Finding:
    time.sleep(600)
    return ok("it did not")
