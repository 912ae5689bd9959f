"""Carries all checks out, one after the other: a check that raises fails alone."""

import contextlib
import faulthandler
import io
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from harness.checks.doctor.words import in_brief, private
from harness.checks.finding import FAILURE, OK, WARNING, Finding, failure, warning

LIMIT_SECONDS = 55.0  # no check begins later
SCHEMA_VERSION = 2
SLOW = "Repeat it when the machine is less busy; if that does not help, the check before this one hangs."


class Check(NamedTuple):
    """One question about the machine. `ask` may raise anything."""

    theme: str
    name: str
    ask: Callable[[], Finding]


def examine(
    checks: Sequence[Check], begins: Callable[[Check], None], *, limit_seconds: float = LIMIT_SECONDS
) -> dict[str, Any]:
    """The document of `harness doctor --json`: the finding of each check, and how many there are of each status.

    `begins` is called before each check. Never raises for what a check raises, and shows nothing that a library prints.
    A check that kills the process shows where it was.
    """
    started, rows = time.monotonic(), []
    faulthandler.enable(sys.__stderr__ or 2)
    for check in checks:
        if time.monotonic() - started < limit_seconds:
            begins(check)
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                finding = answer(check)
        else:
            finding = warning(f"not looked at: the checks before it took {limit_seconds:g} s", SLOW)
        texts = {"found": private(finding.found), "advice": private(finding.advice)}
        rows.append({"theme": check.theme, "name": check.name, "status": finding.status, **texts})
    counts: dict[str, Any] = {name: sum(row["status"] == name for row in rows) for name in (OK, WARNING, FAILURE)}
    seconds = round(time.monotonic() - started, 1)
    return {"schema_version": SCHEMA_VERSION, "checks": rows, "summary": counts | {"seconds": seconds}}


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
