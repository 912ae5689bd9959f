"""Files and data against their hashes: checkpoints, the weights behind an evaluation, the data set as it is now."""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from platformdirs import user_data_path

from harness.checks.audit.finding import Finding, judged, not_kept
from harness.recipes.config import DIGEST_LENGTH, InputShape, digest, identity
from harness.records.documents import Documents
from harness.records.schema import read_json
from harness.records.store import reason_of
from harness.system.errors import HarnessError
from harness.system.files import sha256_of

EMA = "ema.safetensors"
MADE_HERE = ("digits", "synthetic")  # data sets that every machine has


def checkpoints(run: Documents) -> Finding:
    """Each checkpoint's files against state.json, state.json against its own hash, and both against the run.

    A milestone that is no longer new keeps its averaged weights alone, so other files may be absent there.
    """
    folders = sorted((run.folder / "checkpoints").glob("step-*"))
    if not folders:
        return not_kept("checkpoints", "no checkpoint in the folder")
    problems, files = [], 0
    for folder in folders:
        try:
            state = _state(folder)
            problems += [f"{folder.name}: {problem}" for problem in _disagreements(run, folder, state)]
            newest = folder == folders[-1] and not run.imported
            for name, sha256 in state["files"].items():
                path = folder / name
                if not path.is_file():
                    if name == EMA or newest:
                        problems.append(f"{folder.name}/{name} is missing")
                    continue
                files += 1
                if sha256_of(path) != sha256:
                    problems.append(f"{folder.name}/{name} is damaged: its sha256 is not the one written with it")
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"{folder.name}/state.json cannot be read: {error}")
    last = f"step-{run.setting('protocol.steps') or 0:09d}"
    remarks = [] if not run.result or any(f.name == last for f in folders) else ["none of the last step is kept"]
    return judged("checkpoints", problems, f"{files} files of {len(folders)} checkpoints", remarks=remarks)


def _state(folder: Path) -> dict[str, Any]:
    state = read_json(folder / "state.json")
    if state.pop("sha256") != digest(state):
        raise ValueError("it was changed after it was written")
    return state


def _disagreements(run: Documents, folder: Path, state: dict[str, Any]) -> list[str]:
    problems = []
    if f"step-{state['step']:09d}" != folder.name:
        problems.append(f"state.json is of step {state['step']}")
    if run.config and state["config_sha256"] != identity(run.config):
        problems.append(f"it is of another configuration, {state['config_sha256'][:DIGEST_LENGTH]}")
    return problems


def weights(run: Documents) -> Finding:
    """The hash of the weights that were evaluated against the averaged weights in the checkpoint of that step."""
    pairs = [
        (name, evaluation.weights_sha256, path)
        for name, evaluation in run.all_evaluations.items()
        if evaluation.weights == "ema" and evaluation.weights_sha256 and evaluation.step is not None
        if (path := run.folder / "checkpoints" / f"step-{evaluation.step:09d}" / EMA).is_file()
    ]
    if not pairs:
        return not_kept("weights", "no checkpoint of an evaluated step with the weights' hash")
    problems = []
    for name, sha256, path in pairs:
        try:
            if _fingerprint(path, path.stat().st_mtime_ns) != sha256:
                problems.append(f"{name} was measured with other weights than {path.parent.name}/{EMA}")
        except Exception as error:  # safetensors raises its own for a file that is none
            problems.append(f"{path.parent.name}/{EMA} cannot be read: {reason_of(error)}")
    return judged("weights", problems, f"{len(pairs)} evaluations")


@lru_cache
def _fingerprint(path: Path, modified: int) -> str:
    from safetensors.torch import load_file  # torch takes seconds to import, and records without weights need none

    from harness.system.weights import fingerprint

    return fingerprint(load_file(path))


class Source(NamedTuple):
    """Which data: what decides their content, or where to look for them."""

    name: str
    pipeline: str
    vae: str | None
    shape: tuple[int, int, int] | None  # channels, side, classes


class Content(NamedTuple):
    sha256: str | None
    num_images: int | None
    absent: str = ""  # why there are none here
    damaged: str = ""


def data(run: Documents) -> tuple[Finding, bool]:
    """The content's hash, where the data are on this machine; and whether they are."""
    if not run.config or not run.manifest:
        return not_kept("data", "config.yaml or manifest.json cannot be read"), False
    known = run.manifest.data
    if len(known.sha256) != 64:
        return judged("data", [f"manifest.json has no sha256 of {known.name}"], ""), False
    asked = run.setting("input")
    shape: Any = None
    if isinstance(asked, dict):
        shape = asked.get("channels"), asked.get("side"), asked.get("num_classes")
    protocol = run.sections["protocol"]
    content = _content(Source(str(protocol.get("data")), str(protocol.get("pipeline")), protocol.get("vae"), shape))
    if content.absent:
        return not_kept("data", f"{known.name} is not on this machine: {content.absent}"), False
    problems = [content.damaged] if content.damaged else []
    if not problems and content.sha256 != known.sha256:
        problems.append(
            f"{known.name} hashes to {str(content.sha256)[:12]} here, manifest.json has {known.sha256[:12]}"
        )
    if not problems and content.num_images != known.num_images:
        problems.append(f"{known.name} has {content.num_images} images here, manifest.json says {known.num_images}")
    return judged("data", problems, f"{known.name}, {known.num_images:,} images, sha256 {known.sha256[:12]}"), True


def data_folder() -> Path:
    """As harness.data.sources has it, which needs torch."""
    return Path(os.environ.get("HARNESS_DATA") or user_data_path("dit-harness"))


@lru_cache
def _content(source: Source) -> Content:
    named = source.name in MADE_HERE and source.pipeline != "online-vae"
    places = (Path(source.name), data_folder() / source.name)
    if not named and source.name != "cifar10" and not any(place.is_dir() for place in places):
        return Content(None, None, absent="its folder is not here")
    from harness.data import sources  # with torch, which takes seconds to import

    try:
        shape = (
            None
            if source.shape is None
            else InputShape(**dict(zip(InputShape.model_fields, source.shape, strict=True)))
        )
        found = sources.load(source.name, shape=shape, pipeline=source.pipeline, vae=source.vae)
        found.check(lambda done: None)
        return Content(found.sha256, len(found))
    except (HarnessError, ValueError) as error:
        if source.name == "cifar10":
            return Content(None, None, absent=reason_of(error))
        return Content(None, None, damaged=reason_of(error))
