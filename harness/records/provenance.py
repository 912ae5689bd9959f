"""manifest.json: where a run comes from. No host, user or folder name enters it."""

import hashlib
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import harness
from harness.recipes import plugins
from harness.recipes.config import RunConfig
from harness.records.schema import DataIdentity, Device, Manifest
from harness.system import allocator
from harness.system.errors import UsageError

COMMIT = "HARNESS_COMMIT"  # the variable that names the commit of a copy without .git
PACKAGES = (
    "torch", "torch-fidelity", "numpy", "scipy", "scikit-learn", "safetensors", "pydantic", "diffusers", "pillow",
    "transformers",
)  # fmt: skip


def describe(
    cfg: RunConfig, data: DataIdentity, frozen: dict[str, str], device: Device, world_size: int, command: str
) -> Manifest:
    """The manifest of a run that is about to start; `frozen` are the hashes of its method's pretrained weights."""
    commit, diff = git_state()
    return Manifest(
        harness_version=harness.__version__,
        git_commit=commit,
        git_diff_sha256=diff,
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        packages=installed() | plugins.packages([cfg.method]),
        device=device,
        precision={
            "precision": cfg.protocol.precision,
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
            "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        },
        seed=cfg.seed,
        config_sha256=cfg.sha256,
        data=data,
        frozen=frozen,
        world_size=world_size,
        command=command,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        allocator=allocator.state(),
    )


@lru_cache
def installed() -> dict[str, str]:
    """Versions of the packages that decide numbers."""
    return {name: found for name in PACKAGES if (found := _version(name))}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_state() -> tuple[str | None, str | None]:
    """Commit of the checkout this code runs from, and a hash of what is not committed; None where there is neither.

    In a copy without .git the commit is $HARNESS_COMMIT's.
    """
    root = Path(harness.__file__).parent.parent
    commit = git(root, "rev-parse", "HEAD")
    if commit is None:
        return _told_commit(), None
    # Run records and reports are the output of runs, not the code that made them.
    code = ("--", ".", ":!runs", ":!reports")
    changes = (git(root, "diff", "HEAD", *code) or "").encode()
    for name in (git(root, "ls-files", "--others", "--exclude-standard", *code) or "").splitlines():
        changes += name.encode() + (root / name).read_bytes()
    return commit, hashlib.sha256(changes).hexdigest() if changes else None


def _told_commit() -> str | None:
    commit = os.environ.get(COMMIT) or None
    if commit and not re.fullmatch("[0-9a-f]{40}", commit):
        raise UsageError(f"{COMMIT} is {commit!r}; it must be the 40 hexadecimal digits of a commit, or unset.")
    return commit


def git(folder: Path, *arguments: str) -> str | None:
    """What git answers about `folder`; None where it is no checkout, or git is not there."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
