"""Images to metrics: draw or open them, extract features, compare with the reference, write every condition down."""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

import harness
from harness.data.dataset import Dataset
from harness.data.images.uint8 import UINT8_RULE
from harness.data.latents.vae import Vae
from harness.evaluation import held_out, references
from harness.evaluation.generation import DRAWING, StageClock, choose_labels, draw_images, image_shape
from harness.evaluation.images.image_set import ImageSet
from harness.evaluation.images.image_sets import content_of, refuse_unusable
from harness.evaluation.images.uint8 import class_grid, save_png
from harness.evaluation.metrics import measure as metrics
from harness.evaluation.networks import extract, features
from harness.evaluation.networks.base import FeatureNetwork, Features
from harness.evaluation.references import Source
from harness.model.samplers import SAMPLERS
from harness.recipes import metric_names
from harness.recipes.config import RunConfig
from harness.recipes.naming import digest, without_later_defaults
from harness.records.provenance import installed
from harness.records.schema import Evaluation, EvaluationProtocol
from harness.system import locks
from harness.system.errors import DataError
from harness.system.files import new_file
from harness.system.processes.world import World
from harness.system.progress import Progress
from harness.system.weights import fingerprint

GRID_IMAGES = 1000  # of which the sample grid shows the first ten of ten classes


@dataclass(frozen=True, eq=False)
class Yardstick:
    """What images are measured with: a feature network, a reference, and the metrics that are wanted."""

    network: FeatureNetwork
    source: Source
    wanted: tuple[str, ...]
    device: torch.device
    with_errors: bool = False  # a standard error for each metric
    with_cross_check: bool = False  # the distances once more, by clean-fid
    data: Dataset | None = None  # what the network was trained on, where that is at hand

    @property
    def with_points(self) -> bool:
        """Whether a metric needs the features of the reference's images, not their statistics alone."""
        return any(metric in metric_names.OF_POINTS for metric in self.wanted)


def yardstick(
    feature_name: str,
    reference: str,
    wanted: Sequence[str],
    *,
    device: torch.device,
    data: Dataset | None = None,
    weights: str | None = None,
    with_errors: bool = False,
    with_cross_check: bool = False,
) -> Yardstick:
    """Opens and judges everything that measuring needs, before anything is spent on it.

    `weights` are the feature network's, where not the published ones. The network "own" is made of `data`, the training
    images, or of the data set that the reference names. Raises SetupError when they are not on this
    machine, DataError when the reference is missing, damaged, of another network, or cannot give a metric wanted.
    """
    source = references.open_reference(reference, data)  # before the network, which may have to be downloaded
    network = features.load(feature_name, weights, device, data or source.data)
    source.refuse(network)
    wanted = metric_names.meant(wanted, network.name)
    metrics.refuse(
        wanted,
        has_points=source.images is not None,
        has_spatial_statistics=source.has_spatial,
        network=network,
    )
    if source.images is not None:
        network.refuse(source.images.shape)
    return Yardstick(network, source, wanted, device, with_errors, with_cross_check, data)


