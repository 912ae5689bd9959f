"""Joins the checks into an audit of many runs."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import harness
from harness.checks.audit import (
    across,
    checkout,
    clock,
    evaluated,
    identity,
    kept,
    machine,
    privacy,
    requirements,
    requirements_beyond,
)
from harness.checks.audit.finding import CHECKS, FAILED, NOT_KEPT, Finding
from harness.checks.audit.part import Audited, Requirement, Seen
from harness.records import documents
from harness.records.documents import Documents
from harness.records.folders.inspection import plain
from harness.records.folders.listing import found_below, name_below
from harness.records.schema import SCHEMA_VERSION
from harness.records.store import MAKE_ONE
from harness.system.errors import DataError

VERIFIED, AS_KEPT, UNFINISHED, BAD = "verified", "verified as far as kept", "unfinished", "failed"
VERDICTS = (VERIFIED, AS_KEPT, UNFINISHED, BAD)

REQUIREMENTS = (
    requirements.claims,
    requirements.quick_path,
    requirements.environment,
    requirements.archive,
    requirements.data,
    requirements.settings,
    requirements.provenance,
    requirements.seeds,
    requirements.variability,
    requirements.clock,
    requirements_beyond.targets,
    requirements_beyond.convergence,
    requirements_beyond.evaluation,
    requirements_beyond.comparability,
    requirements_beyond.compute,
    requirements_beyond.negatives,
    requirements_beyond.checkpoints,
    requirements_beyond.tests,
    requirements_beyond.reuse,
    requirements_beyond.itself,
)


def audit(roots: Iterable[Path]) -> dict[str, Any]:
    """Every run at or below `roots` checked, and the requirements judged by them, as one document.

    It names runs and no folder above them. Raises DataError for a root that does not exist, and where there is no run.
    """
    roots = [Path(root) for root in roots]
    folders, left_out = _folders(roots)
    if not folders:
        raise DataError(f"no run in {', '.join(map(str, roots))}. {MAKE_ONE}")
    runs = [documents.read(folder, name) for folder, name in folders.items()]
    of_a_setting = across.groups(runs)
    audited = [_audited(run, of_a_setting.get(across.setting_of(run) or "", [run])) for run in runs]
    seen = Seen(audited, checkout.find())
    verdicts = Counter(verdict(one) for one in audited)
    return plain(
        {
            "schema_version": SCHEMA_VERSION,
            "harness_version": harness.__version__,
            "num_runs": len(audited),
            "verdicts": {name: verdicts[name] for name in VERDICTS},
            "checks": CHECKS,
            "runs": [_of_a_run(one) for one in audited],
            "requirements": [_of_a_requirement(requirement(seen)) for requirement in REQUIREMENTS],
            "left_out": left_out,
        }
    )


def verdict(one: Audited) -> str:
    """Failed, unfinished, verified in everything, or verified in what its folder still holds."""
    if one.failed:
        return BAD
    if one.run.result is None and one.run.imported is None:
        return UNFINISHED
    return AS_KEPT if any(f.status == NOT_KEPT for f in one.findings.values()) else VERIFIED


def failures(document: dict[str, Any]) -> list[str]:
    """What failed, a line each."""
    return [
        f"{run['run']}: {finding['check']}: {finding['says']}"
        for run in document["runs"]
        for finding in run["findings"]
        if finding["status"] == FAILED
    ]


def _folders(roots: Sequence[Path]) -> tuple[dict[Path, str], list[dict[str, str]]]:
    folders: dict[Path, str] = {}
    left_out = []
    seen: set[Path] = set()
    for root in roots:
        for folder, reason in found_below(root):
            if reason:
                left_out.append({"folder": name_below(root, folder), "reason": reason})
            elif folder.resolve() not in seen:
                seen.add(folder.resolve())
                folders[folder] = name_below(root, folder)
    return folders, left_out


def _audited(run: Documents, of_its_setting: Sequence[Documents]) -> Audited:
    by_recipe, differing = identity.recipe(run)
    of_data, here = kept.data(run)
    found = [
        identity.records(run),
        identity.agreement(run),
        identity.run_id(run),
        by_recipe,
        kept.checkpoints(run),
        kept.weights(run),
        evaluated.conditions(run),
        evaluated.names(run),
        evaluated.features(run),
        of_data,
        across.seeds(run, of_its_setting),
        machine.precision(run),
        machine.code(run),
        machine.versions(run),
        machine.device(run),
        clock.timing(run),
        clock.log(run),
        privacy.privacy(run),
        clock.times(run),
    ]
    findings: dict[str, Finding] = {finding.check: finding for finding in found}
    return Audited(run, {check: findings[check] for check in CHECKS}, differing, here)


def _of_a_run(one: Audited) -> dict[str, Any]:
    return {
        "run": one.run.name,
        "verdict": verdict(one),
        "findings": [finding._asdict() for finding in one.findings.values()],
        "differs_from_recipe": one.differing,
    }


def _of_a_requirement(requirement: Requirement) -> dict[str, Any]:
    return {**requirement._asdict(), "parts": [part._asdict() for part in requirement.parts]}
