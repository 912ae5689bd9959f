"""What a run was carried out with: code, precision, packages, hardware."""

import re
from functools import cache
from pathlib import Path

import harness
from harness.checks.finding import Finding, judged, not_kept
from harness.records.provenance import git
from harness.records.run_folder import RunFolder

COMMIT, HASH = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")
FLAGS = ("precision", "float32_matmul_precision", "cudnn_allow_tf32", "deterministic_algorithms")
DECISIVE = ("torch", "numpy")  # the numbers depend on the versions of these packages
NO_MANIFEST = "manifest.json is not there, or cannot be read"


def code(run: RunFolder) -> Finding:
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
    if not (root / ".git").exists() or git(root, "rev-parse", "HEAD") is None:
        return None
    return git(root, "cat-file", "-e", f"{commit}^{{commit}}") is not None


def environment(run: RunFolder) -> Finding:
    """The flags that decide rounding, the versions that decide numbers, and the hardware."""
    if not run.manifest:
        return not_kept(NO_MANIFEST)
    flags, packages, device = run.manifest.precision, run.manifest.packages, run.manifest.device
    problems = [f"manifest.json does not say {name}" for name in FLAGS if name not in flags]
    rounded = flags.get("float32_matmul_precision") != "highest" or flags.get("cudnn_allow_tf32")
    if flags.get("precision") == "fp32" and rounded:
        problems.append("it says fp32, and lets products round to TF32")
    problems += [f"no version of {name}" for name in DECISIVE if not packages.get(name)]
    problems += [f"no version of {what}" for what in ("python", "harness_version") if not getattr(run.manifest, what)]
    problems += [] if device.name.strip() else ["the device has no name"]
    counts = {"count": device.count, "threads": device.threads, "world_size": run.manifest.world_size}
    problems += [f"{what} is {value}" for what, value in counts.items() if value < 1]
    if device.kind == "cuda" and not (device.cuda and device.memory_bytes):
        problems.append("a GPU without its memory or CUDA version")
    how = "asked for" if flags.get("deterministic_algorithms") else "not asked for"
    return judged(
        problems,
        f"{flags.get('precision')}, deterministic algorithms {how}; Python {run.manifest.python}, torch "
        f"{packages.get('torch')}; {device.name}, {device.threads} threads, {run.manifest.world_size} process(es)",
    )
