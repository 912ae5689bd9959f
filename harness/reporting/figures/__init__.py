"""The figures of the paper, published beside measured, and those that explain them: PNG, SVG and the CSV behind each.

Each figure is a module with make(evidence) -> Drawing. A module is imported when its figure is drawn.
"""

from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from pathlib import Path

from harness.records.evidence import Evidence
from harness.reporting.drawing.sheet import Drawing, csv_of, save, style, writing
from harness.system.errors import unknown

__all__ = ["MAKERS", "Drawing", "csv_of", "named", "save", "style", "write", "writing"]

MODULES = {
    "3": "speed_quality",
    "4": "convergence",
    "5": "mask_ratio",
    "6": "teacher_noise",
    "7": "samples",
    "losses": "losses",
    "memory": "memory",
    "cost": "speed_cost",
}


def _make(module: str, evidence: Evidence) -> Drawing:
    return import_module(f"harness.reporting.figures.{module}").make(evidence)


MAKERS: dict[str, Callable[[Evidence], Drawing]] = {name: partial(_make, module) for name, module in MODULES.items()}


def named(which: str) -> list[str]:
    """The figures that `which` names: one, or "all". Raises UsageError for a name that no figure has."""
    if which not in (*MAKERS, "all"):
        raise unknown("figure", which, (*MAKERS, "all"))
    return [name for name in MAKERS if which in (name, "all")]


def write(drawings: Iterable[Drawing], out: Path) -> list[Path]:
    """Write <name>.png, .svg and .csv of each drawing into `out`, and return their paths."""
    return [path for drawing in drawings for path in save(drawing, out)]
