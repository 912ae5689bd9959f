"""Carries all checks out in a worker process, with a time limit for each of them and for all together.

A check that hangs or kills its process fails alone: the worker is killed, and the next check gets a new one.
"""

import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from harness.checks.doctor.words import in_brief, private
from harness.checks.finding import FAILURE, OK, WARNING, Finding, failure, warning

LIMIT_SECONDS = 55.0  # all checks together take no longer
SCHEMA_VERSION = 2
SLOW = "Repeat it when the machine is less busy; if that does not help, this part hangs."


class Check(NamedTuple):
    """One question about the machine. `ask` may raise anything, hang, or kill its process."""

    theme: str
    name: str
    ask: Callable[[], Finding]
    limit_seconds: float = 30.0


def examine(
    checks: Sequence[Check], begins: Callable[[Check], None], *, limit_seconds: float = LIMIT_SECONDS
) -> dict[str, Any]:
    """The document of `harness doctor --json`: the finding of each check, and how many there are of each status.

    `begins` is called before each check. Never raises for what a check does.
    """
    started = time.monotonic()
    rows = []
    with Worker() as worker:
        for check in checks:
            left = started + limit_seconds - time.monotonic()
            if left > 0:
                begins(check)
                finding = worker.ask(check, min(check.limit_seconds, left))
            else:
                finding = warning(f"not looked at: all checks together took {limit_seconds:g} s", SLOW)
            texts = {"found": private(finding.found), "advice": private(finding.advice)}
            rows.append({"theme": check.theme, "name": check.name, "status": finding.status, **texts})
    counts: dict[str, Any] = {name: sum(row["status"] == name for row in rows) for name in (OK, WARNING, FAILURE)}
    seconds = round(time.monotonic() - started, 1)
    return {"schema_version": SCHEMA_VERSION, "checks": rows, "summary": counts | {"seconds": seconds}}


class Worker:
    """A process that carries checks out. It starts with the first check, and again after a check that ended it."""

    def __enter__(self) -> "Worker":
        self._folder = tempfile.TemporaryDirectory()
        self._errors = Path(self._folder.name) / "stderr"
        self._pool: ProcessPoolExecutor | None = None
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._folder.cleanup()

    def ask(self, check: Check, seconds: float) -> Finding:
        """The check's finding, or why there is none after so many seconds."""
        if self._pool is None:
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, spawn, initializer=_prepare, initargs=(str(self._errors),))
            self._pid = self._pool.submit(os.getpid).result()
        try:
            return self._pool.submit(answer, check).result(seconds)
        except TimeoutError:
            finding = warning(f"not finished within {seconds:.2g} s", SLOW)
        except BrokenProcessPool:
            lines = self._errors.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((f": {line.strip()[:200]}" for line in reversed(lines) if line.strip()), "")
            finding = failure(
                f"it ended the process that tried it{last}",
                "Reinstall that library. If nobody sent a signal, a compiled part of it is broken or memory ran out.",
            )
        self._stop()
        return finding

    def _stop(self) -> None:
        if self._pool is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)  # all processes that a check started end too
            self._pool.shutdown()
            self._pool = None


def _prepare(errors: str) -> None:
    """Make this process the leader of a group. What libraries print in it goes to the file `errors`."""
    os.setsid()
    with open(errors, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["HF_HUB_OFFLINE"] = "1"


def answer(check: Check) -> Finding:
    """The check's finding, or a failure that names what it raised."""
    try:
        return check.ask()
    except (Exception, SystemExit) as error:  # a library may raise anything when it is imported
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] != "harness"
        advice = "Install what is missing: pip install dit-harness, or -e . in its checkout."
        return failure(
            in_brief(error), advice if missing else "Act on the message; see also the findings before this one."
        )