def evaluate(
    network: nn.Module,
    cfg: RunConfig,
    yard: Yardstick,
    *,
    name: str,
    step: int,
    weights: Literal["ema", "raw"] = "ema",
    vae: Vae | None,
    folder: Path,
    world: World,
    progress: Progress,
    grid: Path | None = None,
) -> Evaluation | None:
    """Metrics of `network` (the `weights` after `step` steps, averaged or raw), its images drawn as `cfg` says.

    Under `folder`, the run's, images are drawn in samples/ in parts that are removed once their features are kept in
    features/: a repetition after an interruption goes on with the rest, and one with the same weights and conditions
    draws nothing. `grid` is where to put a picture of the first images, when they are drawn. Every process draws and
    extracts its share; those other than the main one get None.
    """
    started, plan, device = time.perf_counter(), cfg.evaluation, yard.device
    clock = StageClock(device)
    yard.network.refuse(image_shape(cfg.input, vae))
    with clock("reference"):
        reference = _prepared(yard, world, progress)
    labels = choose_labels(plan.label_rule, plan.num_images, cfg.input.num_classes, plan.seed)
    weights_sha256 = fingerprint(network.state_dict())
    protocol = protocol_of(cfg, yard, vae)
    samples = digest(
        {
            **_of_the_images(protocol),
            "input": cfg.input.model_dump(),
            "weights": weights_sha256,
            "drawing": DRAWING,
        }
    )
    home = folder / "features"
    record = home / samples[:16] / "images.json"
    place = extract.kept_in(home, samples, yard.network, device)
    # Another feature network's evaluation of the same images may be under way: it removes its own parts alone.
    parts = folder / "samples" / f"parts-{samples[:16]}-{place.name}"
    with locks.turn(place, "these features", world=world, note=progress.note):
        generated = extract.known(place, plan.num_images) if world.is_main and _pixels_of(record) else None
        if not world.agreed(generated is not None):
            progress.stage("drawing images", plan.num_images)
            images = draw_images(
                parts, network, cfg, labels,
                seed=plan.seed, vae=vae, device=device, world=world, advance=progress.advance, timed=clock,
            )  # fmt: skip
            if world.is_main:
                with locks.turn(record, "the record of these images", note=progress.note), clock("hashing"):
                    _keep_record(record, images, grid, labels, protocol)
                    extract.clear_leftovers(record.parent)
            progress.stage(f"extracting {yard.network.name} features", plan.num_images)
            with clock("features"):
                generated = extract.features_of(images, yard.network, place, world=world, advance=progress.advance)
        if world.is_main:
            shutil.rmtree(parts, ignore_errors=True)
            extract.clear_leftovers(place)
    if generated is None or reference is None:  # the main process measures
        return None
    return _measured(
        generated, labels, reference, yard, protocol, progress,
        also_first=plan.also_first,
        held_out_of=None if yard.data is None or yard.data.held_out is None else (network, cfg, yard.data),
        name=name, step=step, weights=weights, weights_sha256=weights_sha256,
        samples_sha256=_known_pixels(record),
        sample_execution=execution_of(cfg, device) if "drawing" in clock.seconds else None,
        started=started, clock=clock,
    )  # fmt: skip


def evaluate_images(
    images: ImageSet, yard: Yardstick, *, folder: Path, world: World, progress: Progress
) -> Evaluation | None:
    """Metrics of images that came in a file; their features are kept in `folder`, under the hash of their pixels.

    Raises DataError when they are of no use: all alike, mostly copies, or of a kind the feature network cannot take.
    """
    started, clock = time.perf_counter(), StageClock(yard.device)
    yard.network.refuse(images.shape)
    _refuse_labels(images, yard)
    sha256 = None
    if world.is_main:
        progress.stage("reading images", len(images))
        with clock("hashing"):
            content = content_of(images, progress.advance)
        refuse_unusable(images, content)
        sha256 = content.sha256
    sha256 = world.agreed(sha256)
    with clock("reference"):
        reference = _prepared(yard, world, progress)
    place = extract.kept_in(folder, sha256, yard.network, yard.device)
    with locks.turn(place, "these features", world=world, note=progress.note):
        progress.stage(f"extracting {yard.network.name} features", len(images))
        with clock("features"):
            generated = extract.features_of_content(
                images, sha256, yard.network, folder, device=yard.device, world=world, advance=progress.advance
            )
        if world.is_main:
            extract.clear_leftovers(place)
    if generated is None or reference is None:  # the main process measures
        return None
    unknown: dict[str, Any] = dict.fromkeys(_OF_THE_SAMPLER)
    protocol = EvaluationProtocol(**unknown, num_images=len(images), **_of_the_yardstick(yard, images.shape))
    return _measured(
        generated, images.labels, reference, yard, protocol, progress,
        name=images.name, step=None, weights=None, weights_sha256=None, samples_sha256=sha256,
        started=started, clock=clock, notes=images.notes,
    )  # fmt: skip


