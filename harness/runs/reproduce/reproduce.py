"""A run carried out again into a new folder, and compared with its record."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

import baselines
import harness
from harness.data import sources
from harness.recipes.config import RunConfig
from harness.records import machine
from harness.records.folders.departures import complete
from harness.records.run_folder import RunFolder, read_sections, reason_of
from harness.records.schema import SCHEMA_VERSION, Manifest, read_record
from harness.runs import training_run
from harness.runs.reproduce import comparison
from harness.system.errors import DataError, HarnessError, SetupError, UsageError
from harness.system.files import sha256_of
from harness.system.precision import default_device
from harness.system.processes.world import World
from harness.system.progress import Progress

WEIGHT_FILES = {"raw": "method.safetensors", "averaged": "ema.safetensors"}
REPRODUCED, NOT_REPRODUCED = "reproduced", "NOT reproduced"
UNTOLD = "cannot tell by losses: nothing differs by more than allowed, and a run of another seed might not either"


class Restored(NamedTuple):
    """The configuration and manifest of a record, as this version of the harness can carry them out again."""

    cfg: RunConfig
    manifest: Manifest
    completed: dict[str, Any]  # settings newer than the record, with the recipe's values


class Enough(Exception):
    """The re-run has logged the last step that is compared."""


class _Until:
    """A progress that ends the run once `step` is logged."""

    def __init__(self, progress: Progress, step: int):
        self._progress, self._step = progress, step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._progress, name)

    def metrics(self, line: dict[str, Any]) -> None:
        self._progress.metrics(line)
        if line["step"] >= self._step:
            raise Enough


def reproduce(
    folder: Path, out: Path, *, steps: int | None, force: bool, progress: Progress, world: World
) -> dict[str, Any] | None:
    """Carry out the run of `folder` again below `out` and compare the two, up to `steps` if given.

    The re-run keeps the whole budget and is stopped early, because SD-DiT's teacher depends on the share of the budget
    that is done. It takes the record's number of threads where the processor is the same. Every process of `world`
    calls this alike; the main one gets the answer.

    "reproduced" is None where nothing differs by more than allowed, and nothing would tell another seed from it.

    Raises DataError when the data are not those of the record, SetupError when this version or machine cannot carry it
    out, UsageError when `steps` or the number of processes does not fit it, or when a copy of the record lies at the
    re-run's place.
    """
    then = restored(folder)
    record = RunFolder(folder, f"{folder.resolve().parent.name}/{folder.resolve().name}")
    last = _last_step(record, then, steps, world)
    _require_data(then)
    recorded = then.manifest.device
    if recorded.kind == "cpu" and machine.describe(default_device()).name == recorded.name:
        torch.set_num_threads(recorded.threads)  # sums depend on it; on another processor they differ anyway
    place = out / then.cfg.recipe / then.cfg.run_id
    if place.resolve() == folder.resolve():
        raise UsageError(f"{out} is where the record itself lies; choose another --out.")
    if not force:
        _refuse_a_copy(place, then.manifest)
    if force or last is None or (RunFolder(place).last_step or 0) < last:
        try:
            training_run.run(
                then.cfg,
                out,
                command=then.manifest.command,
                progress=progress if last is None else _Until(progress, last),
                with_evaluation=bool(record.all_evaluations) and last is None,
                force=force,
                world=world,
            )
        except Enough:
            progress.note(f"step {last:,} is logged; the rest is not repeated (--steps).")
    if not world.is_main:
        return None
    return _document(record, RunFolder(place, f"{then.cfg.recipe}/{then.cfg.run_id}"), then, last)


# Before it begins ------------------------------------------------------------------------------------------------


def restored(folder: Path) -> Restored:
    """The run in `folder` to be carried out again. A setting newer than the record gets the value of today's recipe.

    Raises DataError when `folder` is no run or its records are damaged, SetupError when this version cannot carry it
    out.
    """
    if not folder.is_dir() or not (folder / "config.yaml").is_file():
        raise DataError(f"{folder} is not a run folder: it has no config.yaml. Name one, like runs/<recipe>/<run-id>.")
    if (folder / "import.json").is_file():
        raise DataError(
            f"{folder} is an imported checkpoint: how it was trained is not recorded, so nobody can repeat it."
        )
    try:
        document, manifest = read_sections(folder), read_record(folder / "manifest.json", Manifest)
    except DataError as error:
        raise DataError(
            f"{folder} cannot be reproduced: {reason_of(error)}. `harness audit` says which records are whole."
        ) from None
    if manifest.harness_version.split(".")[:2] != harness.__version__.split(".")[:2]:
        raise SetupError(
            f"{folder.name} was made by harness {manifest.harness_version}, and this is {harness.__version__}: only "
            "versions with the same first two numbers promise the same results. Install that version, or check out "
            f"commit {(manifest.git_commit or 'of it')[:10]}."
        )
    completed = complete(document, manifest.command)
    try:
        cfg = baselines.configured(document)
    except UsageError as error:
        raise SetupError(
            f"this version of the harness cannot carry out {folder.name}: {reason_of(error)}. Check out the commit it "
            f"was made with, {(manifest.git_commit or 'which it does not record')[:10]}."
        ) from None
    return Restored(cfg, manifest, completed)


def _require_data(then: Restored) -> None:
    """Raises DataError when the run's data are absent, or are not those it was made with."""
    known = then.manifest.data
    try:
        found = sources.of(then.cfg)
    except HarnessError as error:
        raise type(error)(f"the data of this run, {known.name}, cannot be had: {error}") from None
    if found.sha256 != known.sha256:
        raise DataError(
            f"{known.name} is not what the run was made with: its sha256 is {found.sha256[:12]} here and "
            f"{known.sha256[:12]} in manifest.json. A re-run on it would compare two experiments; get the data of that "
            "hash (`harness data info` shows a store's)."
        )


