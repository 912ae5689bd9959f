"""Names that Typer's shell completion offers: recipes, runs, settings and choices. Nothing here imports torch.

Where nothing is offered, the shell offers files. A completion that fails offers nothing and prints nothing.
"""

import functools
import os
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import typer

from harness.data import names

# What a module that imports matplotlib knows; tests/cli/test_completion.py compares.
FIGURES = ("3", "4", "5", "6", "7", "losses", "memory", "cost", "held-out", "all")
MOST_NAMES = 200

Found = list[str] | list[tuple[str, str]]


def quietly(complete: Callable[..., Found]) -> Callable[..., Found]:
    """The completer; it finds nothing where it fails, and prints nothing at all."""

    @functools.wraps(complete)
    def wrapped(**given: Any) -> Found:
        try:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
                return complete(**given)
        except Exception:  # an error message would land in the line that is being typed
            return []

    return wrapped


def among(*choices: str) -> Callable[[str], list[str]]:
    """A completer for one of these."""
    return lambda incomplete: [choice for choice in choices if choice.startswith(incomplete)]


def listed_among(*choices: str) -> Callable[[str], list[str]]:
    """A completer for a list like bf16,fp32, whose last member is being typed."""
    return lambda incomplete: _in_list(incomplete, choices)


data_sets = among(*names.ALL)


@quietly
def recipes(incomplete: str) -> Found:
    """Recipes, each with what it repeats."""
    from harness.recipes.reading import load_recipe, recipe_names

    return [(name, f"repeats {load_recipe(name).repeats}") for name in recipe_names() if name.startswith(incomplete)]


@quietly
def sweeps(incomplete: str) -> Found:
    """Sweeps, and all of them."""
    from harness.papers import sweeps as known

    return [name for name in [*known.names(), "all"] if name.startswith(incomplete)]


@quietly
def metrics(incomplete: str) -> Found:
    """Metrics in a list, by the names that users call them."""
    from harness.recipes import metric_names

    names = [*metric_names.NAMED, "fid", "sfid", "fid_infinity", "all"]
    return _in_list(incomplete, sorted(names))


@quietly
def run_names(ctx: typer.Context, incomplete: str) -> Found:
    """Runs below --runs by name."""
    below = Path(ctx.params.get("below") or "runs")
    names = [path.parent.relative_to(below).as_posix() for path in sorted(below.glob("*/*/config.yaml"))]
    return [name for name in names if name.startswith(incomplete)][:MOST_NAMES]


@quietly
def assignments(incomplete: str) -> Found:
    """Keys of --set, of any recipe."""
    from harness.recipes.config import leaves
    from harness.recipes.reading import NAMES, load_recipe, recipe_names
    from harness.records.folders.departures import knob_defaults

    documents = [load_recipe(name).document for name in recipe_names()]
    paths = {path for document in documents for path, _ in leaves(document)} - {*NAMES} | {"seed"}
    paths |= {f"knobs.{knob}" for document in documents for knob in knob_defaults(document["method"])}
    keys = paths if "." in incomplete else {path.rpartition(".")[2] for path in paths}
    return [f"{key}=" for key in sorted(keys) if key.startswith(incomplete)]


def _in_list(incomplete: str, choices: Any) -> list[str]:
    *before, last = incomplete.split(",")
    kept = "".join(f"{part}," for part in before)
    return [f"{kept}{choice}" for choice in choices if choice.startswith(last) and choice not in before]
