"""What a run was carried out with: precision, code, packages, hardware."""

import re
import subprocess
from functools import cache
from pathlib import Path

import harness
from harness.checks.finding import Finding, judged, not_kept
from harness.records.documents import Documents

COMMIT, HASH = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")
FLAGS = ("precision", "float32_matmul_precision", "cudnn_allow_tf32", "deterministic_algorithms")
DECISIVE = ("torch", "numpy")  # packages without whose versions no number can be had again
NO_MANIFEST = "manifest.json is not there, or cannot be read"


def precision(run: Documents) -> Finding:
    """The flags that decide rounding, and whether deterministic algorithms were asked for."""
    if not run.manifest:
        return not_kept(NO_MANIFEST)
    flags = run.manifest.precision
    problems = [f"manifest.json does not say {name}" for name in FLAGS if name not in flags]
    asked = flags.get("precision")
    if asked == "fp32" and (flags.get("float32_matmul_precision") != "highest" or flags.get("cudnn_allow_tf32")):
        problems.append("it says fp32, and lets products round to TF32")
    how = "asked for" if flags.get("deterministic_algorithms") else "not asked for"
    return judged(problems, f"{asked}; deterministic algorithms {how}")


def code(run: Documents) -> Finding:
    """The commit, and a hash of the uncommitted changes. Without a checkout only the version is known."""
    if not run.manifest:
        return not_kept(NO_MANIFEST)
    commit, diff = run.manifest.git_commit, run.manifest.git_diff_sha256
    if commit is None:
        return not_kept(f"no commit is recorded, only version {run.manifest.harness_version}")
    problems = [] if COMMIT.fullmatch(commit) else [f"{commit!r} is no commit"]
    if diff is not None and not HASH.fullmatch(diff):
        problems.append("the hash of the changes is no sha256")
    remarks = [f"{commit[:8]} with changes of sha256 {diff[:12]}, which no commit holds"] if diff else []
    if not problems and _in_this_repository(commit) is False:
        remarks.append(f"{commit[:8]} is not in this repository")
    return judged(problems, f"{commit[:8]}, nothing changed", remarks=remarks)


@cache
def _in_this_repository(commit: str) -> bool | None:
    """None where this is no checkout, or git is not there."""
    root = Path(harness.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "cat-file", "-e", f"{commit}^{{commit}}"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return None


def versions(run: Documents) -> Finding:
    """Those of Python, the harness, and the packages that decide numbers."""
    if not run.manifest:
        return not_kept(NO_MANIFEST)
    packages = run.manifest.packages
    problems = [f"no version of {name}" for name in DECISIVE if not packages.get(name)]
    problems += [f"no version of {what}" for what in ("python", "harness_version") if not getattr(run.manifest, what)]
    return judged(problems, f"Python {run.manifest.python}, torch {packages.get('torch')}")


def device(run: Documents) -> Finding:
    """Its name, its counts, and a GPU's memory and CUDA version."""
    if not run.manifest:
        return not_kept(NO_MANIFEST)
    found, processes = run.manifest.device, run.manifest.world_size
    counts = {"count": found.count, "threads": found.threads, "world_size": processes}
    problems = [] if found.name.strip() else ["the device has no name"]
    problems += [f"{what} is {value}" for what, value in counts.items() if value < 1]
    if found.kind == "cuda" and not (found.cuda and found.memory_bytes):
        problems.append("a GPU without its memory or CUDA version")
    return judged(problems, f"{found.name}, {found.threads} threads, {processes} process(es)")
