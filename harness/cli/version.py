"""What --version says: read from files, so that it is quick and works where torch does not."""

import platform
import runpy
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import harness


def text() -> str:
    """The versions that decide what this program computes, a line each."""
    commit = _commit()
    torch = _torch()
    return "\n".join(
        [
            f"harness {harness.__version__}" + (f", commit {commit}" if commit else ""),
            f"Python {platform.python_version()}",
            f"torch {torch.get('__version__') or 'is not installed'}",
            f"CUDA {torch['cuda']}" if torch.get("cuda") else "CUDA: none, this torch computes on processors",
        ]
    )


def _commit() -> str | None:
    """The commit of the checkout that this code runs from, "+" where files differ from it; None where it is none."""
    root = Path(harness.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+"],
            cwd=root, capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):  # no git here, or one that refuses
        return None
    return said.stdout.strip()


def _torch() -> dict[str, Any]:
    """`__version__`, `cuda` and the like from torch/version.py; torch itself takes seconds to import."""
    spec = find_spec("torch")
    file = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    return runpy.run_path(str(file)) if file and file.is_file() else {}
