"""Files and data against their hashes: checkpoints, the weights behind an evaluation, the data set as it is now."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from harness.checks.finding import Finding, failure, judged, not_kept, ok
from harness.data import sources
from harness.recipes.config import InputShape
from harness.recipes.naming import DIGEST_LENGTH, digest, identity
from harness.records.run_folder import RunFolder, reason_of
from harness.records.schema import read_json
from harness.system.errors import HarnessError
from harness.system.files import sha256_of
from harness.system.weights import fingerprint

EMA = "ema.safetensors"


def checkpoints(run: RunFolder) -> Finding:
    """Each checkpoint's files against state.json, state.json against its own hash, and both against the run.

    Only the newest checkpoint keeps all its files. An older one keeps its averaged weights alone.
    """
    folders = sorted((run.folder / "checkpoints").glob("step-*"))
    if not folders:
        return not_kept("no checkpoint in the folder")
    problems, count = [], 0
    for folder in folders:
        newest = folder == folders[-1] and not run.imported
        try:
            state = read_json(folder / "state.json")
            if state.pop("sha256") != digest(state):
                problems.append(f"{folder.name}/state.json was changed after it was written")
            if f"step-{state['step']:09d}" != folder.name:
                problems.append(f"{folder.name}: state.json is of step {state['step']}")
            if run.config and state["config_sha256"] != identity(run.config):
                other = state["config_sha256"][:DIGEST_LENGTH]
                problems.append(f"{folder.name}: it is of another configuration, {other}")
            for name, sha256 in state["files"].items():
                path = folder / name
                if path.is_file():
                    count += 1
                    if sha256_of(path) != sha256:
                        problems.append(f"{folder.name}/{name} is damaged: its sha256 is not the one written with it")
                elif name == EMA or newest:
                    problems.append(f"{folder.name}/{name} is missing")
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"{folder.name}/state.json cannot be read: {error}")
    last = f"step-{run.setting('protocol.steps') or 0:09d}"
    remarks = [] if not run.result or any(f.name == last for f in folders) else ["none of the last step is kept"]
    return judged(problems, f"{count} files of {len(folders)} checkpoints", remarks=remarks)


def weights(run: RunFolder) -> Finding:
    """The weights that were evaluated have the hash of the averaged weights in the checkpoint of that step."""
    pairs = [
        (name, evaluation.weights_sha256, path)
        for name, evaluation in run.all_evaluations.items()
        if evaluation.weights == "ema" and evaluation.weights_sha256 and evaluation.step is not None
        if (path := run.folder / "checkpoints" / f"step-{evaluation.step:09d}" / EMA).is_file()
    ]
    if not pairs:
        return not_kept("no checkpoint of an evaluated step with the weights' hash")
    problems = []
    for name, sha256, path in pairs:
        try:
            if _fingerprint(path, path.stat().st_mtime_ns) != sha256:
                problems.append(f"{name} was measured with other weights than {path.parent.name}/{EMA}")
        except Exception as error:  # safetensors raises its own error for a damaged file
            problems.append(f"{path.parent.name}/{EMA} cannot be read: {reason_of(error)}")
    return judged(problems, f"{len(pairs)} evaluations")


@lru_cache
def _fingerprint(path: Path, modified: int) -> str:
    return fingerprint(load_file(path))


def data(run: RunFolder) -> Finding:
    """The content's hash and the number of images, where the data are on this machine."""
    if not run.config or not run.manifest:
        return not_kept("config.yaml or manifest.json cannot be read")
    known, protocol, shape = run.manifest.data, run.sections["protocol"], run.setting("input")
    if len(known.sha256) != 64:
        return failure(f"manifest.json has no sha256 of {known.name}")
    name = str(protocol.get("data"))
    if not sources.is_here(name):
        return not_kept(f"{known.name} is not on this machine")
    try:
        sha256, num_images = _content(
            name,
            str(protocol.get("pipeline")),
            protocol.get("vae"),
            protocol.get("size"),
            tuple(shape.items()) if isinstance(shape, dict) else None,
        )
    except (HarnessError, ValueError, TypeError) as error:  # TypeError: a list where a name belongs
        return failure(reason_of(error))
    if sha256 != known.sha256:
        return failure(f"{known.name} hashes to {sha256[:12]} here, manifest.json has {known.sha256[:12]}")
    if num_images != known.num_images:
        return failure(f"{known.name} has {num_images} images here, manifest.json says {known.num_images}")
    return ok(f"{known.name}, {known.num_images:,} images, sha256 {known.sha256[:12]}")


@lru_cache
def _content(
    name: str, pipeline: str, vae: str | None, size: int | None, shape: tuple[tuple[str, Any], ...] | None
) -> tuple[str, int]:
    """The sha256 of the data and the number of images. Raises HarnessError or ValueError for data that are damaged."""
    wanted = InputShape(**dict(shape)) if shape else None
    found = sources.load(name, shape=wanted, pipeline=pipeline, vae=vae, size=size)
    found.check(lambda done: None)
    return found.sha256, len(found)
