"""The command that examines this machine and installation: doctor."""

import sys
import textwrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.app import defaults
from harness.cli.app.answer import note, show
from harness.cli.app.help_text import coloured
from harness.cli.app.layout import GAP, shown, width
from harness.cli.app.options import Json
from harness.system.errors import SetupError

if TYPE_CHECKING:
    from harness.checks.doctor.examination import Check

COLOURS = {"ok": "32", "warning": "33", "failure": "31"}
STATUS_WIDTH = len("warning")
NARROWEST = 24  # columns that a finding's text has at least


def doctor(
    ctx: typer.Context,
    nproc: Annotated[int, typer.Option(min=2, metavar="N", help="Processes of the trial all-reduce.")] = 2,
    as_json: Json = False,
) -> None:
    """Examine this machine and installation: each line ok, warning or failure, with what to do. Exit 3 on a failure.

    Takes less than a minute, and touches neither the network nor any run.

    Examples: harness doctor · harness doctor --json · harness doctor --nproc 8
    """
    from harness.checks.doctor.checks import checks
    from harness.checks.doctor.examination import examine

    themes: list[str] = []

    def begins(check: "Check") -> None:
        if check.theme not in themes:
            themes.append(check.theme)
            note(f"doctor: looking at {check.theme}")

    document = examine(checks(nproc, defaults.known(ctx.find_root().command)), begins)
    show(document, as_json, lambda answer: ["\n".join(lines(answer, colour=coloured(sys.stdout)))])  # one fitted text
    if document["summary"]["failure"]:
        raise typer.Exit(SetupError.exit_code)


def lines(document: dict[str, Any], *, colour: bool) -> list[str]:
    """The findings by theme, each with its advice below it, then how many there are of each status."""
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
    advice = _folded(check["advice"], f"{indent}{GAP}", f"{indent}{GAP}") if check["advice"] else []
    status = f"{check['status']:<{STATUS_WIDTH}}"
    return [f"  {_coloured(status, check['status'], colour)}{text[0][2 + STATUS_WIDTH :]}", *text[1:], *advice]


def _folded(text: str, first: str, rest: str) -> list[str]:
    """Lines that fit the terminal. A path, an address or a hash that alone is longer stays whole."""
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
