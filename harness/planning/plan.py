"""What a run will be, before anything is spent: its resolved settings, its cost, its needs."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import baselines
from harness.data import proxy, sources
from harness.data.loader import rows_of
from harness.model import encoders
from harness.model.method import Method
from harness.model.shape import shape_of
from harness.planning import floor
from harness.planning.beforehand import recipe_with
from harness.planning.cost import count
from harness.planning.estimate import estimate, largest_micro_batch
from harness.recipes import metric_names
from harness.recipes.config import RunConfig, as_typed, read_config
from harness.records import machine
from harness.records.evidence import Count
from harness.records.folders import departures
from harness.system.errors import SetupError
from harness.system.precision import default_device
from harness.system.processes.world import World

USABLE_MEMORY = 0.8  # share of the free memory; the rest is for kernels and for tensors that live within one operation


def resolve(recipe: str | Path, assignments: list[str], note: Callable[[str], None] = lambda said: None) -> RunConfig:
    """The recipe's (or config.yaml's) settings with the assignments applied, validated.

    Another formulation brings its sampler with it. An input that the recipe leaves open is the data set's, and images
    other than the recipe's digits are measured by a classifier of their own. An encoder that is trained on the run's
    images, repa-proxy, gets the hash of its weights. A setting that is newer than the config.yaml gets the recipe's
    value, and `note` is told, with the run's id. Raises UsageError for an unknown recipe, key, data set or feature
    network, or a value out of range.
    """
    newer: dict[str, Any] = {}
    if isinstance(recipe, Path):
        document = read_config(recipe)
        newer = departures.complete(document)
    else:
        document = recipe_with(recipe, assignments)
    with as_typed(assignments):
        document = baselines.overridden(document, assignments)
        if document.get("input") is None:
            data = sources.of_section(document.get("protocol"))
            document["input"] = data.shape.model_dump()
            asked = any(a.partition("=")[0] in ("features", "evaluation.features") for a in assignments)
            if not asked and _measured_as_digits(document) and data.real and data.vae is None:
                document["evaluation"]["features"] = metric_names.OWN
        cfg = with_proxy(baselines.configured(document))
    metric_names.require_network(cfg.evaluation.features)
    metric_names.require(cfg.evaluation.metrics)
    if newer:
        settings = ", ".join(f"{path} {departures.as_text(value)}" for path, value in newer.items())
        note(
            f"{recipe} is older than some settings, which get the recipe's values: {settings}. The id of the "
            f"run with all of them is {cfg.run_id}, which need not be the record's."
        )
    return cfg


def with_proxy(cfg: RunConfig) -> RunConfig:
    """`cfg` with the hash of its repa-proxy, which is trained where its weights are not on this machine yet.

    A configuration that names other weights than this machine makes keeps them, and the run says that they are absent.
    Raises DataError for data that no classifier can be trained on.
    """
    if getattr(cfg.knobs, "encoder", None) != encoders.PROXY:
        return cfg
    named = getattr(cfg.knobs, "encoder_sha256", None)
    if named and encoders.Local.of(encoders.PROXY, named, "safetensors").find():
        return cfg
    sha256 = proxy.made(sources.of(cfg))
    if named:
        return cfg
    return cfg.model_copy(update={"knobs": cfg.knobs.model_copy(update={"encoder_sha256": sha256})})


def _measured_as_digits(document: dict[str, Any]) -> bool:
    """Whether the feature network is the digits' classifier, and the data are none of its."""
    features, data = document["evaluation"]["features"], document["protocol"]["data"]
    return features == metric_names.DIGITS and data != metric_names.DIGITS


def plan(cfg: RunConfig, world_size: int) -> dict[str, Any]:
    """What `--dry-run` prints: result.json's keys as far as they are known before training, and the configuration."""
    cost = cost_of(cfg)
    rows_of(cfg, World(size=world_size), on_shapes(cfg).group)
    require_room(cfg, world_size)
    return {
        **identity_of(cfg, world_size),
        **cost.model_dump(),
        "device": machine.describe(default_device(), world_size).model_dump(),
        "complete": False,
        "estimate": estimate_of(cfg, cost, world_size=world_size),
        "config": cfg.model_dump(mode="json"),
    }


def require_room(cfg: RunConfig, world_size: int) -> None:
    """Raises SetupError where the images of a process's share of one batch are more than this machine's free memory.

    They are read at once, whatever the micro-batch: what a step computes on them comes on top.
    """
    share, free = math.ceil(cfg.protocol.batch_size / world_size), machine.available_memory(torch.device("cpu"))
    image = 4 * cfg.input.channels * cfg.input.side**2  # bytes
    if free is not None and share * image > free:
        raise SetupError(
            f"the batch is {cfg.protocol.batch_size:,} images, of which a process reads {share:,} at once: "
            f"{share * image / 1e9:,.0f} GB, and {free / 1e9:,.0f} GB are free here. Smaller pieces (--micro-batch) do "
            "not help; take a smaller batch: --set batch_size=N."
        )


def too_large(cfg: RunConfig, device: torch.device, world_size: int = 1) -> SetupError:
    """What to say when a step did not fit into memory: the largest micro-batch that the estimate says would."""
    available = machine.available_memory(device)
    fits = (
        None
        if available is None
        else largest_micro_batch(cfg, on_shapes(cfg), USABLE_MEMORY * available, world_size=world_size)
    )
    where = "the GPU's memory" if device.type == "cuda" else "this machine's memory"
    said = f"--micro-batch {fits} should, by the estimate" if fits else "by the estimate not even single images do"
    return SetupError(
        f"a step of {cfg.recipe} did not fit into {where}; {said}. Pieces add up to the same gradient. "
        "--set activation_checkpointing=true needs less memory and more time."
    )


def identity_of(cfg: RunConfig, world_size: int) -> dict[str, Any]:
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


def on_shapes(cfg: RunConfig) -> Method:
    """The run's method on the meta device: shapes without memory. Raises UsageError for one that cannot be built."""
    return baselines.build(cfg, device="meta")


def cost_of(cfg: RunConfig) -> Count:
    """Parameters and arithmetic of a run, counted on shapes alone."""
    return count(on_shapes(cfg), shape_of(cfg))


def estimate_of(cfg: RunConfig, cost: Count | None = None, *, world_size: int = 1) -> dict[str, Any]:
    """What each process of a run would need, its arithmetic counted anew unless it is given."""
    return estimate(cfg, cost or cost_of(cfg), on_shapes(cfg), world_size)


def expected_step(name: str, cfg: RunConfig, processes: int) -> dict[str, Any]:
    """Arithmetic, bytes, memory and the floor of a step on each device of the table, as `bench --estimate` prints."""
    work, cost = floor.work_of(cfg, on_shapes(cfg), world_size=processes), cost_of(cfg)
    return {
        "name": name,
        "recipe": cfg.recipe,
        "pipeline": cfg.protocol.pipeline,
        "batch_size": cfg.protocol.batch_size,
        "params": cost.params,
        "gmacs_counted": cost.gmacs_step,
        "work": work.as_json(),
        "memory_bytes": estimate_of(cfg, cost, world_size=processes)["memory_bytes"],
        "floors": [known.as_json() for known in floor.floors_of(work)],
    }
