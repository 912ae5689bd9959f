"""Whether a run is what its documents say: they parse and agree, its id is its configuration's hash, its settings are
the recipe's or were asked for, and its seed is its own."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.checks.finding import Finding, failure, judged, not_kept
from harness.recipes.config import DIGEST_LENGTH, digest, identity, leaves, plain_values
from harness.records.documents import Documents
from harness.records.folders.departures import UNSAID, as_text
from harness.records.folders.listing import RUN_ID

NEEDED = ("config.yaml", "manifest.json", "metrics.jsonl", "events.jsonl")  # of a finished run, besides its result
COMMAND_SETS = " --set "


def records(run: Documents) -> Finding:
    """Every document parses, none is missing, and each carries its own hash.

    The record types refuse another schema version, so such a document counts as one that cannot be read.
    """
    problems = [f"{name}: {why}" for name, why in run.damaged.items()]
    remarks = []
    if run.unsealed:
        remarks.append(f"without a hash of itself, so that a change would not show: {', '.join(run.unsealed)}")
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


def agreement(run: Documents) -> Finding:
    """Whatever two documents state is the same in both: recipe, method, size, seed, steps, device, evaluations."""
    if not run.config or not (run.manifest or run.result):
        return not_kept("fewer than two documents can be read")
    facts = list(_stated_twice(run))
    problems = [problem for same, problem in facts if not same]
    return judged(problems, f"{len(facts)} facts are the same in two documents")


def _stated_twice(run: Documents) -> Iterator[tuple[bool, str]]:
    """Each fact that two documents state: whether they agree, and the problem if they do not."""
    steps, batch = run.setting("protocol.steps"), run.setting("protocol.batch_size")
    precision = run.setting("protocol.precision")
    facts: list[tuple[str, Any, str, Any]] = []
    if result := run.result:
        facts += [
            (name, run.sections.get(name), "result.json", getattr(result, name))
            for name in ("recipe", "method", "size", "seed")
        ]
        facts.append(("protocol.steps", steps, "result.json", result.steps))
        if isinstance(steps, int) and isinstance(batch, int):
            facts.append(("images (steps x batch)", steps * batch, "result.json", result.images_seen))
    if manifest := run.manifest:
        facts.append(("seed", run.sections.get("seed"), "manifest.json", manifest.seed))
        recorded = manifest.precision.get("precision", precision)
        facts.append(("protocol.precision", precision, "manifest.json", recorded))
    for what, ours, document, theirs in facts:
        yield ours == theirs, f"{what} is {ours!r} in config.yaml and {theirs!r} in {document}"
    if result and manifest:
        for name in ("device", "world_size"):
            same = getattr(manifest, name) == getattr(result, name)
            yield same, f"{name} differs between manifest.json and result.json"
    for name, evaluation in (result.evaluations if result else {}).items():
        if name in run.evaluations:
            same = run.evaluations[name] == evaluation
            yield same, f"evaluations/{name}.json is not the evaluation in result.json"


def run_id(run: Documents) -> Finding:
    """The hash of config.yaml is manifest.json's, the id in result.json, and the folder's name where that is an id."""
    if not run.config:
        return not_kept("config.yaml cannot be read")
    if not run.manifest and not run.imported:
        return not_kept("manifest.json cannot be read")
    try:
        sha256 = identity(run.config)
    except (TypeError, ValueError):
        return failure("config.yaml holds a value that cannot be hashed")
    if run.imported:
        same = sha256 == run.imported.config_sha256
        return judged([] if same else ["config.yaml's hash is not import.json's"], sha256[:DIGEST_LENGTH])
    assert run.manifest is not None
    expected = f"seed{run.sections['seed']}-{sha256[:DIGEST_LENGTH]}"
    problems = []
    if sha256 != run.manifest.config_sha256:
        problems.append(f"config.yaml hashes to {sha256[:12]}, manifest.json has {run.manifest.config_sha256[:12]}")
    if run.result and run.result.run_id != expected:
        problems.append(f"result.json is of {run.result.run_id}, config.yaml of {expected}")
    if RUN_ID.fullmatch(run.folder.name) and run.folder.name != expected:
        problems.append(f"the folder is called {run.folder.name}, and its configuration is {expected}")
    return judged(problems, expected)


def recipe(run: Documents) -> Finding:
    """Settings that differ from today's recipe were asked for. Settings that contradict the command are a failure.

    A setting that differs and that nobody asked for means that the recipe has changed since: a warning.
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


def _contradictions(run: Documents, command: str) -> Iterator[str]:
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


def seeds(runs: Sequence[Documents]) -> dict[Path, Finding]:
    """For each run, by its folder, whether its seed is its own among the runs of its setting, and has an effect.

    Two runs of one setting and seed are one sample counted twice. Two seeds with equal losses mean that the seed has
    no effect.
    """
    settings: dict[str, list[Documents]] = defaultdict(list)
    for run in runs:
        settings[_setting_of(run) or ""].append(run)
    unknown = not_kept("config.yaml or manifest.json cannot be read")
    found = {run.folder: unknown for run in settings.pop("", [])}
    return found | {run.folder: _seed(run, group) for group in settings.values() for run in group}


def _setting_of(run: Documents) -> str | None:
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


def _seed(run: Documents, group: Sequence[Documents]) -> Finding:
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


def _losses(run: Documents) -> list[Any]:
    return [(line.get("step"), line.get("loss")) for line in run.metrics]
