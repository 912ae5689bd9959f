"""The face: commands that parse, call and print, nothing else.

stdout carries the answer, stderr the progress. Heavy imports wait until a command needs them, so that --help is quick.
"""

import functools
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

import harness
from harness.errors import DataError, HarnessError, Interrupted, UsageError

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
recipes_app = typer.Typer(help="Look up recipes.", no_args_is_help=True)
published_app = typer.Typer(help="Look up published numbers.", no_args_is_help=True)
app.add_typer(recipes_app, name="recipes")
app.add_typer(published_app, name="published")

_settings = {"debug": False}

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Roots = Annotated[
    list[Path] | None, typer.Argument(metavar="[RUNS]...", help="Run folders, or folders of them. Default: runs/")
]


def answers(command: Callable[..., None]) -> Callable[..., None]:
    """Ends a command with the exit code of its error and one line that says what, why and how to mend it."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        from harness.training.signals import preemption_raises

        try:
            with preemption_raises():
                command(*args, **kwargs)
        except HarnessError as error:
            _fail(str(error), error.exit_code)
        except KeyboardInterrupt:
            _fail("interrupted. The same command continues from the last checkpoint.", Interrupted.exit_code)
        except BrokenPipeError:
            # The reader of our output has gone. What Python still flushes at exit must not fail a second time.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except OSError as error:  # files are all this program opens: a disk that is full, read-only or gone
            mend = "Free some space or choose another folder with --out, then repeat the command."
            _fail(f"{error}. {mend}", DataError.exit_code)
        except Exception as error:
            hint = "" if _settings["debug"] else " This is a bug in the harness; --debug shows the traceback."
            _fail(f"{type(error).__name__}: {error}.{hint}", HarnessError.exit_code)

    return wrapped


def _fail(message: str, exit_code: int) -> None:
    if _settings["debug"]:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(exit_code)


def _steps(text: str) -> int:
    from harness.config import parse_count

    try:
        return parse_count(text)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from None


def _version(asked: bool) -> None:
    if asked:
        print(f"harness {harness.__version__}")
        raise typer.Exit


@app.callback()
def settings(
    debug: Annotated[bool, typer.Option(help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    _settings["debug"] = debug


@app.command(epilog="Examples: harness run sddit-tiny · harness run dit-tiny --steps 2k --set learning_rate=5e-4")
@answers
def run(
    recipe: Annotated[str | None, typer.Argument(help="Which recipe; harness recipes list names them.")] = None,
    steps: Annotated[
        int | None, typer.Option(parser=_steps, metavar="N", help="Training steps: 250, 400k, 1.5M.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Train on this data set instead of the recipe's.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of weights, data order and noise. Default: the recipe's, 0.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; repeatable.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Repeat the run of this config.yaml instead of a recipe.")] = None,
    out: Annotated[Path, typer.Option(help="Where run folders go.")] = Path("runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Resolve and count, do not train.")] = False,
    no_eval: Annotated[bool, typer.Option("--no-eval", help="Train only.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Start over, even if the run is finished.")] = False,
    as_json: Json = False,
) -> None:
    """Train a recipe, sample it and evaluate it. The same command again continues, or reports the finished run."""
    if (recipe is None) == (config is None):
        raise UsageError("name a recipe (harness recipes list shows them) or give --config, one of the two.")
    given = {"protocol.steps": steps, "protocol.data": data, "seed": seed}
    assignments = [*(set_ or []), *(f"{key}={value}" for key, value in given.items() if value is not None)]

    from harness import config as configuration

    if recipe:
        configuration.load_recipe(recipe)  # a wrong name is told before torch is imported

    from harness import experiment

    cfg = experiment.resolve(recipe or config, assignments)
    if dry_run:
        return _print(experiment.plan(cfg), as_json, _plan_lines)
    command = " ".join(["harness run", recipe or "--config config.yaml", *(f"--set {a}" for a in assignments)])
    progress = _progress(cfg.recipe)
    try:
        result = experiment.run(cfg, out, command=command, progress=progress, with_evaluation=not no_eval, force=force)
    finally:
        progress.close()
    _print(result.model_dump(mode="json"), as_json, _result_lines)


@app.command(epilog="Examples: harness compare · harness compare runs/ reports/demo/runs --figure 3 --out figures")
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
    _print({**comparison.as_json(), "files": [str(f) for f in files]}, as_json, lambda document: document["files"])


@app.command(epilog="Example: harness report runs/ --out reports/mine")
@answers
def report(
    runs: Roots = None,
    out: Annotated[Path, typer.Option(help="Where report.md and its figures go.")] = Path("reports/latest"),
    as_json: Json = False,
) -> None:
    """Write the tables, paper against measured, with the environment and every deviation, as one Markdown file."""
    from harness.results import report

    _print({"files": [str(report.write(runs or [Path("runs")], out))]}, as_json, lambda document: document["files"])


@app.command(epilog="Example: harness demo")
@answers
def demo(
    out: Annotated[Path, typer.Option(help="Where the figures, the report and the records go.")] = Path("reports/demo"),
    runs: Annotated[Path, typer.Option(help="Where run folders go.")] = Path("runs"),
    steps: Annotated[
        int | None, typer.Option(parser=_steps, metavar="N", help="Fewer steps than the recipes'.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="For every run; repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train the four tiny recipes on real digits, evaluate them, and draw and tabulate them. A few minutes on a CPU."""
    from harness import demo

    arguments = [part for assignment in set_ or [] for part in ("--set", assignment)]
    arguments += ["--steps", str(steps)] if steps is not None else []
    files = demo.run(out, runs, arguments)
    _print({"files": [str(f) for f in files]}, as_json, lambda document: document["files"])


