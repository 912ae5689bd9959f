"""The audit of many runs: every check on every run, as one document."""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import harness
from harness.checks.audit import clock, evaluated, files, identity, machine, privacy
from harness.checks.finding import FAILURE, NOT_KEPT, Finding
from harness.records.finding import MAKE_ONE, found_in
from harness.records.folders.departures import UNSAID
from harness.records.folders.inspection import plain
from harness.records.run_folder import RunFolder
from harness.records.schema import SCHEMA_VERSION
from harness.system.errors import DataError

VERIFIED, AS_KEPT, UNFINISHED, FAILED = "verified", "verified as far as kept", "unfinished", "failed"
VERDICTS = (VERIFIED, AS_KEPT, UNFINISHED, FAILED)

# What each check of a single run verifies, and its function.
CHECKS: dict[str, tuple[str, Callable[[RunFolder], Finding]]] = {
    "records": ("documents parse, of a known schema version", identity.records),
    "agreement": ("documents state the same, and the id is the hash of the configuration", identity.agreement),
    "recipe": ("configuration against the recipe as it is now", identity.recipe),
    "checkpoints": ("checkpoint files against their sha256", files.checkpoints),
    "weights": ("evaluated weights are those of the checkpoint", files.weights),
    "conditions": ("every condition of every evaluation is recorded", evaluated.conditions),
    "names": ("each metric's name says how it was measured", evaluated.names),
    "features": ("feature network against its pinned hash", evaluated.features),
    "data": ("data as they are now against the manifest", files.data),
    "code": ("the code's commit and changes are recorded", machine.code),
    "environment": ("precision, package versions and hardware are recorded", machine.environment),
    "timing": ("warm-up left out, timed window and wait for data add up", clock.timing),
    "log": ("metrics.jsonl is whole, in order and finite", clock.log),
    "privacy": ("no host, user or absolute path", privacy.privacy),
    "times": ("recorded times are consistent", clock.times),
}
WHAT = {name: what for name, (what, _) in CHECKS.items()} | {
    "seeds": "seeds differ between runs of a setting, and have an effect"
}


def audit(roots: Iterable[Path]) -> dict[str, Any]:
    """Check every run at or below `roots`. The document names runs, and no folder above them.

    Raises DataError for a root that does not exist, and where there is no run.
    """
    roots = [Path(root) for root in roots]
    found = found_in(roots)
    runs = [RunFolder(folder, name) for folder, name, reason in found if not reason]
    if not runs:
        raise DataError(f"no run in {', '.join(map(str, roots))}. {MAKE_ONE}")
    seeds = identity.seeds(runs)
    audited = []
    for run in runs:
        findings = {name: check(run) for name, (_, check) in CHECKS.items()}
        audited.append(_document(run, findings | {"seeds": seeds[run.folder]}))
    verdicts = Counter(run["verdict"] for run in audited)
    return plain(
        {
            "schema_version": SCHEMA_VERSION,
            "harness_version": harness.__version__,
            "num_runs": len(audited),
            "verdicts": {name: verdicts[name] for name in VERDICTS},
            "checks": WHAT,
            "runs": audited,
            "left_out": [{"folder": name, "reason": reason} for _, name, reason in found if reason],
        }
    )


def _document(run: RunFolder, found: dict[str, Finding]) -> dict[str, Any]:
    return {
        "run": run.name,
        "verdict": _verdict(run, found),
        "findings": [
            {"name": name, "status": finding.status, "found": finding.found} for name, finding in found.items()
        ],
        "differs_from_recipe": [
            {
                "setting": item.setting,
                "value": item.value,
                "recipe": item.recipe,
                "why": "the recipe has changed" if item.source == UNSAID else "asked for",
                "source": item.source,
            }
            for item in run.departures.differing
        ],
    }


def _verdict(run: RunFolder, found: dict[str, Finding]) -> str:
    statuses = {finding.status for finding in found.values()}
    if FAILURE in statuses:
        return FAILED
    if run.result is None and run.imported is None:
        return UNFINISHED
    return AS_KEPT if NOT_KEPT in statuses else VERIFIED


def failures(document: dict[str, Any]) -> list[str]:
    """What failed, a line each."""
    return [
        f"{run['run']}: {finding['name']}: {finding['found']}"
        for run in document["runs"]
        for finding in run["findings"]
        if finding["status"] == FAILURE
    ]
