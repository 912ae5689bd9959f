"""Reproducibility benchmark harness for training-efficient diffusion transformers.

From Python, as from the command line:

    from harness import run, sample, evaluate, compare, report

    result = run("dit-tiny", {"steps": 200})
    report("runs", out="reports/mine")

These functions are in harness.runs.public. They are imported on first use, so that `import harness` needs no torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.runs.public import compare, evaluate, report, run, sample

__version__ = "0.1.0"
__all__ = ["__version__", "compare", "evaluate", "report", "run", "sample"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    from harness.runs import public

    return getattr(public, name)
