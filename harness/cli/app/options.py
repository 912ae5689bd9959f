"""Arguments and options that several commands declare alike, and what parses them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.app import completion
from harness.system.errors import UsageError

PRECISIONS = ("fp32", "tf32", "bf16")
COMPILE = ("on", "off", "auto")
PIPELINES = ("cached", "online-vae")


def choice(
    choices: Sequence[str],
    *,
    help: str,
    name: str | None = None,
    metavar: str | None = None,
    panel: str | None = None,
    listed: bool = False,
    parser: Any = None,
) -> Any:
    """An option that completes to one of `choices`, or where `listed` to a list of them, like bf16,fp32."""
    return typer.Option(
        *([name] if name else []),
        metavar=metavar or ("LIST" if listed else "NAME"),
        help=help,
        autocompletion=(completion.listed_among if listed else completion.among)(*choices),
        rich_help_panel=panel,
        parser=parser,
    )


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


def compile_modes(text: str) -> str:
    """Parses an option like --compile auto, or a list of them."""
    for mode in listed(text):
        if mode not in ("on", "off", "auto"):
            raise typer.BadParameter(f"--compile is {mode!r}; it must be on, off or auto.")
    return text


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Roots = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="RUNS", help="Run folders, or folders of them. Default: runs/", autocompletion=completion.run_folders
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one setting; repeatable.", autocompletion=completion.assignments
    ),
]
RUNS = Path("runs")
Below = Annotated[Path, typer.Option("--runs", metavar="DIR", help="The folder of runs that names are looked up in.")]
RunName = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run's folder, or a part of its name that no other run has.",
        autocompletion=completion.run_names,
    ),
]
RunsOut = Annotated[Path, typer.Option(metavar="DIR", help="Where run folders go.")]
RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="Which recipe; harness recipes list names them.", autocompletion=completion.recipes
    ),
]
