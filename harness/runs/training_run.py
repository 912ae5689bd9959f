"""Joins a method, the engine and the evaluator into a run. The one module that knows all three."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import baselines
from harness.data import sources
from harness.data.dataset import Dataset
from harness.evaluation.generation import image_shape
from harness.evaluation.networks import features
from harness.model.shape import shape_of
from harness.planning.cost import GIGA, Cost, count
from harness.planning.devices import peak_flops
from harness.planning.estimate import Estimate, estimate, fitting_micro_batch, largest_micro_batch
from harness.recipes import metric_names
from harness.recipes.config import Execution, RunConfig, apply_overrides, read_config, validate
from harness.recipes.reading import load_recipe
from harness.records import provenance
from harness.records.folders import departures, newer_settings
from harness.records.schema import Device, Evaluation, Result, read_record, write_record
from harness.runs import folder as run_folder
from harness.system import locks
from harness.system.errors import DataError, HarnessError, SetupError, UsageError
from harness.system.precision import deterministic, set_precision
from harness.system.precision import require as require_precision
from harness.system.processes.world import World
from harness.system.progress import Progress
from harness.training import checkpoint, engine, telemetry
from harness.training.step import rows_of

if TYPE_CHECKING:
    from harness.data.latents.vae import Vae
    from harness.evaluation.evaluate import Yardstick

USABLE_MEMORY = 0.8  # of what is free: the rest is for kernels and for what lives within one operation


def resolve(recipe: str | Path, assignments: list[str], note: Callable[[str], None] = lambda said: None) -> RunConfig:
    """The recipe's (or config.yaml's) settings with the assignments applied, validated.

    Another formulation brings its sampler with it; an input that the recipe leaves open is the data set's. A setting
    that is newer than the config.yaml gets the recipe's value, and `note` is told, with the run's id. Raises UsageError
    for an unknown recipe, key, data set or feature network, or a value out of range.
    """
    newer: dict[str, Any] = {}
    if isinstance(recipe, Path):
        document = read_config(recipe)
        newer = newer_settings.complete(document)
    else:
        formulations = [a.partition("=")[2] for a in assignments if a.startswith("formulation=")]
        document = load_recipe(recipe, formulations[-1] if formulations else None).document
    knobs = baselines.load(document["method"]).Config
    document = apply_overrides(document, assignments, knobs.model_fields)
    if document.get("input") is None:
        document["input"] = sources.shape_of(document.get("protocol")).model_dump()
    cfg = validate(document, knobs)
    features.require(cfg.evaluation.features)
    metric_names.require(cfg.evaluation.metrics)
    if newer:
        settings = ", ".join(f"{path} {departures.as_text(value)}" for path, value in newer.items())
        note(
            f"{recipe} is older than some settings, which get the recipe's values: {settings}. The id of the "
            f"run with all of them is {cfg.run_id}, which need not be the record's."
        )
    return cfg


def plan(cfg: RunConfig, world_size: int) -> dict[str, Any]:
    """What `--dry-run` prints: result.json's keys as far as they are known before training, and the configuration."""
    cost = cost_of(cfg)
    rows_of(cfg, World(size=world_size))
    return {
        **_identity(cfg, world_size),
        **cost._asdict(),
        "device": telemetry.describe(default_device(), world_size).model_dump(),
        "complete": False,
        "estimate": estimate_of(cfg, cost, world_size=world_size).as_json(),
        "config": cfg.model_dump(mode="json"),
    }


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
    device = default_device()
    require_precision(cfg.protocol.precision, device)
    set_precision(cfg.protocol.precision)
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
    """`run`, once nothing is known and nobody else works in the folder."""
    data = sources.of(cfg)
    yard = _yardstick(cfg, data, device) if evaluates else None
    if data.num_files:
        progress.stage("checking the data", data.num_files, "files")
    data.check(progress.advance)
    cost = cost_of(cfg)
    needs = estimate_of(cfg, cost, world_size=world.size)
    begun = folder if not force and run_folder.begun(folder) else None
    cfg = world.agreed(_in_pieces_that_fit(cfg, needs.memory_parts, device, world, begun, progress))
    method = baselines.build(cfg)
    hardware = telemetry.describe(device, world.size)
    if world.is_main:
        manifest = provenance.describe(cfg, data, hardware, world.size, command)
        needed = needs.disk_parts["checkpoints"]
        run_folder.make_ready(folder, cfg, manifest, needed=needed, force=force, hold=hold, progress=progress)
    world.wait()

    telemetry.reset_peak_memory(device)
    progress.stage("training", cfg.protocol.steps)
    try:
        trained = engine.train(
            method, cfg, data, folder, device=device, report=progress.metrics, note=progress.note, world=world,
            images_per_sec_at_peak=_images_per_sec_at_peak(cfg, cost, hardware),
        )  # fmt: skip
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not telemetry.ran_out_of_memory(error):
            raise
        raise too_large(cfg, device, world.size) from error
    started = time.perf_counter()
    set_precision("fp32")  # of sampling and evaluation, whatever trained
    evaluations = _evaluate_all(trained.network, cfg, data, yard, folder, world, progress) if yard else {}
    if not world.is_main:
        return None
    result = Result(
        **_identity(cfg, world.size),
        **cost._asdict(),
        images_seen=cfg.protocol.steps * cfg.protocol.batch_size,
        **trained.speed._asdict(),
        peak_memory_kind=telemetry.peak_memory(device)[1],
        evaluations=evaluations,
        wall_seconds=trained.seconds + time.perf_counter() - started,
        device=hardware,
        compiled=trained.compiled,
        attention=trained.attention,
        notes=trained.notes,
    )
    write_record(folder / "result.json", result)
    return result


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def too_large(cfg: RunConfig, device: torch.device, world_size: int = 1) -> SetupError:
    """What to say when a step did not fit into memory: the largest micro-batch that the estimate says would."""
    available = telemetry.available_memory(device)
    fits = None if available is None else largest_micro_batch(cfg, USABLE_MEMORY * available, world_size=world_size)
    where = "the GPU's memory" if device.type == "cuda" else "this machine's memory"
    said = f"--micro-batch {fits} should, by the estimate" if fits else "by the estimate not even single images do"
    return SetupError(
        f"a step of {cfg.recipe} did not fit into {where}; {said}. Pieces add up to the same gradient. "
        "--set activation_checkpointing=true needs less memory and more time."
    )


