"""The figures of the paper, published beside measured, and those that explain them: PNG, SVG and the CSV behind each.

Each figure is a module with make(evidence) -> Drawing. One of a paper, specified in the paper's figures.yaml, has
make(evidence, specification). A module is imported when its figure is drawn.
"""

from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from harness.papers import specified
from harness.records.evidence import Evidence
from harness.reporting.drawing.sheet import Drawing, save
from harness.system.errors import unknown

PAPERS = specified("figures.yaml")
HELD_OUT = "held-out"  # the figure of those data alone that have held-out images
MODULES = {"losses": "losses", "memory": "memory", "cost": "speed_cost", HELD_OUT: "held_out"}


def _make(module: str, evidence: Evidence, **specification: Any) -> Drawing:
    return import_module(f"harness.reporting.figures.{module}").make(evidence, **specification)


MAKERS: dict[str, Callable[[Evidence], Drawing]] = {
    **{name: partial(_make, said["module"], spec=said | {"number": name}) for name, said in PAPERS.items()},
    **{name: partial(_make, module) for name, module in MODULES.items()},
}


def named(which: str) -> list[str]:
    """The figures that `which` names: one, or "all". Raises UsageError for a name that no figure has."""
    if which not in (*MAKERS, "all"):
        raise unknown("figure", which, (*MAKERS, "all"))
    return [name for name in MAKERS if which in (name, "all")]


def write(drawings: Iterable[Drawing], out: Path) -> list[Path]:
    """Write <name>.png, .svg and .csv of each drawing into `out`, and return their paths."""
    return [path for drawing in drawings for path in save(drawing, out)]
