"""The command that examines this machine and installation: doctor."""

import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.app import defaults
from harness.cli.app.answer import Json, answers, live, note, show
from harness.cli.app.help_text import coloured
from harness.cli.app.layout import GAP, shown, width
from harness.cli.app.state import state
from harness.system.errors import SetupError

if TYPE_CHECKING:
    from harness.checks.doctor.finding import Check

COLOURS = {"ok": "32", "warning": "33", "failure": "31"}
STATUS_WIDTH = len("warning")
CLEARED = "\r\x1b[K"  # the line that the cursor is in
NARROWEST = 24  # columns that a finding's text has at least


def add_to(app: typer.Typer) -> None:
    """Put this command into the command line."""
    app.command(epilog="Examples: harness doctor · harness doctor --json · harness doctor --nproc 8")(doctor)


@answers
def doctor(
    ctx: typer.Context,
    nproc: Annotated[int, typer.Option(min=2, metavar="N", help="Processes of the trial all-reduce.")] = 2,
    as_json: Json = False,
) -> None:
    """Examine this machine and installation: each line ok, warning or failure, with what mends it. Exit 3 on a failure.

    Takes less than a minute, and touches neither the network nor any run.
    """
    from harness.checks.doctor import environment, examination
    from harness.checks.doctor.checks import ENVIRONMENT
    from harness.checks.doctor.finding import Check

    known = defaults.known(ctx.find_root().command)
    settings = Check(ENVIRONMENT, "settings", lambda: environment.configuration(known))
    started = time.monotonic()
    with _watched() as asks:
        told = examination.examine(nproc, asks, also=[settings])
    document = examination.as_json(told, time.monotonic() - started)
    show(document, as_json, lambda answer: ["\n".join(lines(answer, colour=coloured(sys.stdout)))])  # one fitted text
    if document["summary"]["failure"]:
        raise typer.Exit(SetupError.exit_code)


@contextmanager
def _watched() -> Iterator[Callable[["Check"], None]]:
    """To be told of each check before it is carried out. Shows one line that changes, or off a terminal one a theme."""
    drawn, themes = live() and not state.quiet, [""]

    def asks(check: "Check") -> None:
        if drawn:
            text = f"looking at {check.theme}: {check.name}"
            print(f"{CLEARED}{text[: width() - 1]}", end="", file=sys.stderr, flush=True)
        elif check.theme != themes[-1]:
            note(f"doctor: looking at {check.theme}")
        themes.append(check.theme)

    try:
        yield asks
    finally:
        if drawn:
            print(CLEARED, end="", file=sys.stderr, flush=True)


def lines(document: dict[str, Any], *, colour: bool) -> list[str]:
    """The findings by theme, each with its mend below it, then how many there are of each kind."""
    checks = document["checks"]
    longest = max(len(check["name"]) for check in checks)
    printed: list[str] = []
    for theme in dict.fromkeys(check["theme"] for check in checks):
        printed.append(theme)
        for check in checks:
            if check["theme"] == theme:
                printed += _finding(check, longest, colour)
        printed.append("")
    return [*printed, _summary(document["summary"], colour)]


def _finding(check: dict[str, str], longest: int, colour: bool) -> list[str]:
    indent = " " * (2 + STATUS_WIDTH + len(GAP))
    head = f"{check['name']:<{longest}}{GAP}"
    text = _folded(check["found"], f"{indent}{head}", indent + " " * len(head))
    mend = _folded(check["mend"], f"{indent}{GAP}", f"{indent}{GAP}") if check["mend"] else []
    status = f"{check['status']:<{STATUS_WIDTH}}"
    return [f"  {_coloured(status, check['status'], colour)}{text[0][2 + STATUS_WIDTH :]}", *text[1:], *mend]


def _folded(text: str, first: str, rest: str) -> list[str]:
    """Lines that fit the terminal, but for a path, an address or a hash that alone is longer: it must stay whole."""
    room = max(width(), len(rest) + NARROWEST)
    return textwrap.wrap(
        shown(text), room, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    ) or [first.rstrip()]


def _summary(summary: dict[str, Any], colour: bool) -> str:
    counts = []
    for status in COLOURS:
        number = summary[status]
        plural = "" if status == "ok" or number == 1 else "s"
        counts.append(_coloured(f"{number} {status}{plural}", status if number else "", colour))
    return f"{', '.join(counts)}, in {summary['seconds']:.0f} s"


def _coloured(text: str, status: str, colour: bool) -> str:
    return f"\x1b[{COLOURS[status]}m{text}\x1b[0m" if colour and status in COLOURS else text
