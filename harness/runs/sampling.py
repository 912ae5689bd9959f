"""Trained and imported runs opened again, and images drawn from them."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

import baselines
from harness.data.images.uint8 import UINT8_RULE
from harness.data.latents import vae
from harness.data.latents.vae import Vae
from harness.evaluation.generation import DRAWING, choose_labels, draw_images
from harness.evaluation.images import uint8 as images
from harness.evaluation.images.image_set import ImageSet
from harness.evaluation.images.npz import write_npz
from harness.evaluation.networks import extract
from harness.recipes.config import RunConfig
from harness.recipes.naming import digest, without_later_defaults
from harness.records.schema import EXPORT_RECORD, Import, Manifest, read_record, write_atomically
from harness.runs import folder as run_folder
from harness.runs.exporting import load
from harness.runs.importing import RECORD
from harness.system import locks
from harness.system.errors import DataError, UsageError
from harness.system.files import sha256_of
from harness.system.precision import default_device, set_precision
from harness.system.processes.world import World
from harness.system.progress import Progress
from harness.training import checkpoint

RECORD_OF_IMAGES = "sampling.json"


class Opened(NamedTuple):
    """A run folder's averaged network, or an exported one, ready to be sampled."""

    cfg: RunConfig
    network: torch.nn.Module
    step: int  # training steps behind it; 0 for an imported one, whose training is not known
    vae: Vae | None  # between pixels and latents
    weights: Literal["ema", "raw"] = "ema"


def open_run(
    folder: Path, device: torch.device, progress: Progress, step: int | None = None, world: World = World()
) -> Opened:
    """The averaged network of `folder` after `step` training steps, or the newest one that verifies.

    The main process chooses: training may go on meanwhile, and all must draw from the same weights.

    Raises DataError when the folder is no run, or holds no such checkpoint of its configuration, and SetupError where
    the package is absent that brings its method.
    """
    if (folder / run_folder.CONFIG).is_file() and (folder / EXPORT_RECORD).is_file():
        return _open_export(folder, device, step)
    cfg = run_folder.configuration(folder)
    found = None
    if world.is_main:
        found = checkpoint.load_ema(folder / "checkpoints", cfg.sha256, progress.note, step)
    step_found = world.agreed(found[0] if found else None)
    if not world.is_main and step_found is not None:
        found = checkpoint.load_ema(folder / "checkpoints", cfg.sha256, progress.note, step_found)
    if found is None:
        raise run_folder.no_checkpoint(folder, step)
    step, weights = found
    network = run_folder.network(cfg, weights, folder)
    return Opened(cfg, network.to(device).eval(), step, _vae_of(folder, device))


def _open_export(folder: Path, device: torch.device, step: int | None) -> Opened:
    exported = load(folder)
    own = exported.record.step
    if step not in (None, own):
        raise DataError(f"{folder} holds the weights of step {own} alone, not those of step {step}.")
    id, sha256 = exported.record.vae
    decoder = None if id is None else vae.load(id, device, sha256=sha256)
    return Opened(exported.cfg, exported.network.to(device), own, decoder, exported.record.weights)


def _vae_of(folder: Path, device: torch.device) -> Vae | None:
    """The VAE that the run's latents were made with, or that the imported network was trained for."""
    if (folder / RECORD).is_file():
        id, sha256 = read_record(folder / RECORD, Import).vae, None
    else:
        data = read_record(folder / "manifest.json", Manifest).data
        id, sha256 = data.vae, data.vae_sha256
    return None if id is None else vae.load(id, device, sha256=sha256)


def changed(cfg: RunConfig, assignments: Sequence[str]) -> RunConfig:
    """`cfg` sampled or evaluated in another way. Raises UsageError for a setting that would need another training.

    Of how a run is carried out, what concerns the network that is sampled can be chosen anew.
    """
    other = baselines.configured(cfg.model_dump(mode="json"), assignments)
    free: Any = {"sampling": True, "evaluation": True, "execution": {"sample_compile", "cuda_graphs"}}
    before, after = cfg.model_dump(mode="json", exclude=free), other.model_dump(mode="json", exclude=free)
    for section in before:
        if before[section] != after[section]:
            were = "were" if section == "knobs" else "was"
            raise UsageError(
                f"{section} {were} settled when the run was trained; only settings of sampling and evaluation can be "
                "changed now. `harness run` trains another run."
            )
    return other


