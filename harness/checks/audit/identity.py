"""Whether a run is what its documents say: they parse and agree, its id is its configuration's hash, its settings are
the recipe's or were asked for, and its seed is its own."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.checks.finding import Finding, failure, judged, not_kept
from harness.recipes.config import leaves, plain_values
from harness.recipes.naming import DIGEST_LENGTH, digest, identity
from harness.records.finding import RUN_ID
from harness.records.folders.departures import UNSAID, as_text
from harness.records.run_folder import RunFolder
from harness.system.groups import grouped

NEEDED = ("config.yaml", "manifest.json", "metrics.jsonl", "events.jsonl")  # what a finished run has besides its result
COMMAND_SETS = " --set "


def records(run: RunFolder) -> Finding:
    """Every document parses, none is missing, and each carries its own hash.

    The record types refuse another schema version, so such a document counts as one that cannot be read.
    """
    problems = [f"{name} {why}" for name, why in run.damaged.items()]
    remarks = []
    if run.unsealed:
        count = len(run.evaluations) + sum(record is not None for record in (run.manifest, run.result, run.imported))
        which = "every record" if len(run.unsealed) == count else ", ".join(run.unsealed)
        remarks.append(f"without a hash of itself, so that a change would not show: {which}")
    if run.imported:
        return judged(problems, "an imported checkpoint: its training is not known here", remarks=remarks)
    absent = [name for name in NEEDED if not (run.folder / name).is_file()]
    if run.result:
        problems += [f"{name} is missing from a finished run" for name in absent]
        if not run.result.complete:
            problems.append("result.json says that the run is not complete")
    elif "result.json" not in run.damaged:
        missing = f", no {', '.join(absent)}" if absent else ""
        remarks.insert(0, f"unfinished: there is no result.json{missing}")
    return judged(problems, f"{len(NEEDED) + 1 + len(run.evaluations)} documents", remarks=remarks)


def agreement(run: RunFolder) -> Finding:
    """Whatever two documents state is the same in both, and the run's id is the hash of its configuration."""
    if not run.config or not (run.manifest or run.result or run.imported):
        return not_kept("fewer than two documents can be read")
    try:
        facts = list(_stated_twice(run))
    except (TypeError, ValueError):
        return failure("config.yaml holds a value that cannot be hashed")
    problems = [
        f"{what} is {ours!r} in {document} and {theirs!r} in {other}"
        for what, document, ours, other, theirs in facts
        if ours != theirs
    ]
    return judged(problems, f"{len(facts)} facts are the same in two documents")


def _stated_twice(run: RunFolder) -> Iterator[tuple[str, str, Any, str, Any]]:
    """Each fact that two documents state: what it is, and for each document its name and value."""
    config, manifest, result = run.sections, run.manifest, run.result
    sha256 = identity(config)
    run_id = f"seed{config['seed']}-{sha256[:DIGEST_LENGTH]}"
    if run.imported:
        yield "hash", "config.yaml", sha256, "import.json", run.imported.config_sha256
    elif RUN_ID.fullmatch(run.folder.name):
        yield "id", "config.yaml", run_id, "the folder's name", run.folder.name
    if manifest:
        precision = run.setting("protocol.precision")
        yield "hash", "config.yaml", sha256, "manifest.json", manifest.config_sha256
        yield "seed", "config.yaml", config["seed"], "manifest.json", manifest.seed
        recorded = manifest.precision.get("precision", precision)
        yield "protocol.precision", "config.yaml", precision, "manifest.json", recorded
    if result:
        steps, batch = run.setting("protocol.steps"), run.setting("protocol.batch_size")
        yield "id", "config.yaml", run_id, "result.json", result.run_id
        for name in ("recipe", "method", "size", "seed"):
            yield name, "config.yaml", config.get(name), "result.json", getattr(result, name)
        yield "protocol.steps", "config.yaml", steps, "result.json", result.steps
        if isinstance(steps, int) and isinstance(batch, int):
            yield "images (steps x batch)", "config.yaml", steps * batch, "result.json", result.images_seen
        for name, evaluation in result.evaluations.items():
            if name in run.evaluations:
                theirs = "one" if run.evaluations[name] == evaluation else "another one"
                yield f"evaluation {name}", "result.json", "one", f"evaluations/{name}.json", theirs
    if manifest and result:
        for name in ("device", "world_size"):
            yield name, "manifest.json", getattr(manifest, name), "result.json", getattr(result, name)