@recipes_app.command("list")
@answers
def recipes_list(as_json: Json = False) -> None:
    """Name every recipe."""
    from harness.config import recipe_names

    _print({"recipes": recipe_names()}, as_json, lambda document: document["recipes"])


@published_app.command("list")
@answers
def published_list(as_json: Json = False) -> None:
    """List every published number the harness carries, with its source."""
    from harness.results import published

    rows = published.rows()
    document = {"published": json.loads(rows.to_json(orient="records"))}
    _print(document, as_json, lambda _: [rows.to_csv(index=False).rstrip()])


def _progress(label: str):
    from harness import progress

    return progress.BarProgress(label) if sys.stderr.isatty() else progress.PlainProgress(label)


def _print(document: dict[str, Any], as_json: bool, lines: Callable[[dict[str, Any]], list[str]]) -> None:
    print(json.dumps(document, indent=2) if as_json else "\n".join(lines(document)))


def _plan_lines(plan: dict[str, Any]) -> list[str]:
    import yaml

    return [*_cost_lines(plan), "", yaml.safe_dump(plan["config"], sort_keys=False).rstrip()]


def _cost_lines(result: dict[str, Any]) -> list[str]:
    return [
        f"{result['recipe']}, seed {result['seed']}, {result['steps']:,} steps, run {result['run_id']}",
        f"  parameters        {result['params'] / 1e6:.2f} M",
        f"  arithmetic/image  {result['gmacs_forward']:.4g} GMAC forward, {result['gmacs_step']:.4g} GMAC a step",
    ]


def _result_lines(result: dict[str, Any]) -> list[str]:
    speed, memory = result["steps_per_sec"], result["peak_memory_bytes"]
    lines = [
        *_cost_lines(result),
        "  speed             "
        + (f"{speed:.2f} steps/s over {result['timed_steps']:,} steps" if speed else "all warm-up"),
        f"  peak memory       {memory / 2**30:.2f} GiB ({result['peak_memory_kind']})",
        f"  time              {result['wall_seconds']:.0f} s",
    ]
    before = result["evaluations"].get("untrained", {}).get("metrics", {})
    for name, value in result["evaluations"].get("final", {}).get("metrics", {}).items():
        lines.append(f"  {name:<24}{value:>10.4f}   untrained {before[name]:.4f}")
    return lines
