"""The face: commands that parse, call and print, nothing else.

stdout carries the answer, stderr the progress. Heavy imports wait until a command needs them, so that --help is quick.
"""

import sys
from typing import Annotated

import typer

import harness
from harness.cli import answer, bench, images, results, run, sweep
from harness.cli.data import data_app
from harness.cli.published import published_app
from harness.cli.recipes import recipes_app
from harness.cli.runs import runs_app

EXIT_CODES = """Exit codes: 0 ok, 1 internal error, 2 usage, 3 environment, 4 data, reference, checkpoint or disk bad,
5 training diverged, 6 outside tolerance, 75 preempted (repeat the command to continue), 130 interrupted (likewise)."""

app = typer.Typer(
    help="Train, measure and compare training-efficient diffusion transformers, beside what their papers published.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"harness {harness.__version__}")
        raise typer.Exit


@app.callback()
def settings(
    debug: Annotated[bool, typer.Option(help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    answer.settings["debug"] = debug


run.add_to(app)
sweep.add_to(app)
images.add_to(app)
results.add_to(app)
bench.add_to(app)
app.add_typer(data_app, name="data")
app.add_typer(recipes_app, name="recipes")
app.add_typer(runs_app, name="runs")
app.add_typer(published_app, name="published")
