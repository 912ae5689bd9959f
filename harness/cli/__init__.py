"""The command line: commands that parse, call and print, nothing else.

stdout carries the answer, stderr the progress. Heavy imports wait until a command needs them, so that --help is quick.
"""

from collections.abc import Callable, Mapping
from typing import Annotated

import typer

from harness.cli import audit, bench, config, doctor, export, images, power, reproduce, results, run, sweep
from harness.cli.app.answer import AGAIN, CONTINUES, CONTINUES_IT
from harness.cli.app.application import App, with_switches
from harness.cli.data import data_app
from harness.cli.published import published_app
from harness.cli.recipes import recipes_app
from harness.cli.registrations import claims_app
from harness.cli.runs import runs_app

EXIT_CODES = (
    "Exit codes: 0 ok, 1 internal error, 2 usage, 3 environment, 4 data, reference, checkpoint or disk bad, 5 training "
    "diverged, 6 outside tolerance, 75 preempted (repeat the command to continue), 130 interrupted (likewise)."
)

app = App(
    help="Train, measure and compare training-efficient diffusion transformers, beside what their papers published.",
    epilog=EXIT_CODES,
)


def _version(asked: bool) -> None:
    if asked:
        from harness.cli import version

        print(version.text())
        raise typer.Exit


def settings(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the versions of it, Python and torch."),
    ] = False,
) -> None:
    """Nothing: --version ends the program, and the switches set `state`."""


app.callback()(with_switches(settings))


WHEN_STOPPED: Mapping[Callable[..., None], str] = {
    run.run: CONTINUES,
    reproduce.reproduce: CONTINUES,
    sweep.sweep: CONTINUES_IT,
    results.demo: CONTINUES_IT,
    bench.bench: bench.STARTS_OVER,
}
for command in (
    run.run, run.import_checkpoint, sweep.sweep, images.sample, images.evaluate, export.export, results.compare,
    results.report, results.demo, power.power, audit.audit, reproduce.reproduce, bench.bench, doctor.doctor,
):  # fmt: skip
    app.command(when_stopped=WHEN_STOPPED.get(command, AGAIN))(command)
app.add_typer(data_app, name="data")
app.add_typer(recipes_app, name="recipes")
app.add_typer(runs_app, name="runs")
app.add_typer(published_app, name="published")
app.add_typer(claims_app, name="claims")
app.add_typer(config.config_app, name="config")
