"""Run folders on disk, finished and not, written through the product's own types, without training anything."""

import json
import os
import time
from functools import cache
from pathlib import Path

from pydantic import ConfigDict

from harness.recipes.config import Knobs, RunConfig
from harness.recipes.reading import load_recipe
from harness.records.schema import DataIdentity, Device, Evaluation, EvaluationProtocol, Manifest, Result, write_record

LONG_AGO = time.time() - 3600
XEON = Device(name="Intel(R) Xeon(R) Processor", kind="cpu", count=1, threads=2)


class AnyKnobs(Knobs):
    model_config = ConfigDict(extra="allow", frozen=True)


METHODS = {  # formulation, sampler, sampler's steps, network evaluations, knobs, input patches
    "dit": ("iddpm", "ddpm", 50, 50, {}, "100%"),
    "maskdit": ("edm", "heun", 18, 35, {"mask_ratio": 0.5}, "50%"),
    "mdt": ("iddpm", "ddpm", 50, 50, {"mask_ratio": 0.3, "relative_position": False}, "100% + 70%"),
    "sddit": ("edm", "heun", 18, 35, {"mask_ratio": 0.2}, "80%"),
}


_recipe = cache(load_recipe)  # reading YAML is most of the time a run folder takes


TINY = {"data": "digits", "batch_size": 64, "steps": 600, "learning_rate": 1e-3, "ema_warmup": True}
PAPER = {"data": "imagenet-256", "batch_size": 256, "steps": 400_000, "learning_rate": 1e-4, "precision": "fp32"}


def _config(method: str, size: str, seed: int, knobs: dict, protocol: dict) -> RunConfig:
    """The recipe, with the conditions that tests name set here, out of reach of a change of the recipe."""
    document = dict(_recipe(f"{method}-{size}").document)
    if size == "tiny":
        document["input"] = {"channels": 1, "side": 8, "num_classes": 10}
    named = TINY if size == "tiny" else PAPER
    document["seed"] = seed
    document["knobs"] = AnyKnobs(**{**METHODS[method][4], **knobs})
    document["protocol"] = {**document["protocol"], **named, **protocol}
    return RunConfig(**document)


def _evaluation(name: str, method: str, step: int, metrics: dict, protocol: dict) -> Evaluation:
    formulation, sampler, num_steps, nfe, _, _ = METHODS[method]
    known = {
        "formulation": formulation,
        "sampler": sampler,
        "num_steps": num_steps,
        "nfe": nfe,
        "guidance_scale": None,
        "guidance_channels": None,
        "num_images": 1000,
        "label_rule": "random",
        "uint8_rule": "round",
        "vae": None,
        "features": "digits",
        "features_sha256": "f" * 64,
        "reference": "digits",
        "reference_sha256": "e" * 64,
        "reference_images": 1797,
        "seed": 0,
    }
    conditions = EvaluationProtocol(**{**known, **protocol})
    return Evaluation(name=name, step=step, weights="ema", metrics=metrics, protocol=conditions, seconds=1)


