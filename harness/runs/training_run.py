"""Joins a method, the engine and the evaluator into a run. The one module that knows all three."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import baselines
from harness.data import sources
from harness.data.dataset import Dataset
from harness.data.loader import rows_of
from harness.evaluation import held_out
from harness.evaluation.generation import image_shape
from harness.planning.cost import GIGA
from harness.planning.devices import peak_flops
from harness.planning.estimate import fitting_micro_batch
from harness.planning.plan import (
    USABLE_MEMORY,
    cost_of,
    estimate_of,
    identity_of,
    on_shapes,
    require_room,
    too_large,
    with_proxy,
)
from harness.recipes.config import Execution, RunConfig, read_config
from harness.recipes.metric_names import OWN
from harness.records import information, machine, provenance
from harness.records.evidence import Count
from harness.records.schema import LAST_LINES, Device, Evaluation, Result, read_lines, record_or_none, write_record
from harness.runs import folder as run_folder
from harness.system import locks
from harness.system.errors import DataError, HarnessError, UsageError
from harness.system.precision import IMITATED, default_device, deterministic, set_precision, slower_than_fp32
from harness.system.precision import require as require_precision
from harness.system.processes.world import World
from harness.system.progress import Progress
from harness.training import checkpoint, engine
from harness.training.step import refuse_absent_extra

if TYPE_CHECKING:
    from harness.data.latents.vae import Vae
    from harness.evaluation.evaluate import Yardstick

UNTRAINED = "evaluating the untrained network first: what the trained one gains over it is told beside its metrics"


def run(
    cfg: RunConfig,
    out: Path,
    *,
    command: str,
    progress: Progress,
    with_evaluation: bool,
    force: bool,
    world: World = World(),
) -> Result | None:
    """Train, sample and evaluate one configuration under `out`, or go on where it stopped; a finished run is returned.

    Every process of `world` calls this alike; the main one writes and has the answer. Raises the HarnessErrors of its
    parts; DataError before any step when the folder cannot be written.
    """
    rows_of(cfg, world)
    require_room(cfg, world.size)
    device = default_device()
    require_precision(cfg.protocol.precision, device)
    set_precision(cfg.protocol.precision)
    if slower_than_fp32(cfg.protocol.precision, device):
        progress.note(f"{IMITATED}. --precision fp32 is another run.")
    if cfg.execution.residency == "gpu" and device.type != "cuda":
        raise UsageError("--data-residency is gpu, and this machine has none; leave it out or say host.")
    folder = out / cfg.recipe / cfg.run_id
    evaluates = with_evaluation and cfg.protocol.data != sources.SYNTHETIC

    def finished() -> Result | None:
        """As the main process finds it, for all: another command may be about to end the run."""
        looks = world.is_main and not force
        return world.agreed(run_folder.finished(folder, cfg, needs_evaluation=evaluates) if looks else None)

    result = finished()
    if result is None:
        otherwise = "give this one another --seed or --out"
        with locks.run_folder(folder, otherwise, alone=force, world=world, note=progress.note) as hold:
            result = finished()
            if result is None:
                if with_evaluation and not evaluates:
                    progress.note(f"{cfg.protocol.data} is random numbers, for speed only: it is not evaluated.")
                with deterministic(cfg.execution.deterministic, device):
                    return _carry_out(
                        cfg, folder, device, hold,
                        command=command, progress=progress, evaluates=evaluates, force=force, world=world,
                    )  # fmt: skip
    progress.note(f"{folder} is finished; nothing to do. --force starts over.")
    return result


def _carry_out(
    cfg: RunConfig,
    folder: Path,
    device: torch.device,
    hold: locks.Hold,
    *,
    command: str,
    progress: Progress,
    evaluates: bool,
    force: bool,
    world: World,
) -> Result | None:
    """Carry out `run` when there is no finished result and this process has the folder's lock."""
    data = sources.of(cfg)
    method = on_shapes(cfg)
    refuse_absent_extra(method, data, cfg)
    rows = rows_of(cfg, world, method.group)
    group = min(method.group, rows.stop - rows.start)
    if world.is_main:  # fetches, or makes, what is absent
        with_proxy(cfg)
        for frozen in method.frozen.values():
            frozen.file.get()
    world.wait()
    yard = _yardstick(cfg, data, device, progress) if evaluates else None
    if data.num_files:
        progress.stage("checking the data", data.num_files, "files")
    data.check(progress.advance)
    cost = cost_of(cfg)
    needs = estimate_of(cfg, cost, world_size=world.size)
    begun = folder if not force and run_folder.begun(folder) else None
    cfg = world.agreed(_in_pieces_that_fit(cfg, needs["memory_parts"], group, device, world, begun, progress))
    method = baselines.build(cfg)
    hardware = machine.describe(device, world.size)
    if world.is_main:
        frozen_weights = {name: frozen.file.sha256 for name, frozen in method.frozen.items()}
        manifest = provenance.describe(cfg, data.identity, frozen_weights, hardware, world.size, command)
        needed = needs["disk_parts"]["checkpoints"]
        run_folder.make_ready(folder, cfg, manifest, needed=needed, force=force, hold=hold, progress=progress)
    world.wait()

    machine.reset_peak_memory(device)
    progress.stage("training", cfg.protocol.steps)
    try:
        trained = engine.train(
            method, cfg, data, folder, device=device, report=progress.metrics, note=progress.note, world=world,
            images_per_sec_at_peak=_images_per_sec_at_peak(cfg, cost, hardware),
            observe=held_out.along_training(cfg, data, device),
        )  # fmt: skip
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not machine.ran_out_of_memory(error):
            raise
        raise too_large(cfg, device, world.size) from error
    if world.is_main:
        lines = read_lines(folder / "metrics.jsonl", last_bytes=LAST_LINES)[0]
        if warning := information.warning(cfg.method, cfg.knobs.model_dump(), lines):
            progress.note(warning)
            trained.notes.append(warning)
    started = time.perf_counter()
    set_precision("fp32")  # sampling and evaluation use it, whatever the training used
    evaluations = _evaluate_all(trained.network, cfg, data, yard, folder, world, progress) if yard else {}
    if not world.is_main:
        return None
    result = Result(
        **identity_of(cfg, world.size),
        **cost.model_dump(),
        images_seen=cfg.protocol.steps * cfg.protocol.batch_size,
        **trained.speed._asdict(),
        peak_memory_kind=machine.peak_memory(device)[1],
        evaluations=evaluations,
        wall_seconds=trained.seconds + time.perf_counter() - started,
        device=hardware,
        compiled=trained.compiled,
        attention=trained.attention,
        notes=trained.notes,
    )
    write_record(folder / "result.json", result)
    return result