def _last_step(record: RunFolder, then: Restored, steps: int | None, world: World) -> int | None:
    """The first logged step at or after `steps`; None for the whole run."""
    asked = then.manifest.world_size
    if world.size != asked and steps is None:
        raise UsageError(f"the run was made by {asked} process(es), this is {world.size}; say --nproc {asked}.")
    if steps is None or steps >= then.cfg.protocol.steps:
        return None
    if world.size > 1:
        raise UsageError("--steps stops a re-run in one process only; leave it out, or --nproc.")
    logged = [line["step"] for line in record.metrics if type(line.get("step")) is int]
    later = [step for step in logged if step >= steps]
    if not later:
        raise UsageError(f"--steps is {steps}, and the record's log ends at step {max(logged, default=0)}.")
    return min(later)


def _refuse_a_copy(place: Path, then: Manifest) -> None:
    """Raises UsageError when the run at `place` is a copy of the record: it would be compared with itself."""
    try:
        found = read_record(place / "manifest.json", Manifest)
    except DataError:
        return  # nothing is there yet; the run itself refuses what is damaged
    if found.started_at == then.started_at:
        raise UsageError(
            f"{place} is a copy of the record, started at the same time, and no re-run. Choose another --out, or start "
            "the re-run over with --force."
        )


# After it --------------------------------------------------------------------------------------------------------


def _document(record: RunFolder, again: RunFolder, then: Restored, last: int | None) -> dict[str, Any]:
    now = read_record(again.folder / "manifest.json", Manifest)
    found = comparison.differences(then.manifest, now)
    how, why = comparison.comparison(then.manifest, found, completed=bool(then.completed))
    rows = [_identity(then), *comparison.losses(record, again, how, last)]
    if last is None:
        rows += comparison.weights(_weights(record, then), _weights(again, then), how)
        rows += comparison.evaluations(record.all_evaluations, again.all_evaluations, how)
    reproduced: bool | None = all(row.reproduced is not False for row in rows)
    if reproduced and any(row.what == comparison.SEEDS for row in rows):
        reproduced = None
    return {
        "schema_version": SCHEMA_VERSION,
        "run": record.name,
        "again": again.name,
        "reproduced": reproduced,
        "verdict": {True: REPRODUCED, False: NOT_REPRODUCED, None: UNTOLD}[reproduced],
        "comparison": how,
        "why": why,
        "steps": last or then.cfg.protocol.steps,
        "of_steps": then.cfg.protocol.steps,
        "environment": [difference._asdict() for difference in found],
        "completed": then.completed,
        "rows": [row._asdict() for row in rows],
    }


def _identity(then: Restored) -> comparison.Row:
    ours, theirs = then.manifest.config_sha256[: comparison.HASH], then.cfg.sha256[: comparison.HASH]
    if then.completed:
        return comparison.Row("configuration", ours, theirs, None, "shown: with newer settings", None)
    return comparison.Row("configuration", ours, theirs, None, "equal", ours == theirs)


def _weights(run: RunFolder, then: Restored) -> dict[str, str]:
    """The sha256 of the last step's weight files; a record without weights has none."""
    place = run.folder / "checkpoints" / f"step-{then.cfg.protocol.steps:09d}"
    return {name: sha256_of(place / file) for name, file in WEIGHT_FILES.items() if (place / file).is_file()}