def described(cfg: RunConfig, step: int) -> str:
    """A name for images of a network after `step` steps, readable but not complete."""
    sampling = cfg.sampling
    guidance = "" if sampling.guidance_scale is None else f"-cfg{sampling.guidance_scale:g}"
    return f"step{step}-{sampling.sampler}{sampling.num_steps}{guidance}"


def sample(
    folder: Path,
    num_images: int,
    *,
    seed: int,
    label_rule: str,
    assignments: Sequence[str] = (),
    npz: bool,
    step: int | None = None,
    progress: Progress,
    world: World,
) -> dict[str, Any]:
    """Draw images from a run into <run>/samples/<conditions>/: grid.png, sampling.json and, if asked, samples.npz.

    Image i depends only on (seed, i), on whatever many processes it is drawn, but for the rounding of sums. samples.npz
    is what ADM's evaluator reads: arr_0, N x H x W x C uint8. Images that are there and whole are not drawn again.
    Raises DataError while the run is being removed.
    """
    folder = folder.resolve()
    with locks.in_use(folder, world=world, note=progress.note):
        device = default_device()
        set_precision("fp32")
        run = open_run(folder, device, progress, step, world)
        cfg = changed(run.cfg, assignments)
        own = {"sample_batch", "sample_precision", "decode_precision"}
        if cfg.evaluation.model_dump(exclude=own) != run.cfg.evaluation.model_dump(exclude=own):
            raise UsageError(f"drawing images has no setting of evaluation but {', '.join(sorted(own))}. Leave it out.")
        labels = choose_labels(label_rule, num_images, cfg.input.num_classes, seed)
        document = {
            "run": f"{folder.parent.name}/{folder.name}",
            "step": run.step,
            "weights": run.weights,
            "formulation": cfg.formulation,
            **without_later_defaults("sampling", cfg.sampling.model_dump()),
            "precision": cfg.evaluation.sample_precision,
            "num_images": num_images,
            "label_rule": label_rule,
            "seed": seed,
            "vae": run.vae.id if run.vae else None,
            "vae_sha256": run.vae.sha256 if run.vae else None,
            "decode_precision": cfg.evaluation.decode_precision if run.vae else None,
            "device": device.type,
            "uint8_rule": UINT8_RULE,
        }
        conditions = digest({**document, "config": run.cfg.sha256, "drawing": DRAWING})
        target = folder / "samples" / f"{described(cfg, run.step)}-n{num_images}-seed{seed}-{conditions[:6]}"
        wanted = ["grid.png", *(["samples.npz"] if npz else [])]
        with locks.turn(target, "these images", world=world, note=progress.note):
            record = world.agreed(_written(target, document, wanted) if world.is_main else None)
            if record is None:
                progress.stage("drawing images", num_images)
                drawn = draw_images(
                    target / "parts", run.network, cfg, labels,
                    seed=seed, vae=run.vae, device=device, world=world, advance=progress.advance,
                )  # fmt: skip
                record = _write(target, document, drawn, labels, wanted) if world.is_main else document
            else:
                progress.note(f"{target} holds these images; nothing to do.")
        files = [wanted[0], RECORD_OF_IMAGES, *wanted[1:]]
        return {**record, "files": [str(target / name) for name in files]}


def _write(
    target: Path, document: dict[str, Any], drawn: ImageSet, labels: Tensor, wanted: Sequence[str]
) -> dict[str, Any]:
    """Write the files asked for, then the record with their hashes, which is returned; then the parts go."""
    grid = drawn.read(0, min(len(drawn), images.GRID_IMAGES))
    images.save_png(target / "grid.png", images.square_grid(grid))
    if "samples.npz" in wanted:
        write_npz(target / "samples.npz", {"labels": labels.numpy()}, drawn)
    record = {**document, "sha256": {name: sha256_of(target / name) for name in wanted}}
    write_atomically(target / RECORD_OF_IMAGES, json.dumps(record, indent=2) + "\n")
    shutil.rmtree(target / "parts")
    extract.clear_leftovers(target)
    return record


def _written(target: Path, document: dict[str, Any], wanted: Sequence[str]) -> dict[str, Any] | None:
    """The record of files that are there as they were written; None where they have to be made."""
    try:
        record = json.loads((target / RECORD_OF_IMAGES).read_text(encoding="utf-8"))
        hashes = record["sha256"]
        whole = record == json.loads(json.dumps({**document, "sha256": hashes}))
        if not whole or any(sha256_of(target / name) != hashes[name] for name in wanted):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    shutil.rmtree(target / "parts", ignore_errors=True)  # a kill may have come before they were removed
    extract.clear_leftovers(target)
    return record