def _refuse_labels(images: ImageSet, yard: Yardstick) -> None:
    """Raises DataError for a label that the classes of the feature network's data set do not have."""
    if images.labels is None or yard.network.num_classes is None or "class_accuracy" not in yard.wanted:
        return
    num_classes = yard.network.num_classes
    for wrong in torch.nonzero(images.labels >= num_classes)[:1, 0].tolist():
        raise DataError(
            f"label {wrong} of {images.name} is {int(images.labels[wrong])}, and {yard.network.name} knows the "
            f"classes 0 to {num_classes - 1}. Save the right labels, leave them out, or measure without class_accuracy."
        )


def protocol_of(cfg: RunConfig, yard: Yardstick, vae: Vae | None) -> EvaluationProtocol:
    """Every condition that changes a metric's value, as this run's configuration sets it."""
    sampling, plan = cfg.sampling, cfg.evaluation
    settings = without_later_defaults("sampling", sampling.model_dump())  # of other samplers check() takes no others
    if sampling.guidance_scale is None:  # then how it would have been has no effect
        settings |= {"guidance_channels": None, "guidance_interval": None, "guidance_power": None}
    return EvaluationProtocol(
        formulation=cfg.formulation,
        **settings,
        nfe=SAMPLERS[sampling.sampler].nfe(sampling.num_steps),
        num_images=plan.num_images,
        label_rule=plan.label_rule,
        uint8_rule=UINT8_RULE,
        vae=vae.id if vae else None,
        vae_sha256=vae.sha256 if vae else None,
        sample_precision=plan.sample_precision,
        decode_precision=plan.decode_precision if vae else None,
        seed=plan.seed,
        **_of_the_yardstick(yard, image_shape(cfg.input, vae)),
    )


def execution_of(cfg: RunConfig, device: torch.device) -> str:
    """How the sampled network is called, which decides the speed of drawing and no more than the rounding of sums."""
    if not cfg.execution.sample_compile:
        return "eager"
    return "compiled, CUDA graphs" if cfg.execution.cuda_graphs and device.type == "cuda" else "compiled"


_OF_THE_SAMPLER = (
    "formulation", "sampler", "num_steps", "nfe", "guidance_scale", "guidance_channels", "guidance_interval",
    "guidance_power", "sde_diffusion", "sde_last_step", "label_rule", "uint8_rule", "vae", "vae_sha256",
    "sample_precision", "decode_precision", "seed",
)  # fmt: skip


def _of_the_images(protocol: EvaluationProtocol) -> dict[str, Any]:
    """Those conditions that decide the images' pixels, besides the weights."""
    return protocol.model_dump(include={*_OF_THE_SAMPLER, "num_images", "features_device"})


def _of_the_yardstick(yard: Yardstick, shape: tuple[int, int, int]) -> dict[str, Any]:  # (H, W, C)
    source, network = yard.source, yard.network
    return {
        "features": network.name,
        "features_sha256": network.sha256,
        "features_batch": network.batch_size,
        "features_precision": network.precision,
        "features_device": yard.device.type,
        "features_accuracy": network.accuracy,
        "grey_channel": "repeated" if network.repeats(shape) else None,
        "reference": source.name,
        "reference_sha256": source.sha256,
        "reference_images": source.num_images,
        "reference_points": len(references.points_of(source))
        if source.images is not None and yard.with_points
        else None,
    }


def _prepared(yard: Yardstick, world: World, progress: Progress) -> metrics.Reference | None:
    if yard.source.images is not None and (yard.with_points or yard.source.pool is None):
        progress.stage(f"the reference, {yard.source.name}", len(yard.source.images))
    return references.prepare(
        yard.source,
        yard.network,
        extract.cache(),
        device=yard.device,
        with_points=yard.with_points,
        world=world,
        advance=progress.advance,
    )


def _keep_record(path: Path, images: ImageSet, grid: Path | None, labels: Tensor, protocol: EvaluationProtocol) -> None:
    """images.json: the hash of the pixels and how they were made, which outlasts them; and the grid, if wanted."""
    if grid is not None:
        first = images.read(0, min(len(images), GRID_IMAGES))
        save_png(grid, class_grid(first, labels[: len(first)]))
    document = {"sha256": content_of(images).sha256, **_of_the_images(protocol)}
    with new_file(path) as temporary:
        temporary.write_text(json.dumps({**document, "document_sha256": digest(document)}, indent=2) + "\n")