def recipe(run: RunFolder) -> Finding:
    """Settings that differ from today's recipe were asked for. Settings that contradict the command are a failure.

    A setting that differs and that the command did not ask for means that the recipe has changed since: a warning.
    """
    if not run.config:
        return not_kept("config.yaml cannot be read")
    if not run.manifest and not run.imported:
        return not_kept("without manifest.json the command is not known")
    problems = list(_contradictions(run, run.manifest.command)) if run.manifest and not run.imported else []
    found = run.departures
    if found.recipe is None:
        return judged(problems, "", remarks=[f"no recipe is called {run.sections.get('recipe')!r} here"])
    unsaid = [f"{item.setting} {as_text(item.value)}" for item in found.differing if item.source == UNSAID]
    remarks = [f"the recipe has changed: {', '.join(unsaid)}"] if unsaid else []
    if found.absent:
        remarks.append(f"{len(found.absent)} settings of today's recipe are newer than the run")
    asked = len(found.differing) - len(unsaid)
    return judged(problems, f"{found.equal} as the recipe, {asked} asked for", remarks=remarks)


def _contradictions(run: RunFolder, command: str) -> Iterator[str]:
    """What the manifest's command asks for and the configuration does not have. A later --set wins."""
    asked = dict(text.strip().partition("=")[::2] for text in command.split(COMMAND_SETS)[1:])
    found = dict(leaves(run.sections))
    final: dict[str, str] = {}
    for key, text in asked.items():
        named = [key] if key in found else [path for path in found if path.rsplit(".", 1)[-1] == key]
        for path in named:
            final[path] = text
    for path, text in final.items():
        if not _same(found[path], text):
            yield f"the command asks for {path}={text}, and config.yaml has {as_text(found[path])}"
    named_recipe = command.removeprefix("harness run ").split(" ")[0]
    is_run = command.startswith("harness run ") and not named_recipe.startswith("-")
    if is_run and named_recipe != run.sections.get("recipe"):
        yield f"the command names {named_recipe}, and config.yaml is of {run.sections.get('recipe')}"


def _same(value: Any, text: str) -> bool:
    try:
        asked = plain_values(text)
        if isinstance(value, float) and isinstance(asked, str):
            asked = float(asked)  # YAML reads 1e-3 as text; the setting is a number
    except (ValueError, RecursionError, yaml.YAMLError):
        return False
    return asked == value or str(asked) == str(value)


def seeds(runs: Sequence[RunFolder]) -> dict[Path, Finding]:
    """For each run, by its folder, whether its seed is its own among the runs of its setting, and has an effect.

    Two runs of one setting and seed are one sample counted twice. Two seeds with equal losses mean that the seed has
    no effect.
    """
    settings = grouped(runs, lambda run: _setting_of(run) or "")
    unknown = not_kept("config.yaml or manifest.json cannot be read")
    found = {run.folder: unknown for run in settings.pop("", [])}
    return found | {run.folder: _seed(run, group) for group in settings.values() for run in group}


def _setting_of(run: RunFolder) -> str | None:
    """The same for runs that differ in their seed alone: settings, data, machine. None where that is not known."""
    if not run.config or not run.manifest:
        return None
    manifest = run.manifest
    setting = {
        "config": {key: value for key, value in run.config.items() if key not in ("seed", "execution")},
        "data": manifest.data.sha256,
        "device": manifest.device.model_dump(mode="json"),
        "processes": manifest.world_size,
        "precision": manifest.precision,
    }
    try:
        return digest(setting)
    except (TypeError, ValueError):
        return None


def _seed(run: RunFolder, group: Sequence[RunFolder]) -> Finding:
    seed, problems = run.sections["seed"], []
    for other in group:
        if other is run:
            continue
        if other.sections["seed"] == seed:
            problems.append(f"{other.name} has the same setting and seed {seed}")
        elif _losses(run) and _losses(run) == _losses(other):
            problems.append(f"its losses are those of {other.name}, whose seed is {other.sections['seed']}")
    every = sorted({other.sections["seed"] for other in group})
    return judged(problems, f"seed{'s' if every[1:] else ''} {', '.join(map(str, every))} of this setting")


def _losses(run: RunFolder) -> list[Any]:
    return [(line.get("step"), line.get("loss")) for line in run.metrics]
