"""Metrics of what is already there: a trained or imported run, or images in a file; and references made of data."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.data import sources
from harness.evaluation import references
from harness.evaluation.evaluate import evaluate, evaluate_images, protocol_of, yardstick
from harness.evaluation.images.image_set import ImageSet
from harness.evaluation.images.image_sets import content_of, open_images, refuse_unusable
from harness.evaluation.networks import extract, features
from harness.recipes import metric_names
from harness.recipes.naming import digest
from harness.records.schema import Evaluation, write_record
from harness.runs.sampling import changed, described, open_run
from harness.system import locks
from harness.system.errors import DataError, UsageError
from harness.system.files import sha256_of, writing
from harness.system.precision import default_device, set_precision
from harness.system.processes.world import World
from harness.system.progress import Progress


def evaluate_run(
    folder: Path,
    assignments: Sequence[str],
    *,
    weights: str | None = None,
    with_errors: bool = False,
    with_cross_check: bool = False,
    step: int | None = None,
    progress: Progress,
    world: World,
) -> Evaluation | None:
    """Measure a run's averaged network, the newest or that of `step`, and add evaluations/<conditions>.json to the run.

    `assignments` change how it is sampled and evaluated; `weights` are the feature network's. Every process of `world`
    calls this alike; those other than the main one get None. Raises DataError while the run is being removed.
    """
    with locks.in_use(folder, world=world, note=progress.note):
        device = default_device()
        set_precision("fp32")
        run = open_run(folder, device, progress, step, world)
        cfg = changed(run.cfg, assignments)
        plan = cfg.evaluation
        needs_data = plan.reference == references.OF_THE_DATA or plan.features == metric_names.OWN
        data = sources.of(cfg) if needs_data else None
        yard = yardstick(
            plan.features, plan.reference, plan.metrics,
            device=device, data=data, weights=weights, with_errors=with_errors, with_cross_check=with_cross_check,
        )  # fmt: skip
        conditions = digest(
            {
                **protocol_of(cfg, yard, run.vae).model_dump(),
                "metrics": [
                    *yard.wanted,
                    *(["spread"] if with_errors else []),
                    *(["check"] if with_cross_check else []),
                    *plan.also_first,
                ],
            }
        )
        name = f"{described(cfg, run.step)}-n{plan.num_images}-seed{plan.seed}-{conditions[:6]}"
        evaluation = evaluate(
            run.network, cfg, yard,
            name=name, step=run.step, weights=run.weights, vae=run.vae, folder=folder, world=world, progress=progress,
        )  # fmt: skip
        if evaluation:
            (folder / "evaluations").mkdir(exist_ok=True)
            write_record(folder / "evaluations" / f"{name}.json", evaluation)
            progress.note(f"written to {folder / 'evaluations' / name}.json")
        return evaluation


def evaluate_file(
    path: Path,
    feature_name: str,
    reference: str,
    wanted: Sequence[str] | None,
    *,
    weights: str | None = None,
    with_errors: bool = False,
    with_cross_check: bool = False,
    progress: Progress,
    world: World,
) -> Evaluation | None:
    """Measure the images in an .npz or a folder of PNGs. Their features are kept in the harness cache."""
    set_precision("fp32")
    images = open_images(path)
    yard = yardstick(
        feature_name, reference, wanted or metric_names.default(feature_name),
        device=default_device(), weights=weights, with_errors=with_errors, with_cross_check=with_cross_check,
    )  # fmt: skip
    return evaluate_images(images, yard, folder=extract.cache(), world=world, progress=progress)


def make_reference(
    name: str, path: Path, *, feature_name: str, weights: str | None, size: int | None, progress: Progress, world: World
) -> dict[str, Any]:
    """Write a reference file of the data set, images or photographs called `name`; returns what it says of itself.

    `size` is what photographs, one folder a class, are cropped to as ADM does. Raises DataError when they are missing
    or not images the feature network takes.
    """
    started = time.perf_counter()
    if path.suffix != ".npz":
        raise UsageError(f"--make-reference {path} must end in .npz.")
    with writing(path):  # found out now, not after hours
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_name(f".{path.name}.{world.rank}.probe")
        probe.touch()
        probe.unlink()
    set_precision("fp32")
    network = features.load(feature_name, weights, default_device())
    images, sha256 = _images_of(name, size, progress)
    progress.stage(f"extracting {network.name} features", len(images))
    provenance = references.make(images, network, path, data_sha256=sha256, world=world, advance=progress.advance)
    written = sha256_of(path) if world.is_main else None
    return {"file": str(path), "sha256": written, **provenance, "seconds": round(time.perf_counter() - started, 1)}


def _images_of(name: str, size: int | None, progress: Progress) -> tuple[ImageSet, str]:
    """The images called `name` and a hash of them."""
    if not name.strip():
        raise UsageError("the name of the images is empty. Give a folder, an .npz or a data set.")
    path = Path(name)
    if size is not None:
        if not path.is_dir():
            raise DataError(f"--size crops photographs in a folder, one folder a class; {name} is no folder.")
        photographs = references.Photographs(path, size)
        return photographs, photographs.sha256
    if path.exists():
        if (path / "config.yaml").is_file():
            raise DataError(f"{name} is a run folder; a reference is made of a data set or of images.")
        try:
            images = open_images(path)
        except DataError as error:
            raise DataError(f"{error} Photographs, one folder a class, are taken with --size.") from None
        progress.stage("reading images", len(images))
        content = content_of(images, progress.advance)
        refuse_unusable(images, content)
        return images, content.sha256
    source = references.of_data(sources.load(name))
    assert source.images is not None, "a data set has images"
    return source.images, source.sha256