def write_run(
    root: Path,
    method: str = "dit",
    *,
    seed: int = 0,
    speed: float | None = 10.0,
    distance: float | None = 5.0,
    knobs: dict | None = None,
    protocol: dict | None = None,
    device: Device = XEON,
    metrics: dict | None = None,
    evaluation: dict | None = None,
    precision: dict | None = None,
    real: bool = True,
    started_at: str = "2026-01-01T00:00:00Z",
    finished: bool = True,
    size: str = "tiny",
    milestones: dict[int, float] | None = None,
    guided: dict[float, float] | None = None,
    peak_memory_bytes: int = 900_000_000,
    peak_memory_kind: str = "process RSS",
    params: int = 1_100_000,
    gmacs_forward: float = 0.02,
    world_size: int = 1,
) -> Path:
    """A run folder below `root`; `distance` None leaves the evaluations out.

    Any size but "tiny" is trained and measured as in the paper: ImageNet, FID-50K. `milestones` are distances by step,
    `guided` those after the last step by guidance scale.
    """
    config = _config(method, size, seed, knobs or {}, protocol or {})
    metric = "fd-digits@1k" if size == "tiny" else "fid50k"
    if size != "tiny":
        as_published = {"num_images": 50_000, "features": "inception", "reference": "adm", "reference_images": 10_000}
        sampler = {"num_steps": 250, "nfe": 250} if METHODS[method][1] == "ddpm" else {"num_steps": 40, "nfe": 79}
        evaluation = as_published | sampler | (evaluation or {})
    folder = root / config.recipe / config.run_id
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (20, 40)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    manifest = Manifest(
        harness_version="0.1.0",
        git_commit="c" * 40,
        git_diff_sha256=None,
        python="3.11.7",
        platform="Linux",
        packages={"torch": "2.13.0", "numpy": "2.4.6"},
        device=device,
        precision=precision or {"tf32": False},
        seed=seed,
        config_sha256=config.sha256,
        data=DataIdentity(name=config.protocol.data, sha256="d" * 64, num_images=1797, real=real),
        command=f"harness run {method}-{size}",
        started_at=started_at,
        world_size=world_size,
    )
    write_record(folder / "manifest.json", manifest)
    if not finished:
        return folder
    steps = config.protocol.steps
    own = {"class_accuracy-digits@1k": 0.9, "precision-digits@1k": 0.7, "sfd-digits@1k": 9.0, "is-digits@1k": 7.5}
    final = metrics if metrics is not None else {metric: distance, **(own if size == "tiny" else {})}
    evaluations = {}
    if distance is not None:
        evaluations["final"] = _evaluation("final", method, steps, final, evaluation or {})
        evaluations["untrained"] = _evaluation("untrained", method, 0, {metric: 300.0}, evaluation or {})
        for step, value in (milestones or {}).items():
            name = f"step-{step:06d}"
            evaluations[name] = _evaluation(name, method, step, {metric: value}, evaluation or {})
        for scale, value in (guided or {}).items():
            conditions = (evaluation or {}) | {"guidance_scale": scale}
            evaluations[f"cfg{scale}"] = _evaluation(f"cfg{scale}", method, steps, {metric: value}, conditions)
    result = Result(
        recipe=config.recipe,
        run_id=config.run_id,
        method=method,
        size=config.size,
        seed=seed,
        steps=steps,
        images_seen=steps * config.protocol.batch_size,
        input_patches=METHODS[method][-1] if not (knobs or {}).get("mask_ratio") else f"{1 - knobs['mask_ratio']:.0%}",
        steps_per_sec=speed,
        steps_per_sec_sd=None,
        timed_steps=steps - 50,
        peak_memory_bytes=peak_memory_bytes,
        peak_memory_kind=peak_memory_kind,
        params=params,
        gmacs_forward=gmacs_forward,
        gmacs_step={"dit": 0.06, "maskdit": 0.05, "mdt": 0.11, "sddit": 0.1}[method],
        evaluations=evaluations,
        wall_seconds=66.0,
        device=device,
        world_size=world_size,
    )
    write_record(folder / "result.json", result)
    return folder


def unfinished(root: Path, method: str = "maskdit", *, quiet: bool = True, **settings) -> Path:
    """A run that stopped at step 40, with a checkpoint."""
    folder = with_weights(write_run(root, method, finished=False, **settings))
    lines = [{"step": step, "loss": 1.0, "timed_steps": 20, "timed_seconds": 4.0} for step in (20, 40)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return quieted(folder) if quiet else folder


def with_weights(folder: Path, size: int = 10_000) -> Path:
    for name in ("checkpoints/step-000000040", "samples/cfg1.5", "evaluations", "features/abc"):
        (folder / name).mkdir(parents=True)
    (folder / "checkpoints/step-000000040/ema.safetensors").write_bytes(b"0" * size)
    (folder / "samples/grid.png").write_bytes(b"0" * 50)
    (folder / "samples/cfg1.5/samples.npz").write_bytes(b"0" * 2 * size)
    (folder / "samples/cfg1.5/sampling.json").write_text("{}")
    (folder / "features/abc/features-0.safetensors").write_bytes(b"0" * 30)
    return folder


def quieted(folder: Path) -> Path:
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (LONG_AGO, LONG_AGO), follow_symlinks=False)
    return folder
