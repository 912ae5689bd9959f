"""Joins a method, the engine and the evaluator into a run. The one module that knows all three."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

from harness import provenance
from harness.config import RunConfig, apply_overrides, load_recipe, read_config, validate
from harness.data import sources
from harness.data.sources import Dataset
from harness.errors import DataError
from harness.evaluation import features, images
from harness.results.schema import Evaluation, Manifest, Result, read_record, write_atomically, write_record
from harness.training import engine, registry, telemetry
from harness.training.cost import Cost, count

SPACE_FACTOR = 8  # bytes on disk per byte of network: raw, EMA, teacher, two moments, and two checkpoints at once
GRID_ROWS = 10


class Progress(Protocol):
    """What a run tells whoever watches it."""

    def note(self, text: str) -> None: ...
    def stage(self, name: str, total: int) -> None: ...
    def metrics(self, line: dict[str, Any]) -> None: ...
    def advance(self, done: int) -> None: ...


def resolve(recipe: str | Path, assignments: list[str]) -> RunConfig:
    """The recipe's (or config.yaml's) settings with the assignments applied, validated.

    Raises UsageError for an unknown recipe, key, data set or feature network, or a value out of range.
    """
    document = read_config(recipe) if isinstance(recipe, Path) else load_recipe(recipe)
    knobs = registry.load(document["method"]).Config
    cfg = validate(apply_overrides(document, assignments, knobs.model_fields), knobs)
    features.require(cfg.evaluation.features)
    return cfg


def plan(cfg: RunConfig) -> dict[str, Any]:
    """What `--dry-run` prints: result.json's keys as far as they are known before training, and the configuration."""
    data = sources.load(cfg.protocol.data)
    return {
        **_identity(cfg),
        **_cost(cfg, data)._asdict(),
        "device": telemetry.describe(default_device()).model_dump(),
        "complete": False,
        "config": cfg.model_dump(mode="json"),
    }


def run(cfg: RunConfig, out: Path, *, command: str, progress: Progress, with_evaluation: bool, force: bool) -> Result:
    """Train, sample and evaluate one configuration under `out`, or go on where it stopped; a finished run is returned.

    Raises the HarnessErrors of its parts; DataError before any step when the folder cannot be written.
    """
    data = sources.load(cfg.protocol.data)
    device = default_device()
    method = registry.build(cfg, data)
    folder = out / cfg.recipe / cfg.run_id
    if force and (folder / "config.yaml").exists():
        shutil.rmtree(folder)
    evaluates = with_evaluation and data.real
    finished = _finished(folder, needs_evaluation=evaluates)
    if finished:
        progress.note(f"{folder} is finished; nothing to do. --force starts over.")
        return finished
    if with_evaluation and not data.real:
        progress.note(f"{data.name} is random numbers, for speed only: it is not evaluated.")
    cost = _cost(cfg, data)
    _prepare(folder, cost)
    hardware = telemetry.describe(device)
    write_atomically(folder / "config.yaml", cfg.to_yaml())
    _keep_manifest(folder, provenance.describe(cfg, data, hardware, command), progress)

    telemetry.reset_peak_memory(device)
    progress.stage("training", cfg.protocol.steps)
    trained = engine.train(method, cfg, data, folder, device=device, report=progress.metrics, note=progress.note)
    started = time.perf_counter()
    evaluations = _evaluate_both(trained.network, cfg, data, folder, device, progress) if evaluates else {}
    result = Result(
        **_identity(cfg),
        **cost._asdict(),
        images_seen=cfg.protocol.steps * cfg.protocol.batch_size,
        steps_per_sec=trained.steps_per_sec,
        steps_per_sec_sd=trained.steps_per_sec_sd,
        timed_steps=trained.timed_steps,
        peak_memory_bytes=trained.peak_memory_bytes,
        peak_memory_kind=telemetry.peak_memory(device)[1],
        evaluations=evaluations,
        wall_seconds=trained.seconds + time.perf_counter() - started,
        device=hardware,
    )
    write_record(folder / "result.json", result)
    return result


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _identity(cfg: RunConfig) -> dict[str, Any]:
    return {
        "recipe": cfg.recipe,
        "run_id": cfg.run_id,
        "method": cfg.method,
        "size": cfg.size,
        "seed": cfg.seed,
        "steps": cfg.protocol.steps,
        "input_patches": cfg.knobs.input_patches,
        "world_size": 1,
    }


