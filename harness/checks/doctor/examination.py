"""Carries all checks out in a worker process, with a time limit for each of them and for all together.

A check that hangs or kills its process fails alone: the worker is killed, and the next check gets a new one.
"""

import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from harness.checks.doctor.words import in_brief, private
from harness.checks.finding import FAILURE, OK, WARNING, Finding, failure, warning

LIMIT_SECONDS = 55.0  # of all checks together
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
            status, found, advice = finding
            rows.append(
                {
                    "theme": check.theme,
                    "name": check.name,
                    "status": status,
                    "found": private(found),
                    "advice": private(advice),
                }
            )
    counts: dict[str, Any] = {name: sum(row["status"] == name for row in rows) for name in (OK, WARNING, FAILURE)}
    seconds = round(time.monotonic() - started, 1)
    return {"schema_version": SCHEMA_VERSION, "checks": rows, "summary": counts | {"seconds": seconds}}


class Worker:
    """A process that carries checks out. It starts with the first check, and again after a check that ended it."""

    def __enter__(self) -> "Worker":
        self._folder = tempfile.TemporaryDirectory()
        self._errors = Path(self._folder.name) / "stderr"
        self._process: Any = None
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._folder.cleanup()

    def ask(self, check: Check, seconds: float) -> Finding:
        """The check's finding, or why there is none after so many seconds."""
        if self._process is None:
            self._start()
        try:
            self._pipe.send(check)
            if self._pipe.poll(seconds):
                return self._pipe.recv()
            finding = warning(f"not finished within {seconds:.2g} s", SLOW)
        except (EOFError, OSError):
            finding = self._died()
        self._stop()
        return finding

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, str(self._errors)))
        self._process.start()
        theirs.close()

    def _died(self) -> Finding:
        self._process.join()
        code = self._process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        lines = self._errors.read_text(encoding="utf-8", errors="replace").split("\n") if self._errors.exists() else []
        last = next((f": {line.strip()[:200]}" for line in reversed(lines) if line.strip()), "")
        return failure(
            f"the process that tried it {how}{last}",
            "Reinstall that library. If nobody sent the signal, a compiled part of it is broken or memory ran out.",
        )

    def _stop(self) -> None:
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # with all processes that a check started
        self._process.kill()  # if it was not yet the leader of its group
        self._process.join()
        self._process.close()
        self._pipe.close()
        self._process = None


def _serve(pipe: Connection, errors: str) -> None:
    """Carry out each check that comes through the pipe. What libraries print goes to the file `errors`."""
    os.setsid()
    with open(errors, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["HF_HUB_OFFLINE"] = "1"
    while True:
        try:
            check = pipe.recv()
        except EOFError:
            return
        pipe.send(answer(check))


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
