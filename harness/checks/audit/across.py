"""What only several runs together can tell: that their seeds differ and do something."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from harness.checks.audit.finding import Finding, judged, not_kept
from harness.recipes.config import digest
from harness.records.documents import Documents


def setting_of(run: Documents) -> str | None:
    """Equal for runs that differ in their seed alone: settings, data, machine. None where that cannot be told."""
    if not run.config or not run.manifest:
        return None
    unseeded = {key: value for key, value in run.config.items() if key not in ("seed", "execution")}
    manifest = run.manifest
    try:
        return digest(
            {
                "config": unseeded,
                "data": manifest.data.sha256,
                "device": manifest.device.model_dump(mode="json"),
                "processes": manifest.world_size,
                "precision": manifest.precision,
            }
        )
    except (TypeError, ValueError):
        return None


def groups(runs: Sequence[Documents]) -> dict[str, list[Documents]]:
    """The runs of each setting."""
    found: dict[str, list[Documents]] = defaultdict(list)
    for run in runs:
        if (setting := setting_of(run)) is not None:
            found[setting].append(run)
    return dict(found)


def seeds(run: Documents, of_its_setting: Sequence[Documents]) -> Finding:
    """A seed that two runs of a setting share is one sample counted twice; equal losses of two seeds are a dead one."""
    if not run.config or not run.manifest:
        return not_kept("seeds", "config.yaml or manifest.json cannot be read")
    others = [other for other in of_its_setting if other is not run]
    seed, problems = run.sections["seed"], []
    for other in others:
        if other.sections["seed"] == seed:
            problems.append(f"{other.name} has the same setting and seed {seed}")
        elif losses(run) and losses(run) == losses(other):
            problems.append(f"its losses are those of {other.name}, of seed {other.sections['seed']}: a dead seed")
    every = sorted({other.sections["seed"] for other in of_its_setting} | {seed})
    told = f"seed {seed}, the only one of its setting" if not others else f"seeds {', '.join(map(str, every))}"
    return judged("seeds", problems, told)


def losses(run: Documents) -> list[Any]:
    """Every logged loss with its step: the same for two runs only if nothing differed between them."""
    return [(line.get("step"), line.get("loss")) for line in run.metrics]
