"""What can be done with a trained or imported run afterwards: draw images from it, measure it."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from harness.config import RunConfig, apply_overrides, digest, read_config, validate
from harness.data import sources
from harness.errors import DataError, UsageError
from harness.evaluation import features, images
from harness.evaluation.evaluate import evaluate, generate_in_parts
from harness.evaluation.generation import choose_labels, decoder
from harness.experiment import Progress, default_device
from harness.importing import RECORD
from harness.precision import set_precision
from harness.results.schema import Evaluation, Import, Manifest, read_record, write_atomically, write_record
from harness.training import checkpoint, registry
from harness.world import World


class Opened(NamedTuple):
    """A run folder's averaged network, ready to be sampled."""

    folder: Path
    cfg: RunConfig
    network: torch.nn.Module
    step: int  # training steps behind it; 0 for an imported one, whose training is not known
    vae: str | None  # between pixels and latents
    vae_sha256: str | None  # of its weights, where known


def open_run(folder: Path, device: torch.device, progress: Progress) -> Opened:
    """The newest averaged network in `folder` that verifies.

    Raises DataError when the folder is no run, or holds no checkpoint of its configuration.
    """
    if not (folder / "config.yaml").is_file():
        raise DataError(f"{folder} is not a run folder: it has no config.yaml. `harness run` makes one in runs/.")
    document = read_config(folder / "config.yaml")
    cfg = validate(document, registry.load(str(document["method"])).Config)
    found = checkpoint.load_newest_ema(folder / "checkpoints", cfg.sha256, progress.note)
    if found is None:
        raise DataError(f"{folder} holds no whole checkpoint of its configuration; `harness run` continues the run.")
    step, weights = found
    network = registry.build(cfg).network
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(f"the checkpoint in {folder} does not fit its configuration: {error}.") from None
    return Opened(folder, cfg, network.to(device).eval(), step, *_vae_of(folder))


def _vae_of(folder: Path) -> tuple[str | None, str | None]:
    if (folder / RECORD).is_file():
        return read_record(folder / RECORD, Import).vae, None
    data = read_record(folder / "manifest.json", Manifest).data
    return data.vae, data.vae_sha256


def _changed(cfg: RunConfig, values: dict[str, float | None]) -> RunConfig:
    """`cfg` with those of the values that are not None, validated."""
    knobs = registry.load(cfg.method).Config
    assignments = [f"{key}={value}" for key, value in values.items() if value is not None]
    return validate(apply_overrides(cfg.model_dump(mode="json"), assignments, knobs.model_fields), knobs)


def sample(
    folder: Path,
    num_images: int,
    *,
    seed: int,
    guidance_scale: float | None,
    num_steps: int | None,
    npz: bool,
    progress: Progress,
    world: World,
) -> dict[str, Any]:
    """Draw images from a run into <run>/samples/<conditions>/: grid.png, sampling.json and, if asked, samples.npz.

    Image i depends only on (seed, i), on whatever many processes it is drawn.
    """
    device = default_device()
    set_precision("fp32")
    run = open_run(folder, device, progress)
    cfg = _changed(run.cfg, {"sampling.guidance_scale": guidance_scale, "sampling.num_steps": num_steps})
    labels = choose_labels("balanced", num_images, cfg.input.num_classes, seed)
    scale = cfg.sampling.guidance_scale
    name = f"step{run.step}-{cfg.sampling.sampler}{cfg.sampling.num_steps}-" + (
        f"cfg{scale:g}-" if scale is not None else ""
    )
    conditions = digest({"sampling": cfg.sampling.model_dump(), "config": run.cfg.sha256, "vae": run.vae_sha256})
    target = folder / "samples" / f"{name}n{num_images}-seed{seed}-{conditions[:6]}"
    progress.stage("sampling", num_images)
    generated = generate_in_parts(
        target / "parts", run.network, cfg, labels,
        seed=seed, decode=decoder(run.vae, device, run.vae_sha256), device=device, world=world,
        advance=progress.advance,
    )  # fmt: skip
    document = {
        "run": f"{folder.parent.name}/{folder.name}",
        "step": run.step,
        "weights": "ema",
        "formulation": cfg.formulation,
        **cfg.sampling.model_dump(),
        "num_images": num_images,
        "label_rule": "balanced",
        "seed": seed,
        "vae": run.vae,
        "uint8_rule": images.UINT8_RULE,
    }
    if generated is None:
        return document
    images.save_png(target / "grid.png", images.square_grid(generated.images))
    write_atomically(target / "sampling.json", json.dumps(document, indent=2) + "\n")
    files = [target / "grid.png", target / "sampling.json"]
    if npz:
        temporary = target / ".samples.tmp.npz"
        np.savez(temporary, arr_0=generated.images.numpy(), labels=generated.labels.numpy())
        files.append(temporary.rename(target / "samples.npz"))
    return {**document, "files": [str(file) for file in files]}


def evaluate_run(
    folder: Path, *, num_images: int | None, seed: int | None, progress: Progress, world: World
) -> Evaluation:
    """Measure a run's newest averaged network as its configuration says, and write evaluations/step<step>....json."""
    device = default_device()
    set_precision("fp32")
    run = open_run(folder, device, progress)
    cfg = _changed(run.cfg, {"evaluation.num_images": num_images, "evaluation.seed": seed})
    plan = cfg.evaluation
    features.require_available(plan.features)
    data = sources.of(cfg)
    if not data.real:
        raise UsageError(f"{data.name} is random numbers: a distance to it would mean nothing.")
    name = f"step{run.step}-n{plan.num_images}-seed{plan.seed}"
    progress.stage("evaluating", plan.num_images)
    evaluation, _ = evaluate(
        run.network, cfg, data,
        name=name, step=run.step, weights_id=f"{cfg.sha256} {run.step}", folder=folder / "samples",
        device=device, world=world, advance=progress.advance,
    )  # fmt: skip
    if evaluation:
        (folder / "evaluations").mkdir(exist_ok=True)
        write_record(folder / "evaluations" / f"{name}.json", evaluation)
    return evaluation
