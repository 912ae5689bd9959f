"""Commands that draw images and measure them: sample, evaluate."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from harness.cli.app import completion, defaults
from harness.cli.app.answer import show
from harness.cli.app.layout import columns, facts
from harness.cli.app.options import RUNS, Below, Json, RunName, argument, option
from harness.cli.app.processes import Nproc, start_all, together
from harness.recipes.metric_names import FEATURE_NETWORKS
from harness.system.errors import OutOfTolerance, UsageError

OF_A_RUN = "How a run is sampled"
METRICS = "What is measured"
INSTEAD = "Instead of measuring"
MOST_IMAGES = 10_000_000  # the memory holds all their classes

Step = Annotated[
    int | None, option("The checkpoint of this step. Default: newest.", "N", "--step", panel=OF_A_RUN, min=0)
]
Scale = Annotated[
    float | None,
    option("Scale of classifier-free guidance; 1 is none. Default: the run's.", "SCALE", "--cfg-scale", panel=OF_A_RUN),
]
Steps = Annotated[int | None, option("Steps of the sampler. Default: the run's.", "N", "--steps", panel=OF_A_RUN)]
Settings = Annotated[
    list[str] | None,
    option(
        "Change one setting of the sampling or the evaluation; repeatable.", "KEY=VALUE", "--set",
        panel=OF_A_RUN, complete=completion.assignments,
    ),
]  # fmt: skip


def sample(
    run: RunName,
    num: Annotated[int, option("How many images.", "N", min=1, max=MOST_IMAGES)] = 16,
    cfg_scale: Scale = None,
    steps: Steps = None,
    seed: Annotated[int, option("Image i depends on (seed, i) alone.", "N", panel=OF_A_RUN, min=0, max=2**63 - 1)] = 0,
    labels: Annotated[
        Literal["balanced", "random"],
        option("balanced: every class in turn; random: as ADM and DiT draw.", "RULE", panel=OF_A_RUN),
    ] = "balanced",
    npz: Annotated[bool, option("Also write samples.npz: arr_0, N x H x W x 3 uint8.", name="--npz")] = False,
    step: Step = None,
    set_: Settings = None,
    below: Below = RUNS,
    nproc: Nproc = None,
    as_json: Json = False,
) -> None:
    """Draw images from a run or an imported checkpoint, into its samples/ folder.

    Examples: harness sample runs/sddit-tiny/seed0-0123456789 · harness sample runs/sddit-s/seed0-0123456789 --num 64
    --cfg-scale 1.5 · harness sample runs/dit-s/seed0-0123456789 --num 50000 --labels random --npz
    """
    from harness.records.finding import find_run

    folder = find_run(run, below)
    start_all(nproc)
    import harness

    given = {"sampling.guidance_scale": ("--cfg-scale", cfg_scale), "sampling.num_steps": ("--steps", steps)}
    with defaults.named(given), together("sample") as (world, progress):
        document = harness.sample(
            folder, num, defaults.in_order(given, set_),
            seed=seed, labels=labels, npz=npz, step=step, progress=progress, world=world,
        )  # fmt: skip
    if world.is_main:
        show(document, as_json, lambda answer: [Path(file) for file in answer["files"]])


def evaluate(
    images: Annotated[
        str | None,
        argument(
            "A run's folder, or a part of its name that no other has; an .npz (arr_0: N x H x W x C uint8); a folder "
            "of PNGs.",
            "IMAGES",
            completion.run_names,
        ),
    ] = None,
    reference: Annotated[
        str | None,
        option(
            "An .npz like ADM's, by path or name in $HARNESS_DATA/references, or a data set. Default: the run's.",
            "FILE|NAME",
            panel=METRICS,
            complete=completion.data_sets,
        ),
    ] = None,
    features: Annotated[
        str | None,
        option(
            "inception, own (made of the training images), digits, dinov2 or clip. Default: the run's, or inception.",
            "NAME",
            panel=METRICS,
            complete=completion.among(*FEATURE_NETWORKS),
        ),
    ] = None,
    weights: Annotated[
        str | None,
        option(
            "The feature network's weights, or the word random: untrained. Default: looked for in $HARNESS_FEATURES "
            "and $HARNESS_CACHE.",
            "FILE",
            panel=METRICS,
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        option(
            "Like fid,sfid,is,precision,recall (the default), or all that the feature network can give.",
            "LIST",
            panel=METRICS,
            complete=completion.metrics,
        ),
    ] = None,
    num: Annotated[int | None, option("How many images of a run. Default: the run's.", "N", panel=OF_A_RUN)] = None,
    cfg_scale: Scale = None,
    steps: Steps = None,
    seed: Annotated[int | None, option("Seed of a run's images. Default: the run's.", "N", panel=OF_A_RUN)] = None,
    step: Step = None,
    set_: Settings = None,
    spread: Annotated[bool, option("Also the standard error of every metric.", name="--spread", panel=METRICS)] = False,
    cross_check: Annotated[
        bool, option("Also clean-fid's distances, same features.", name="--cross-check", panel=METRICS)
    ] = False,
    make_reference: Annotated[
        Path | None, option("Write a reference of IMAGES, also of a data set.", "FILE.npz", panel=INSTEAD)
    ] = None,
    size: Annotated[
        int | None, option("With --make-reference: crop photographs to this, as ADM.", "PIXELS", panel=INSTEAD)
    ] = None,
    self_test: Annotated[
        bool, option("Check the metrics on sets with known answers.", name="--self-test", panel=INSTEAD)
    ] = False,
    out: Annotated[Path | None, option("Also write the answer there.", "FILE.json")] = None,
    below: Below = RUNS,
    nproc: Nproc = None,
    as_json: Json = False,
) -> None:
    """Measure images against a reference: a run's newest checkpoint, or images that are already there.

    Examples: harness evaluate runs/sddit-s/seed0-0123456789 --cfg-scale 1.5 · harness evaluate samples.npz --reference
    VIRTUAL_imagenet256_labeled.npz · harness evaluate IMAGENET/train --size 256 --make-reference mine.npz · harness
    evaluate --self-test
    """
    others = {
        "--reference": reference, "--metrics": metrics, "--num": num, "--cfg-scale": cfg_scale, "--steps": steps,
        "--seed": seed, "--step": step, "--set": set_, "--spread": spread, "--cross-check": cross_check, "--out": out,
    }  # fmt: skip
    if self_test:
        _refuse({"IMAGES": images, "--make-reference": make_reference, "--size": size, **others}, "--self-test")
        return _self_test(features or "digits", weights, as_json)
    if images is None:
        raise UsageError("name a run folder, an .npz or a folder of PNGs, or say --self-test.")
    if make_reference is not None:
        _refuse(others, "--make-reference")
        start_all(nproc)
        return _make_reference(images, make_reference, features or "inception", weights, size, as_json)
    if size is not None:
        raise UsageError("--size belongs to --make-reference; images are measured as they are.")
    images = _meant(images, below)
    if out is not None and not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}.")
    if out is not None and out.is_dir():
        raise UsageError(f"--out is {out}, a folder; name the file to write, like {out / 'evaluation.json'}.")
    start_all(nproc)

    import harness
    from harness.recipes import metric_names
    from harness.records.schema import write_record

    sampled = {
        "evaluation.num_images": ("--num", num),
        "sampling.guidance_scale": ("--cfg-scale", cfg_scale),
        "sampling.num_steps": ("--steps", steps),
        "evaluation.seed": ("--seed", seed),
    }
    measured: dict[str, Any] = {
        "reference": reference,
        "features": features,
        "metrics": metric_names.called(metrics) if metrics else None,
    }
    given = sampled | {f"evaluation.{name}": (f"--{name}", value) for name, value in measured.items()}
    of_a_run = (Path(images) / "config.yaml").is_file()
    with defaults.named(given), together("evaluate") as (world, progress):
        evaluation = harness.evaluate(
            images, defaults.in_order(given if of_a_run else sampled, set_), **({} if of_a_run else measured),
            weights=weights, spread=spread, cross_check=cross_check, step=step, progress=progress, world=world,
        )  # fmt: skip
    if evaluation is not None:  # the main process has it
        show(evaluation.model_dump(mode="json"), as_json, evaluation_lines)
        if out is not None:
            write_record(out, evaluation)


def _meant(images: str, below: Path) -> str:
    """`images`, or the folder of the run below `below` that it is a part of the name of."""
    if os.path.lexists(images) or images.endswith(".npz") or not below.is_dir():
        return images
    from harness.records.finding import find_run

    try:
        return str(find_run(images, below))
    except UsageError as error:
        raise UsageError(f"there is no file or folder {images!r}, and {error}") from None


def _refuse(given: dict[str, Any], beside: str) -> None:
    """Raises UsageError for an option that would be ignored."""
    for name, value in given.items():
        if value not in (None, False, []):
            raise UsageError(f"{name} says nothing beside {beside}; leave it out.")


def _make_reference(
    images: str, path: Path, features: str, weights: str | None, size: int | None, as_json: bool
) -> None:
    from harness.runs import measuring

    with together("reference") as (world, progress):
        document = measuring.make_reference(
            images, path, feature_name=features, weights=weights, size=size, progress=progress, world=world
        )
    if world.is_main:
        show(document, as_json, facts)


def _self_test(features: str, weights: str | None, as_json: bool) -> None:
    from harness.evaluation.metrics import self_test

    checks = self_test.run(features, weights)
    failed = [check.name for check in checks if not check.passed]
    show({"checks": [check._asdict() for check in checks], "passed": not failed}, as_json, self_test.lines)
    if failed:
        raise OutOfTolerance(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}.")


def evaluation_lines(answer: dict[str, Any]) -> list[str]:
    """An evaluation as text: every metric, its conditions, what was left out."""
    errors, protocol = answer["standard_errors"], answer["protocol"]
    rows = [
        [name, f"{value:.5g}", f"± {errors[name]:.2g}" if name in errors else ""]
        for name, value in answer["metrics"].items()
    ]
    drawn = "images from a file"
    if protocol["sampler"] is not None:
        drawn = (
            f"{protocol['sampler']}, NFE {protocol['nfe']}, {_guidance(protocol)}, {protocol['label_rule']} labels, "
            f"seed {protocol['seed']}"
        )
    return [
        *columns(rows),
        *(
            f"  {check['metric']} by {check['by']}: {check['theirs']:.8g}, difference {check['difference']:.1e}"
            for check in answer["cross_checks"]
        ),
        f"{protocol['num_images']:,} images ({drawn})",
        f"against {protocol['reference']} ({protocol['reference_sha256'][:8]}), "
        f"{protocol['features']} features ({protocol['features_sha256'][:8]}){_accuracy(protocol)}",
        *(f"note: {note}" for note in answer["notes"]),
    ]


def _accuracy(protocol: dict[str, Any]) -> str:
    accuracy = protocol.get("features_accuracy")
    return "" if accuracy is None else f", which classify {accuracy:.1%} of held-out images correctly"


def _guidance(protocol: dict[str, Any]) -> str:
    if protocol["guidance_scale"] is None:
        return "no guidance"
    text = f"guidance scale {protocol['guidance_scale']:g}"
    if protocol["guidance_interval"] is not None:
        low, high = protocol["guidance_interval"]
        text += f" at {low:g} < sigma <= {high:g}"
    if protocol["guidance_channels"] is not None:
        text += f" of {protocol['guidance_channels']} channels"
    return text + (f", power {protocol['guidance_power']:g}" if protocol["guidance_power"] is not None else "")
