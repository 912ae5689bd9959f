"""Commands that read finished runs: compare, report, and the demo that makes its own."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.app import completion, defaults
from harness.cli.app.answer import show
from harness.cli.app.options import RUNS, Assignments, Json, Roots, RunsOut, choice, count, listed
from harness.cli.app.state import state
from harness.system.errors import OutOfTolerance, UsageError


def compare(
    runs: Roots = None,
    figure: Annotated[
        str,
        choice(completion.FIGURES, help="3, 4, 5, 6 or 7 of the paper; losses, memory or cost; or all of them."),
    ] = "all",
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the figures go.")] = Path("reports/latest"),
    as_json: Json = False,
) -> None:
    """Draw the paper's figures with the published points beside the measured ones: PNG, SVG and the CSV behind each.

    Examples: harness compare · harness compare --figure 3 --out figures · harness compare runs/ reports/demo/runs
    --figure losses
    """
    import harness

    show(harness.compare(runs or "runs", figure, out=out), as_json, lambda document: document["files"])


def report(
    runs: Roots = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where report, figures and tables go.")] = Path(
        "reports/latest"
    ),
    format: Annotated[
        str,
        choice(("md", "html"), listed=True, help="md, html, or both: md,html."),
    ] = "md,html",
    records: Annotated[
        bool, typer.Option("--records", help="Also copy the runs' small records there, so that anyone can redraw it.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="End with 6 where a number or verdict lies outside its tolerance.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(metavar="CLAIMS.json", help="With --check: an earlier report's verdicts to agree with."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write which of the paper's claims hold, its figures and tables beside what was measured: Markdown and a page.

    Examples: harness report · harness report runs/ --out reports/mine --records · harness report --check --against
    reports/tiny/claims.json
    """
    if against is not None and not check:
        raise UsageError("--against says what to check against: add --check.")
    import harness
    from harness.reporting.report import earlier_claims, outside_tolerance

    earlier = earlier_claims(against) if against is not None else []  # a wrong file is refused before the work
    written = harness.report(runs or "runs", out=out, formats=listed(format), records=records)
    failed = outside_tolerance(written, earlier) if check else []
    document = {
        "files": [str(file) for file in written.files],
        "verdicts": written.tally,
        "outside_tolerance": failed,
    }
    said = [f"{', '.join(f'{count} {verdict}' for verdict, count in written.tally.items())}."]
    said += ["check passed."] if check and not failed else []
    show(document, as_json, lambda answer: [*answer["files"], "", *said])
    if failed:
        raise OutOfTolerance(f"{len(failed)} outside tolerance: {' '.join(failed)}")


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the figures, the report and the records go.")] = (
        Path("reports/demo")
    ),
    runs: RunsOut = RUNS,
    steps: Annotated[int | None, typer.Option(parser=count, metavar="N", help="Fewer steps than the recipes'.")] = None,
    set_: Assignments = None,
    as_json: Json = False,
) -> None:
    """Train the four tiny recipes on real digits, evaluate them, and draw and tabulate them. A few minutes on a CPU.

    Examples: harness demo · harness demo --steps 200 --out reports/quick --runs runs/quick
    """
    from harness.cli import demo_report as demo

    arguments = [part for assignment in set_ or [] for part in ("--set", assignment)]
    arguments += ["--steps", str(steps)] if steps is not None else []
    arguments += ["--quiet"] if state.quiet else []
    with defaults.told_everything():
        files = demo.run(out, runs, arguments)
    show({"files": [str(f) for f in files]}, as_json, lambda document: document["files"])