def _known_pixels(record: Path) -> str:
    """As `_pixels_of`. Raises DataError where the record went while the images were measured."""
    sha256 = _pixels_of(record)
    if sha256 is None:
        raise DataError(
            f"{record} is gone or was damaged while these images were measured, so that it is not known which they "
            "were. Repeat the command: it draws them again."
        )
    return sha256


def _pixels_of(record: Path) -> str | None:
    """The hash of the pixels in images.json; None: the file is absent or damaged, and the images are drawn again."""
    try:
        document = json.loads(record.read_text(encoding="utf-8"))
        written = document.pop("document_sha256", None)  # older versions wrote none
        return document["sha256"] if written in (None, digest(document)) else None
    except (OSError, ValueError, RecursionError, AttributeError, TypeError, KeyError):
        return None


def _measured(
    generated: Features,
    labels: Tensor | None,
    reference: metrics.Reference,
    yard: Yardstick,
    protocol: EvaluationProtocol,
    progress: Progress,
    *,
    started: float,
    clock: StageClock,
    also_first: Sequence[int] = (),
    held_out_of: tuple[nn.Module, RunConfig, Dataset] | None = None,
    notes: Sequence[str] = (),
    **identity: Any,
) -> Evaluation:
    begun = time.perf_counter()
    progress.note(f"computing {', '.join(yard.wanted)}")

    def named(values: dict[str, float], n: int = protocol.num_images) -> dict[str, float]:
        return {metric_names.metric_name(metric, yard.network.name, n): value for metric, value in values.items()}

    found = metrics.measure(generated, reference, yard.wanted, labels=labels, device=yard.device)
    notes = [*notes, *found.notes, *yard.source.remarks(yard.network)]
    if protocol.num_images <= yard.network.pool_size and "fd" in found.values:
        notes.append(
            f"{protocol.num_images:,} images are no more than the {yard.network.pool_size:,} features: a Fréchet "
            "distance of so few is far above that of many, and only comparable at the same number."
        )
    errors, checks = {}, []
    if yard.with_errors and found.values:
        progress.note("computing standard errors")
        errors = metrics.standard_errors(generated, reference, list(found.values), labels=labels, device=yard.device)
        if missing := metrics.unmeasurable_spread(list(found.values), protocol.num_images):
            notes.append(missing)
    if yard.with_cross_check:
        progress.note("computing distances once more, by clean-fid")
        checks = metrics.cross_check(generated, reference, yard.wanted, values=found.values)
    values, errors = named(found.values), named(errors)
    also_first = [n for n in also_first if n < protocol.num_images]
    for n in also_first:  # image i depends on (seed, i) alone: these are what n images would have been
        rows, asked = torch.arange(n), None if labels is None else labels.cpu()[:n]
        part = metrics.measure(generated.rows(rows), reference, yard.wanted, labels=asked, device=yard.device)
        values |= named(part.values, n)
    denoiser = probe = None
    if held_out_of is not None:
        progress.note("asking the network about held-out images")
        with clock("held-out images"):
            denoiser, probe = held_out.measure(*held_out_of, yard.device)
        name = metric_names.held_out_name("denoiser_error", denoiser.num_images)
        values[name], errors[name] = denoiser.error, denoiser.standard_error
        if probe is not None:
            best = max(max(row) for row in probe.accuracy)
            values[metric_names.held_out_name("linear_probe", probe.num_images)] = best
    return Evaluation(
        **identity,
        metrics=values,
        standard_errors=errors,
        also_first=also_first,
        denoiser=denoiser,
        probe=probe,
        cross_checks=checks,
        notes=notes,
        protocol=protocol,
        harness_version=harness.__version__,
        packages=installed(),
        seconds=time.perf_counter() - started,
        stage_seconds={**clock.seconds, "metrics": time.perf_counter() - begun},
    )