def _images_per_sec_at_peak(cfg: RunConfig, cost: Count, hardware: Device) -> float | None:
    peak = peak_flops(hardware.name, cfg.protocol.precision) if hardware.kind == "cuda" else None
    return peak and peak * hardware.count / (2 * cost.gmacs_step * GIGA)


def _yardstick(cfg: RunConfig, data: Dataset, device: torch.device, progress: Progress) -> "Yardstick":
    """What the run will be measured with. Opened before training: after it is too late to find that it is missing."""
    from harness.evaluation.evaluate import yardstick  # torch-fidelity takes seconds to import

    plan = cfg.evaluation
    if plan.features == OWN:
        progress.note(f"making the feature network {OWN} of {data.name}, or finding the one that was made before")
    try:
        yard = yardstick(plan.features, plan.reference, plan.metrics, device=device, data=data)
        yard.network.refuse(image_shape(cfg.input, _vae(data, device)))
    except HarnessError as error:
        raise type(error)(f"{error} Or train with --no-eval: the same command without it evaluates later.") from None
    if yard.network.accuracy is not None:
        progress.note(f"it classifies {yard.network.accuracy:.1%} of held-out images correctly")
    return yard


def _in_pieces_that_fit(
    cfg: RunConfig,
    parts: dict[str, int],
    group: int,
    device: torch.device,
    world: World,
    begun: Path | None,
    progress: Progress,
) -> RunConfig:
    """`cfg` with a micro-batch, where it has none and a process's share, of these `parts`, would not fit into memory.

    A run that has `begun` keeps the pieces it began with, or it would not continue bit for bit.
    """
    rows = rows_of(cfg, world)
    share, available = rows.stop - rows.start, machine.available_memory(device)
    if cfg.execution.micro_batch is not None:
        return cfg
    if begun is not None:
        try:
            execution = read_config(begun / "config.yaml").get("execution") or {}
        except DataError:
            progress.note(f"{begun / 'config.yaml'} is damaged and written anew: {cfg.run_id} says what was in it.")
        else:
            return _with_micro_batch(cfg, execution.get("micro_batch"))
    if available is None:
        return cfg
    room = USABLE_MEMORY * available / (1 if device.type == "cuda" else world.local_size)
    micro_batch = fitting_micro_batch(parts, share, room, group) or group
    if micro_batch == share:
        return cfg
    progress.note(
        f"a batch of {share} would take {sum(parts.values()) / 1e9:.0f} GB of {available / 1e9:.0f} GB: it is taken in "
        f"{share // micro_batch} pieces of {micro_batch}, which add up to the same gradient (--micro-batch)."
    )
    return _with_micro_batch(cfg, micro_batch)