def _cost(cfg: RunConfig, data: Dataset) -> Cost:
    return count(lambda: registry.build(cfg, data, device="meta"), registry.shape_of(cfg, data))


def _keep_manifest(folder: Path, manifest: Manifest, progress: Progress) -> None:
    """Write the manifest of a run that starts; a run that continues keeps its own, and must be on the same hardware.

    One number for the speed of two machines would be nobody's. Raises DataError on other hardware.
    """
    path = folder / "manifest.json"
    if not any((folder / "checkpoints").glob("step-*")):
        return write_record(path, manifest)
    try:
        begun = read_record(path, Manifest)
    except DataError as error:
        progress.note(f"{error} It is written anew.")
        return write_record(path, manifest)
    if begun.device != manifest.device:
        raise DataError(
            f"{folder} was begun on {begun.device.name} with {begun.device.threads} threads; this is "
            f"{manifest.device.name} with {manifest.device.threads}, and one speed for both would be nobody's. "
            "Continue it there, or start over with --force."
        )
    if (begun.git_commit, begun.git_diff_sha256) != (manifest.git_commit, manifest.git_diff_sha256):
        progress.note("the code has changed since this run began; its manifest names the code it began with.")


def _finished(folder: Path, *, needs_evaluation: bool) -> Result | None:
    try:
        result = read_record(folder / "result.json", Result)
    except DataError:
        return None  # absent or damaged: the run goes on from its checkpoints and writes it anew
    return result if result.evaluations or not needs_evaluation else None


def _prepare(folder: Path, cost: Cost) -> None:
    """Find out now, not after hours, whether the folder can be written and holds the checkpoints."""
    probe = folder / ".write-probe"
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        probe.write_bytes(os.urandom(1 << 16))
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written: {error.strerror or error}. Choose another folder with --out."
        ) from error
    finally:
        probe.unlink(missing_ok=True) if folder.is_dir() else None
    needed = SPACE_FACTOR * 4 * cost.params
    if free < needed:
        raise DataError(
            f"{folder} has {free / 1e9:.1f} GB free, and the checkpoints need about {needed / 1e9:.1f} GB. "
            "Free some space or choose another folder with --out."
        )


def _evaluate_both(network, cfg, data, folder, device, progress) -> dict[str, Evaluation]:
    """Metrics of the network before and after training: what it learned is the difference."""
    from harness.evaluation.evaluate import evaluate, protocol_of  # torch-fidelity takes seconds to import

    networks: dict[str, tuple[int, Callable[[], torch.nn.Module]]] = {
        "untrained": (0, lambda: registry.build(cfg, data).network.to(device)),
        "final": (cfg.protocol.steps, lambda: network),
    }
    wanted = protocol_of(cfg, data, features.load(cfg.evaluation.features))
    evaluations = {}
    for name, (step, make) in networks.items():
        path = folder / "evaluations" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        known = _known_evaluation(path)
        if known is None or known.protocol != wanted:
            progress.stage(f"evaluating the {name} network", cfg.evaluation.num_images)
            known, generated = evaluate(
                make(), cfg, data, name=name, step=step, device=device, advance=progress.advance
            )
            if name == "final":
                (folder / "samples").mkdir(exist_ok=True)
                images.save_png(folder / "samples" / "grid.png", images.class_grid(generated.images, generated.labels))
            write_record(path, known)
        evaluations[name] = known
    return evaluations


def _known_evaluation(path: Path) -> Evaluation | None:
    try:
        return read_record(path, Evaluation)
    except DataError:
        return None  # absent or damaged: it is made again
