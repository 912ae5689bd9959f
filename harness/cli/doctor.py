"""The command that examines this machine and installation: doctor."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.app import defaults
from harness.cli.app.answer import note, show
from harness.cli.app.layout import columns_by_row
from harness.cli.app.options import Json, option
from harness.cli.app.state import state
from harness.system.errors import SetupError

if TYPE_CHECKING:
    from harness.checks.doctor.examination import Check


def doctor(
    ctx: typer.Context,
    nproc: Annotated[int, option("Processes of the trial all-reduce.", "N", min=2)] = 2,
    as_json: Json = False,
) -> None:
    """Examine this machine and installation: each line ok, warning or failure, with what to do. Exit 3 on a failure.

    Takes less than a minute, and touches neither the network nor any run.

    Examples: harness doctor · harness doctor --json · harness doctor --nproc 8
    """
    state.set_variable("HF_HUB_OFFLINE", "1")  # before a library reads it
    from harness.checks.doctor.checks import checks
    from harness.checks.doctor.examination import examine

    themes: list[str] = []

    def begins(check: "Check") -> None:
        if check.theme not in themes:
            themes.append(check.theme)
            note(f"doctor: looking at {check.theme}")

    document = examine(checks(nproc, defaults.known(ctx.find_root().command)), begins)
    show(document, as_json, lines)
    if document["summary"]["failure"]:
        raise typer.Exit(SetupError.exit_code)


def lines(document: dict[str, Any]) -> Iterator[str]:
    """The findings by theme, each with its advice below it, then how many there are of each status."""
    checks = document["checks"]
    rows = columns_by_row([[check["status"], check["name"], check["found"]] for check in checks], indent="  ")
    theme = ""
    for check, row in zip(checks, rows, strict=True):
        if check["theme"] != theme:
            yield from ["", check["theme"]] if theme else [check["theme"]]
            theme = check["theme"]
        yield from row
        if check["advice"]:
            yield f"    {check['advice']}"
    summary = dict(document["summary"])
    seconds = summary.pop("seconds")
    counts = [f"{n} {status}{'' if status == 'ok' or n == 1 else 's'}" for status, n in summary.items()]
    yield from ["", f"{', '.join(counts)}, in {seconds:.0f} s"]
