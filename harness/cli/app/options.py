"""Options whose values are a few names."""

from collections.abc import Sequence
from typing import Any

import typer

from harness.cli.app import completion

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
