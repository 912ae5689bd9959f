"""The folder of one run: what it is a run of, whether it is finished or begun, and making it ready for training."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

import baselines
from harness.recipes.config import RunConfig, read_config
from harness.records.provenance import PACKAGES
from harness.records.schema import Manifest, Result, read_record, record_or_none, write_atomically, write_record
from harness.system.errors import DataError, SetupError, UsageError
from harness.system.locks import Hold
from harness.system.progress import Progress
from harness.training import checkpoint

CONFIG = "config.yaml"
EVALUATIONS = ("untrained", "step-*", "final")  # a run's own; `harness evaluate` names its otherwise


def configuration(folder: Path) -> RunConfig:
    """The configuration of the run in `folder`.

    Raises DataError where there is none or it is damaged, SetupError where the package is absent that its method is of.
    """
    if not (folder / CONFIG).is_file():
        raise DataError(f"{folder} is not a run folder: it has no {CONFIG}. `harness run` makes one in runs/.")
    document = read_config(folder / CONFIG)
    _require_method(document["method"], folder)
    try:
        return baselines.configured(document)
    except UsageError as error:
        raise DataError(
            f"{folder / CONFIG} is damaged, or of another version: {error} The `harness run` that made it writes it "
            "anew."
        ) from None


def network(cfg: RunConfig, weights: Mapping[str, Tensor], folder: Path) -> nn.Module:
    """The network of `cfg` with these weights, which were read in `folder`. Raises DataError where they do not fit."""
    built = baselines.build(cfg).network
    try:
        built.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(f"the weights in {folder} do not fit its configuration: {error}.") from None
    return built


def _require_method(name: str, folder: Path) -> None:
    """SetupError for a method that is not there, with the packages that the manifest names beside the harness's own."""
    if name in baselines.names():
        return
    manifest = record_or_none(folder / "manifest.json", Manifest)
    packages = manifest.packages if manifest else {}
    brought = [f"{package} {version}" for package, version in packages.items() if package not in PACKAGES]
    whose = f"came from {' or '.join(brought)}" if brought else "came from a package that the run does not name"
    raise SetupError(
        f"{folder} is a run of the method {name}, which is not installed here. It {whose}: install that package, and "
        f"repeat the command. There are {', '.join(baselines.names())}."
    )


def finished(folder: Path, cfg: RunConfig, *, needs_evaluation: bool) -> Result | None:
    """The result of a run that has nothing left to do; `needs_evaluation`, its milestones' that are there included."""
    result = record_or_none(folder / "result.json", Result)
    if result is None:
        return None  # the run continues from its checkpoints and writes a new one
    there = checkpoint.steps(folder / "checkpoints")
    asked = {milestone_name(step) for step in milestones(cfg) if step in there} if result.evaluations else {"final"}
    return result if not needs_evaluation or asked <= result.evaluations.keys() else None


def begun(folder: Path) -> bool:
    return any((folder / "checkpoints").glob("step-*"))


def no_checkpoint(folder: Path, step: int | None, what: str = "checkpoint") -> DataError:
    """What to say where a run has no such checkpoint: a finished run cannot be continued to make it."""
    which = f"no whole {what}" + ("" if step is None else f" of step {step}")
    there = ", ".join(map(str, checkpoint.steps(folder / "checkpoints"))) or "none"
    if not (folder / "result.json").is_file():
        advice = "`harness run` continues the run"
    elif step is None or there == "none":
        advice = "the run is finished; the same `harness run` with --force trains it anew"
    else:
        advice = "the run is finished, so take one of these"
    return DataError(f"{folder} holds {which} of its configuration. Steps there: {there}; {advice}.")


def milestones(cfg: RunConfig) -> range:
    """The steps before the last that are evaluated."""
    every = cfg.execution.evaluate_every or cfg.protocol.steps
    return range(every, cfg.protocol.steps, every)


def milestone_name(step: int) -> str:
    return f"step-{step:09d}"


def make_ready(
    folder: Path, cfg: RunConfig, manifest: Manifest, *, needed: int, force: bool, hold: Hold, progress: Progress
) -> None:
    """Write what a run begins with into `folder`, or see that it fits what is there; `force` removes that first.

    `needed` are the bytes of the checkpoints, `hold` keeps others from reading the folder while it is cleared.
    Raises DataError when the disk refuses or is too small, or the run was begun otherwise.
    """
    _find_room(folder, needed)
    if force:  # only now, when the new run can begin
        shutil.rmtree(folder)
        (folder / "checkpoints").mkdir(parents=True)
        hold.release()
    _clear_leftovers(folder)
    checkpoint.refuse_foreign(folder / "checkpoints", cfg.sha256)
    _keep_manifest(folder, manifest, progress)
    write_atomically(folder / "config.yaml", cfg.to_yaml())


def _find_room(folder: Path, needed: int) -> None:
    """Find out now, not after hours, whether the folder can be written and holds the checkpoints."""
    probe = folder / ".write-probe"
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        probe.write_bytes(os.urandom(1 << 16))
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written: {error.strerror or error}. Choose another folder with --out."
        ) from error
    finally:
        probe.unlink(missing_ok=True) if folder.is_dir() else None
    if free < needed:
        raise DataError(
            f"{folder} has {free / 1e9:.1f} GB free, and the run needs about {needed / 1e9:.1f} GB. "
            "Free some space or choose another folder with --out."
        )


def _clear_leftovers(folder: Path) -> None:
    """Remove what a kill left half written. This command holds the lock, so no other writes these files."""
    of_the_run = (".*.tmp", "samples/.grid.png.*.tmp", *(f"evaluations/.{name}.json.*.tmp" for name in EVALUATIONS))
    for unfinished in (path for pattern in of_the_run for path in folder.glob(pattern)):
        unfinished.unlink()
    for unfinished in (folder / "checkpoints").glob(".step-*.tmp"):
        shutil.rmtree(unfinished)


def _keep_manifest(folder: Path, manifest: Manifest, progress: Progress) -> None:
    """Write the manifest of a run that starts; a run that continues keeps its own, and must be on the same hardware.

    A record has one speed, which must be of one machine. Raises DataError on other hardware.
    """
    path = folder / "manifest.json"
    if not begun(folder):
        write_record(path, manifest)
        return
    try:
        kept = read_record(path, Manifest)
    except DataError as error:
        progress.note(f"{error} It is written anew.")
        write_record(path, manifest)
        return
    if (kept.device, kept.world_size) != (manifest.device, manifest.world_size):
        raise DataError(
            f"{folder} was begun on {_hardware(kept)}; this is {_hardware(manifest)}. Its record has one speed, so "
            "continue it there, or start over with --force."
        )
    if kept.precision != manifest.precision:
        raise DataError(
            f"{folder} was begun with {_flags(kept)}, and this command has {_flags(manifest)}: one record cannot say "
            "both. Continue it as it was begun, or start over with --force."
        )
    if kept.data.sha256 != manifest.data.sha256:
        raise DataError(
            f"{folder} was begun on other data of the name {kept.data.name}: sha256 {kept.data.sha256[:12]}, now "
            f"{manifest.data.sha256[:12]}. Give it the data it began with, or start over with --force."
        )
    if (kept.git_commit, kept.git_diff_sha256) != (manifest.git_commit, manifest.git_diff_sha256):
        progress.note("the code has changed since this run began; its manifest names the code it began with.")


def _flags(manifest: Manifest) -> str:
    return ", ".join(f"{name} {value}" for name, value in manifest.precision.items())


def _hardware(manifest: Manifest) -> str:
    return f"{manifest.device.name} with {manifest.device.threads} threads in {manifest.world_size} process(es)"
