"""Commands that read finished runs: compare, report, published, and the demo that makes its own."""

import json
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.answer import Assignments, Json, Roots, answers, count, show

published_app = typer.Typer(help="Look up published numbers.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Put these commands into the command line, in the order a user meets them."""
    app.command(epilog="Examples: harness compare · harness compare runs/ reports/demo/runs --figure 3 --out figures")(
        compare
    )
    app.command(epilog="Example: harness report runs/ --out reports/mine")(report)
    app.command(epilog="Example: harness demo")(demo)


@answers
def compare(
    runs: Roots = None,
    figure: Annotated[str, typer.Option(help="Which figure of the paper, or all.")] = "all",
    out: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("reports/latest"),
    as_json: Json = False,
) -> None:
    """Draw the paper's figures with the published points beside the measured ones: PNG, SVG and the CSV behind each."""
    from harness.results import compare, figures

    comparison = compare.compare(runs or [Path("runs")], figure)
    files = figures.write(comparison, out)
    show({**comparison.as_json(), "files": [str(f) for f in files]}, as_json, lambda document: document["files"])


@answers
def report(
    runs: Roots = None,
    out: Annotated[Path, typer.Option(help="Where report.md and its figures go.")] = Path("reports/latest"),
    as_json: Json = False,
) -> None:
    """Write the tables, paper against measured, with the environment and every deviation, as one Markdown file."""
    from harness.results import report

    show({"files": [str(report.write(runs or [Path("runs")], out))]}, as_json, lambda document: document["files"])


@answers
def demo(
    out: Annotated[Path, typer.Option(help="Where the figures, the report and the records go.")] = Path("reports/demo"),
    runs: Annotated[Path, typer.Option(help="Where run folders go.")] = Path("runs"),
    steps: Annotated[int | None, typer.Option(parser=count, metavar="N", help="Fewer steps than the recipes'.")] = None,
    set_: Assignments = None,
    as_json: Json = False,
) -> None:
    """Train the four tiny recipes on real digits, evaluate them, and draw and tabulate them. A few minutes on a CPU."""
    from harness import demo

    arguments = [part for assignment in set_ or [] for part in ("--set", assignment)]
    arguments += ["--steps", str(steps)] if steps is not None else []
    files = demo.run(out, runs, arguments)
    show({"files": [str(f) for f in files]}, as_json, lambda document: document["files"])


@published_app.command("list")
@answers
def published_list(as_json: Json = False) -> None:
    """List every published number the harness carries, with its source."""
    from harness.results import published

    rows = published.rows()
    document = {"published": json.loads(rows.to_json(orient="records"))}
    show(document, as_json, lambda _: [rows.to_csv(index=False).rstrip()])
