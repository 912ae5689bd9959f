"""Whether a run is what its documents say it is: they parse, they agree, its id is its configuration's hash, and its
settings are the recipe's or were asked for."""

from collections.abc import Iterator
from typing import Any

import yaml

from harness.checks.audit.finding import FAILED, Finding, judged, not_kept
from harness.recipes.config import DIGEST_LENGTH, identity, leaves, plain_values
from harness.records.documents import Documents
from harness.records.folders.departures import UNSAID, as_text, departures
from harness.records.folders.listing import RUN_ID

NEEDED = ("config.yaml", "manifest.json", "metrics.jsonl", "events.jsonl")  # of a finished run, besides its result
COMMAND_SETS = " --set "


def records(run: Documents) -> Finding:
    """Schema versions are read by the types themselves: another one is a document that cannot be read."""
    problems = [f"{name}: {why}" for name, why in run.damaged.items()]
    remarks = [f"without a hash of itself, so that a change would not show: {', '.join(run.unsealed)}"]
    remarks = remarks if run.unsealed else []
    if run.imported:
        return judged("records", problems, "an imported checkpoint: its training is not known here", remarks=remarks)
    absent = [name for name in NEEDED if not (run.folder / name).is_file()]
    if run.result:
        problems += [f"{name} is missing from a finished run" for name in absent]
    elif "result.json" not in run.damaged:
        parsed = "unfinished: there is no result.json" + (f", no {', '.join(absent)}" if absent else "")
        return judged("records", problems, "", remarks=[parsed, *remarks])
    if run.result and not run.result.complete:
        problems.append("result.json says that the run is not complete")
    count = len(NEEDED) + 1 + len(run.evaluations)
    return judged("records", problems, f"{count} documents", remarks=remarks)


def agreement(run: Documents) -> Finding:
    """Recipe, method, size, seed, steps, id, device, data and evaluations, wherever two documents say one of them."""
    if not run.config or not (run.manifest or run.result):
        return not_kept("agreement", "fewer than two documents can be read")
    problems, compared = [], 0
    for what, ours, document, theirs in _said_twice(run):
        compared += 1
        if ours != theirs:
            problems.append(f"{what} is {ours!r} in config.yaml and {theirs!r} in {document}")
    if run.manifest and run.result:
        for what in ("device", "world_size"):
            compared += 1
            if getattr(run.manifest, what) != getattr(run.result, what):
                problems.append(f"{what} differs between manifest.json and result.json")
    for name, evaluation in (run.result.evaluations if run.result else {}).items():
        if name in run.evaluations:
            compared += 1
            if run.evaluations[name] != evaluation:
                problems.append(f"evaluations/{name}.json is not the evaluation that result.json holds")
    return judged("agreement", problems, f"{compared} facts told twice")


def _said_twice(run: Documents) -> Iterator[tuple[str, Any, str, Any]]:
    config = run.sections
    steps, batch = run.setting("protocol.steps"), run.setting("protocol.batch_size")
    if result := run.result:
        yield from (
            (what, config.get(what), "result.json", getattr(result, what))
            for what in ("recipe", "method", "size", "seed")
        )
        yield "protocol.steps", steps, "result.json", result.steps
        if isinstance(steps, int) and isinstance(batch, int):
            yield "images (steps x batch)", steps * batch, "result.json", result.images_seen
    if manifest := run.manifest:
        yield "seed", config.get("seed"), "manifest.json", manifest.seed
        yield (
            "protocol.precision",
            run.setting("protocol.precision"),
            "manifest.json",
            manifest.precision.get("precision", run.setting("protocol.precision")),
        )


def run_id(run: Documents) -> Finding:
    """The hash of config.yaml against manifest.json's, result.json's id, and the folder's name where it is an id."""
    if not run.config:
        return not_kept("id", "config.yaml cannot be read")
    if run.imported:
        ours = identity(run.config)
        known = run.imported.config_sha256
        return judged("id", [] if ours == known else ["config.yaml's hash is not import.json's"], ours[:DIGEST_LENGTH])
    if not run.manifest:
        return not_kept("id", "manifest.json cannot be read")
    try:
        sha256 = identity(run.config)
    except (TypeError, ValueError):
        return Finding("id", FAILED, "config.yaml holds what has no hash")
    expected = f"seed{run.sections['seed']}-{sha256[:DIGEST_LENGTH]}"
    problems = []
    if sha256 != run.manifest.config_sha256:
        problems.append(f"config.yaml hashes to {sha256[:12]}, manifest.json has {run.manifest.config_sha256[:12]}")
    if run.result and run.result.run_id != expected:
        problems.append(f"result.json is of {run.result.run_id}, config.yaml of {expected}")
    if RUN_ID.fullmatch(run.folder.name) and run.folder.name != expected:
        problems.append(f"the folder is called {run.folder.name}, and its configuration is {expected}")
    return judged("id", problems, expected)


def recipe(run: Documents) -> tuple[Finding, list[dict[str, Any]]]:
    """Settings that differ from today's recipe, each "asked for" or not; a command that the settings contradict fails.

    A setting that nobody asked for and that differs means that the recipe has changed since: a remark, not a fault.
    """
    if not run.config:
        return not_kept("recipe", "config.yaml cannot be read"), []
    if not run.manifest and not run.imported:
        return not_kept("recipe", "without manifest.json nobody knows what was asked for"), []
    command = run.manifest.command if run.manifest else ""
    found = departures(run.config, command)
    problems = [] if run.imported else list(_contradictions(run, command))
    if found.recipe is None:
        remark = f"no recipe is called {run.sections.get('recipe')!r} here"
        return judged("recipe", problems, "", remarks=[remark]), []
    differing = [
        {
            "setting": item.setting,
            "value": item.value,
            "recipe": item.recipe,
            "why": "the recipe has changed" if item.source == UNSAID else "asked for",
            "source": item.source,
        }
        for item in found.differing
    ]
    unsaid = [f"{d['setting']} {as_text(d['value'])}" for d in differing if d["why"] != "asked for"]
    remarks = [f"the recipe has changed: {', '.join(unsaid)}"] if unsaid else []
    if found.absent:
        remarks.append(f"{len(found.absent)} settings of today's recipe are newer than the run")
    asked = len(differing) - len(unsaid)
    return judged("recipe", problems, f"{found.equal} as the recipe, {asked} asked for", remarks=remarks), differing


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
    recipe = command.removeprefix("harness run ").split(" ")[0]
    if command.startswith("harness run ") and not recipe.startswith("-") and recipe != run.sections.get("recipe"):
        yield f"the command names {recipe}, and config.yaml is of {run.sections.get('recipe')}"


def _same(value: Any, text: str) -> bool:
    try:
        asked = plain_values(text)
        if isinstance(value, float) and isinstance(asked, str):
            asked = float(asked)  # YAML takes 1e-3 for a text, and a setting for a number
    except (ValueError, RecursionError, yaml.YAMLError):
        return False
    return asked == value or str(asked) == str(value)
