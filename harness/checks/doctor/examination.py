"""The whole examination: a worker carries the checks out, is replaced when it dies or hangs, and all of it is timed."""

import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO, NamedTuple

from harness.checks.doctor.checks import ENVIRONMENT, THEMES
from harness.checks.doctor.environment import terminal, variables
from harness.checks.doctor.finding import Check, Finding, private, warning
from harness.checks.doctor.worker import answer

LIMIT_SECONDS = 55.0  # of all checks together
SCHEMA_VERSION = 1
SLOW = "Repeat it when the machine has less to do; if it lasts, that part hangs."


class Told(NamedTuple):
    """A finding under its theme."""

    theme: str
    finding: Finding


def examine(
    nproc: int,
    asks: Callable[[Check], None],
    *,
    also: Sequence[Check] = (),
    module: str = "harness.checks.doctor.checks",
    limit_seconds: float = LIMIT_SECONDS,
) -> list[Told]:
    """The findings of all checks, theme by theme. `asks` is told of each before it is carried out.

    `also` are quick checks that only this process can carry out; `module` has the others. Never raises for what a check
    does: one that crashes, kills its process or takes too long is a finding.
    """
    todo: list[Check] = importlib.import_module(module).checks(nproc)
    own = [Check(ENVIRONMENT, "variables", variables), Check(ENVIRONMENT, "text", terminal), *also]
    told = [Told(check.theme, finding) for check in own for finding in answer(check)]
    deadline, number = time.monotonic() + limit_seconds, 0
    while number < len(todo):
        if time.monotonic() > deadline:
            names = ", ".join(dict.fromkeys(check.name for check in todo[number:]))
            told.append(Told(THEMES[-1], warning("time", f"after {limit_seconds:.0f} s not looked at: {names}", SLOW)))
            break
        with _Worker(module, number, nproc) as worker:
            number = _until_it_ends(worker, number, todo, told, deadline, asks)
    return sorted(told, key=lambda each: THEMES.index(each.theme))


def _until_it_ends(
    worker: "_Worker",
    number: int,
    todo: list[Check],
    told: list[Told],
    deadline: float,
    asks: Callable[[Check], None],
) -> int:
    """Note what the worker finds from check `number` on, until one ends it; returns the number of the next to do."""
    limit = deadline  # the start of Python is not the first check's
    while True:
        try:
            line = worker.line(limit - time.monotonic())
        except queue.Empty:
            told.append(Told(todo[number].theme, _too_slow(todo[number], over=limit == deadline)))
            return number + 1
        if line is None:
            return _after_the_last(number, todo, told, worker)
        document = json.loads(line)
        if "finding" in document:
            told.append(Told(todo[number].theme, Finding(**document["finding"])))
            continue
        number = document["begins"]
        asks(todo[number])
        limit = min(time.monotonic() + todo[number].limit_seconds, deadline)


def _after_the_last(number: int, todo: list[Check], told: list[Told], worker: "_Worker") -> int:
    """The worker has ended: after the last check, or by the one it was at."""
    code = worker.code()
    if code == 0:
        return len(todo)
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    words = worker.last_words()
    found = f"the process that tried it {how}" + (f": {words}" if words else "")
    mend = "Install that library anew; if nobody sent the signal, a compiled part of it is broken or memory ran out."
    told.append(Told(todo[number].theme, Finding(todo[number].name, "failure", private(found), mend)))
    return number + 1


def _too_slow(check: Check, *, over: bool) -> Finding:
    limit = "the time of the whole examination" if over else f"{check.limit_seconds:g} s"
    return warning(check.name, f"not finished within {limit}", SLOW)


class _Worker:
    """A process of doctor.worker, whose lines come with a limit of time, and which ends with the block."""

    def __init__(self, module: str, first: int, nproc: int):
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed in __exit__)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "harness.checks.doctor.worker", module, str(first), str(nproc)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"},
            start_new_session=True,  # so that what it starts ends with it
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.decode())
        self._lines.put(None)

    def line(self, seconds: float) -> str | None:
        """The next line, None after the last. Raises queue.Empty after so many seconds."""
        return self._lines.get(timeout=max(seconds, 0.0))

    def code(self) -> int:
        return self._process.wait()

    def last_words(self) -> str:
        """The last line that it left on stderr."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()


def as_json(told: list[Told], seconds: float) -> dict:
    """The document of `harness doctor --json`."""
    found = [finding for _, finding in told]
    return {
        "schema_version": SCHEMA_VERSION,
        "checks": [{"theme": theme, **finding.as_json()} for theme, finding in told],
        "summary": {
            **{status: sum(f.status == status for f in found) for status in ("ok", "warning", "failure")},
            "seconds": round(seconds, 1),
        },
    }
