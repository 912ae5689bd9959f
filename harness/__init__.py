"""Reproducibility benchmark harness for training-efficient diffusion transformers.

From Python, as from the command line:

    from harness import run, sample, evaluate, compare, report

    result = run("dit-tiny", {"steps": 200})
    report("runs", out="reports/mine")

Each function raises a subclass of harness.system.errors.HarnessError for everything that its caller can correct:
UsageError for a wrong argument, SetupError for a missing package or too little memory, DataError for a file that is
missing or damaged, Diverged for a training that did. The message says what is wrong, why, and what to do.

A function imports what it needs when it is called, so that `import harness` loads no torch.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.records.schema import Evaluation, Result
    from harness.reporting.report import Report
    from harness.system.processes.world import World
    from harness.system.progress import Progress

__version__ = "0.1.0"
__all__ = ["__version__", "compare", "evaluate", "report", "run", "sample"]

Place = str | Path
Settings = Mapping[str, Any] | Sequence[str]  # {"steps": 200} or ["steps=200"]


def run(
    recipe: Place,
    settings: Settings = (),
    *,
    out: Place = "runs",
    evaluate: bool = True,
    force: bool = False,
    progress: "Progress | None" = None,
    world: "World | None" = None,
) -> "Result | None":
    """Train a recipe, sample it and evaluate it, or continue where an earlier call stopped.

    Arguments:
        recipe: a name that `harness recipes list` shows, or the Path of a config.yaml whose run is repeated.
        settings: changes of the recipe by name, like {"steps": 200, "learning_rate": 5e-4}.
        out: where the run folder <recipe>/<run id> goes.
        evaluate: whether the trained network is evaluated.
        force: start over, even if the run is finished.
        progress: shown what happens; nothing is shown by default.
        world: the processes that call this together.

    Returns what result.json records: speed, memory, cost and evaluations. A run that is finished is not repeated. Of
    several processes only the main one gets a result.

    Raises UsageError for an unknown recipe or setting, DataError when the data or the folder cannot be used, SetupError
    when a step does not fit into memory, Diverged when the loss is not finite, Preempted when a signal stopped it.

    Example:
        >>> from harness import run
        >>> result = run("dit-tiny", {"steps": 200})
        >>> result.evaluations["final"].metrics
    """
    from harness.planning.plan import resolve
    from harness.runs import training_run
    from harness.system.processes.world import World
    from harness.system.progress import NoProgress

    given = assignments(settings)
    progress = progress or NoProgress()
    cfg = resolve(recipe, given, progress.note)
    named = "--config config.yaml" if isinstance(recipe, Path) else recipe
    command = " ".join(["harness run", named, *(f"--set {assignment}" for assignment in given)])
    return training_run.run(
        cfg,
        Path(out),
        command=command,
        progress=progress,
        with_evaluation=evaluate,
        force=force,
        world=world or World(),
    )


def sample(
    run: Place,
    num: int = 16,
    settings: Settings = (),
    *,
    seed: int = 0,
    labels: str = "balanced",
    npz: bool = False,
    step: int | None = None,
    progress: "Progress | None" = None,
    world: "World | None" = None,
) -> dict[str, Any]:
    """Draw images from a run, an imported checkpoint or an export, into its samples/ folder.

    Arguments:
        run: the folder, like runs/dit-tiny/seed0-9ac3130fa4.
        num: how many images.
        settings: changes of how it is sampled, like {"guidance_scale": 1.5, "num_steps": 40}.
        seed: image i depends on (seed, i) alone.
        labels: "balanced" takes every class in turn; "random" draws classes as ADM and DiT do.
        npz: also write samples.npz, which ADM's evaluator reads: arr_0, N x H x W x C uint8.
        step: the checkpoint of this training step; the newest by default.

    Returns the conditions of the images, and under "files" the paths of grid.png, sampling.json and samples.npz. Images
    that exist already are not drawn again.

    Raises UsageError for a setting that training has settled, DataError without such a checkpoint.

    Example:
        >>> from harness import sample
        >>> sample("runs/dit-tiny/seed0-9ac3130fa4", 64, {"guidance_scale": 1.5})["files"]
    """
    from harness.runs import sampling
    from harness.system.errors import UsageError
    from harness.system.processes.world import World
    from harness.system.progress import NoProgress

    if num < 1:
        raise UsageError(f"--num is {num}; it must be at least 1.")
    if labels not in ("balanced", "random"):
        raise UsageError(f"--labels is {labels!r}; it must be balanced or random.")
    return sampling.sample(
        Path(run), num,
        seed=seed, label_rule=labels, assignments=assignments(settings), npz=npz, step=step,
        progress=progress or NoProgress(), world=world or World(),
    )  # fmt: skip


def evaluate(
    images: Place,
    settings: Settings = (),
    *,
    reference: str | None = None,
    features: str | None = None,
    metrics: Sequence[str] | None = None,
    weights: str | None = None,
    spread: bool = False,
    cross_check: bool = False,
    step: int | None = None,
    progress: "Progress | None" = None,
    world: "World | None" = None,
) -> "Evaluation | None":
    """Measure images against a reference: those of a run's checkpoint, or those in a file or a folder.

    Arguments:
        images: a run folder; an .npz with arr_0, N x H x W x C uint8; a folder of PNGs.
        settings: for a run, how it is sampled and evaluated, like {"guidance_scale": 1.5, "num_images": 50_000}.
        reference: an .npz in ADM's layout, by path or by its name in $HARNESS_DATA/references, or the name of a data
            set. A run has its own.
        features: "inception", "digits", "dinov2" or "clip". A run has its own; images use inception by default.
        metrics: like ["fd", "precision"]; ["all"] is all that the feature network can give.
        weights: the feature network's file, or "random".
        spread: also the standard error of every metric.
        cross_check: also clean-fid's distances from the same features.
        step: of a run, the checkpoint of this training step; the newest by default.

    Returns the metrics with every condition that changes their values; of a run, this is also written to its
    evaluations/ folder. Of several processes only the main one gets them.

    Raises UsageError for an unknown metric or a missing reference, DataError for images or references that cannot be
    used, SetupError where the feature network's weights are missing.

    Example:
        >>> from harness import evaluate
        >>> evaluate("samples.npz", reference="VIRTUAL_imagenet256_labeled.npz").metrics["fid50k"]
    """
    from harness.evaluation.images.image_sets import open_images
    from harness.runs import measuring
    from harness.system.errors import DataError, UsageError
    from harness.system.processes.world import World
    from harness.system.progress import NoProgress

    path, given = Path(images), assignments(settings)
    shared: dict[str, Any] = {
        "weights": weights, "with_errors": spread, "with_cross_check": cross_check,
        "progress": progress or NoProgress(), "world": world or World(),
    }  # fmt: skip
    if (path / "config.yaml").is_file():
        measured = {"reference": reference, "features": features, "metrics": metrics}
        given += assignments({f"evaluation.{name}": value for name, value in measured.items() if value is not None})
        return measuring.evaluate_run(path, given, step=step, **shared)
    if not path.exists():
        raise DataError(f"there is no {images}. Give a run folder, an .npz or a folder of PNGs.")
    if (path / "sampling.json").is_file():
        raise UsageError(f"{images} is of `harness sample`: give its samples.npz, which --npz writes.")
    if path.is_dir() and reference is None:
        raise UsageError(f"{images} is no run folder (no config.yaml); of a folder of PNGs, name the --reference.")
    of_a_run = [*(assignment.partition("=")[0] for assignment in given), *(["--step"] if step is not None else [])]
    if of_a_run:
        raise UsageError(f"{of_a_run[0]} says how a run is sampled, and {images} is no run folder.")
    if reference is None:
        open_images(path)  # what is wrong with the images themselves is said first
        raise UsageError("name the --reference, like VIRTUAL_imagenet256_labeled.npz, or a data set.")
    return measuring.evaluate_file(path, features or "inception", reference, metrics, **shared)


def compare(
    runs: Place | Iterable[Place] = "runs", figure: str = "all", *, out: Place = "reports/latest"
) -> dict[str, Any]:
    """Draw the paper's figures with the published points beside the measured ones.

    Arguments:
        runs: run folders, or folders of them.
        figure: "3", "4", "5", "6" or "7" of the paper; "losses", "memory", "cost" or "held-out"; or "all" of them.
        out: where the pictures, and the CSV behind each, go.

    Returns plain data: each figure's numbers, the verdicts on the paper's claims, what was left out with the reason,
    and the files that were written.

    Raises UsageError for an unknown figure, DataError where no run is finished or `out` cannot be written.

    Example:
        >>> from harness import compare
        >>> compare("reports/demo/runs", "3", out="figures")["files"]
    """
    from harness.reporting.figures import comparison

    return comparison.compare(_places(runs), figure, Path(out))


def report(
    runs: Place | Iterable[Place] = "runs",
    *,
    out: Place = "reports/latest",
    formats: Sequence[str] = ("md", "html"),
    records: bool = False,
) -> "Report":
    """Write which of the paper's claims hold, its figures and tables beside what was measured.

    Arguments:
        runs: run folders, or folders of them.
        out: where the report, its figures and its tables go.
        formats: "md", "html", or both.
        records: also copy the runs' small records there, so that anyone can write the report again.

    Returns the files that were written, the evidence and the judgements.

    Raises UsageError for an unknown format, DataError without evidence or where `out` cannot be written.

    Example:
        >>> from harness import report
        >>> report("reports/demo/runs", out="reports/mine").tally
    """
    from harness.reporting.report import write

    return write(_places(runs), Path(out), formats=formats, records=records)


def assignments(settings: Settings) -> list[str]:
    """Settings as --set takes them: {"steps": 200} is ["steps=200"]. JSON is YAML."""
    if isinstance(settings, Mapping):
        return [f"{name}={json.dumps(value, default=str)}" for name, value in settings.items()]
    return list(settings)


def _places(runs: Place | Iterable[Place]) -> list[Path]:
    return [Path(runs)] if isinstance(runs, str | Path) else [Path(place) for place in runs]