def _with_micro_batch(cfg: RunConfig, micro_batch: int | None) -> RunConfig:
    execution = Execution.model_validate(cfg.execution.model_dump() | {"micro_batch": micro_batch})
    return cfg.model_copy(update={"execution": execution})


def _evaluate_all(
    network: torch.nn.Module,
    cfg: RunConfig,
    data: Dataset,
    yard: "Yardstick",
    folder: Path,
    world: World,
    progress: Progress,
) -> dict[str, Evaluation]:
    """Metrics of the network after training and, if the plan says so, before it and at its milestones."""
    from harness.evaluation.evaluate import evaluate, protocol_of

    networks: dict[str, tuple[int, Callable[[], torch.nn.Module | None]]] = {
        "untrained": (0, lambda: baselines.build(cfg).network.to(yard.device)),
        **{
            run_folder.milestone_name(step): (step, partial(_averaged, cfg, folder, step, yard.device, progress))
            for step in run_folder.milestones(cfg)
        },
        "final": (cfg.protocol.steps, lambda: network),
    }
    if not cfg.evaluation.untrained:
        del networks["untrained"]
    decoder = _vae(data, yard.device)
    wanted = protocol_of(cfg, yard, decoder)
    evaluations = {}
    for name, (step, make) in networks.items():
        path = folder / "evaluations" / f"{name}.json"
        known = world.agreed(record_or_none(path, Evaluation) if world.is_main else None)
        if known is None or known.protocol != wanted:
            measured = make()
            if not world.agreed(measured is not None):
                progress.note(f"there is no whole checkpoint of step {step}, so it is not evaluated.")
                continue
            progress.note(f"evaluating the network of {name}" if step else UNTRAINED)
            assert measured is not None, "the main process's word holds for all"
            known = evaluate(
                measured, cfg, yard,
                name=name, step=step, weights="ema" if step else "raw", vae=decoder, folder=folder, world=world,
                progress=progress, grid=folder / "samples" / "grid.png" if name == "final" else None,
            )  # fmt: skip
            if known:
                path.parent.mkdir(exist_ok=True)
                write_record(path, known)
        evaluations[name] = known
    return evaluations


def _averaged(
    cfg: RunConfig, folder: Path, step: int, device: torch.device, progress: Progress
) -> torch.nn.Module | None:
    """The averaged network after `step` steps, from its checkpoint; None where there is none that verifies."""
    found = checkpoint.load_ema(folder / "checkpoints", cfg.sha256, progress.note, step)
    return None if found is None else run_folder.network(cfg, found[1], folder).to(device).eval()


def _vae(data: Dataset, device: torch.device) -> "Vae | None":
    if data.vae is None:
        return None
    from harness.data.latents import vae  # diffusers takes seconds to import

    return vae.load(data.vae, device, sha256=data.vae_sha256)
