"""Arguments and options that several commands declare alike, and what parses them."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from harness.cli.app import completion
from harness.system.errors import UsageError

EXECUTION = "Execution"  # heading of the options that change how a command is carried out
Precision = Literal["fp32", "tf32", "bf16"]
CompileMode = Literal["on", "off", "auto"]
Pipeline = Literal["cached", "online-vae"]
PRECISIONS, COMPILE, PIPELINES = map(get_args, (Precision, CompileMode, Pipeline))
RUNS = Path("runs")
LATEST = Path("reports/latest")


def option(
    help: str,
    value: str | None = None,
    name: str | None = None,
    *,
    panel: str | None = None,
    complete: Callable[..., Any] | None = None,
    parser: Callable[[str], Any] | None = None,
    min: float | None = None,
    max: float | None = None,
) -> Any:
    """typer.Option in few words: its help, what follows it like "N", and its name where the parameter's is another.

    Give a switch a `name`, or Typer adds its opposite.
    """
    return typer.Option(
        *([name] if name else []), help=help, metavar=value, rich_help_panel=panel, autocompletion=complete,
        parser=parser, min=min, max=max,
    )  # fmt: skip


def argument(help: str, value: str, complete: Callable[..., Any] | None = None) -> Any:
    """typer.Argument in few words: its help, its name in the help text, and what completes it."""
    return typer.Argument(metavar=value, help=help, autocompletion=complete)


def count(text: str) -> int:
    """Parses an option like --steps 400k."""
    from harness.recipes.config import parse_count

    try:
        return parse_count(text)
    except UsageError as error:
        raise typer.BadParameter(str(error).removeprefix("steps ")) from None


def listed(text: str) -> list[str]:
    """The parts of an option like --precision bf16,fp32."""
    return [part.strip() for part in text.split(",") if part.strip()]


def seed_list(text: str) -> list[int]:
    """The seeds of --seeds 0,1,2. Raises UsageError."""
    try:
        chosen = [int(part) for part in listed(text)]
    except ValueError:
        chosen = []
    if not chosen or min(chosen) < 0 or len(set(chosen)) < len(chosen):
        raise UsageError(f"--seeds is {text!r}; it must be whole numbers, each once, like 0,1,2.")
    return chosen


Json = Annotated[bool, option("Print one JSON document instead of text.", name="--json")]
Roots = Annotated[list[Path] | None, argument("Run folders, or folders of them. Default: runs/", "RUNS")]
Assignments = Annotated[
    list[str] | None, option("Change one setting; repeatable.", "KEY=VALUE", "--set", complete=completion.assignments)
]
Below = Annotated[Path, option("The folder of runs that names are looked up in.", "DIR", "--runs")]
RunName = Annotated[
    str, argument("A run's folder, or a part of its name that no other run has.", "RUN", completion.run_names)
]
RunsOut = Annotated[Path, option("Where run folders go.", "DIR")]
RecipeName = Annotated[str, argument("Which recipe; harness recipes list names them.", "RECIPE", completion.recipes)]
NumSteps = Annotated[int | None, option("Training steps: 250, 400k, 1.5M.", "N", parser=count)]