def _images_per_sec_at_peak(cfg: RunConfig, cost: Cost, hardware: Device) -> float | None:
    peak = peak_flops(hardware.name, cfg.protocol.precision) if hardware.kind == "cuda" else None
    return peak and peak * hardware.count / (2 * cost.gmacs_step * GIGA)


def _identity(cfg: RunConfig, world_size: int) -> dict[str, Any]:
    return {
        "recipe": cfg.recipe,
        "run_id": cfg.run_id,
        "method": cfg.method,
        "size": cfg.size,
        "seed": cfg.seed,
        "steps": cfg.protocol.steps,
        "input_patches": cfg.knobs.input_patches,
        "world_size": world_size,
    }


def cost_of(cfg: RunConfig) -> Cost:
    """Parameters and arithmetic of a run, counted on shapes alone."""
    return count(lambda: baselines.build(cfg, device="meta"), shape_of(cfg))


def estimate_of(cfg: RunConfig, cost: Cost | None = None, *, world_size: int = 1) -> Estimate:
    """What each process of a run would need, its arithmetic counted anew unless it is given."""
    method = baselines.build(cfg, device="meta")
    return estimate(cfg, shape_of(cfg), cost or cost_of(cfg), method, world_size)


def _yardstick(cfg: RunConfig, data: Dataset, device: torch.device) -> "Yardstick":
    """What the run will be measured with. Opened before training: after it is too late to find that it is missing."""
    from harness.evaluation.evaluate import yardstick  # torch-fidelity takes seconds to import

    plan = cfg.evaluation
    try:
        yard = yardstick(plan.features, plan.reference, plan.metrics, device=device, data=data)
        yard.network.refuse(image_shape(cfg.input, _vae(data, device)))
    except HarnessError as error:
        raise type(error)(f"{error} Or train with --no-eval: the same command without it evaluates later.") from None
    return yard


def _in_pieces_that_fit(
    cfg: RunConfig,
    parts: dict[str, int],
    device: torch.device,
    world: World,
    begun: Path | None,
    progress: Progress,
) -> RunConfig:
    """`cfg` with a micro-batch, where it has none and a process's share, of these `parts`, would not fit into memory.

    A run that has `begun` keeps the pieces it began with, or it would not continue bit for bit.
    """
    rows = rows_of(cfg, world)
    share, available = rows.stop - rows.start, telemetry.available_memory(device)
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
    micro_batch = fitting_micro_batch(parts, share, room) or 1
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
        known = world.agreed(_known_evaluation(path) if world.is_main else None)
        if known is None or known.protocol != wanted:
            measured = make()
            if not world.agreed(measured is not None):
                progress.note(f"there is no whole checkpoint of step {step}, so it is not evaluated.")
                continue
            progress.note(f"evaluating the network of {name}" if step else "evaluating the untrained network")
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


def _known_evaluation(path: Path) -> Evaluation | None:
    try:
        return read_record(path, Evaluation)
    except DataError:
        return None  # absent or damaged: it is made again
