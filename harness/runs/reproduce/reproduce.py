"""A run carried out again into a new folder, and what became of it."""

import json
from pathlib import Path
from typing import Any

import torch

from harness.records import documents, machine
from harness.records.folders.listing import last_step, lines_in
from harness.records.schema import SCHEMA_VERSION, Manifest, read_json, read_record, write_atomically
from harness.runs import training_run as experiment
from harness.runs.reproduce import compare, environment
from harness.runs.reproduce.restore import Restored, data_of, restored
from harness.system.errors import DataError, UsageError
from harness.system.files import sha256_of
from harness.system.precision import default_device
from harness.system.processes.world import World
from harness.system.progress import Progress

WEIGHT_FILES = {"raw": "method.safetensors", "averaged": "ema.safetensors"}

MARKER = "reproduction.json"
REPRODUCED, NOT_REPRODUCED = "reproduced", "NOT reproduced"
UNTOLD = "cannot tell by losses: nothing differs by more than allowed, and a run of another seed might not either"


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

    The re-run keeps the whole budget and is stopped early, so what a method makes of its share of the budget is the
    same: SD-DiT's teacher follows it, the other methods have nothing that does. It takes the record's number of threads
    where the processor is the same. Every process of `world` calls this alike; the main one has the answer.

    "reproduced" is None where nothing differs by more than allowed, and nothing would tell another seed from it.

    Raises DataError when the data are not those of the record, SetupError when this version or machine cannot carry it
    out, UsageError when `steps` or the number of processes does not fit it, or when what lies at the re-run's place was
    not made by a re-run of this record.
    """
    then = restored(folder)
    record = documents.read(folder, f"{folder.resolve().parent.name}/{folder.resolve().name}")
    last = _last_step(record, then, steps, world)
    data_of(then)
    here = machine.describe(default_device())
    if then.manifest.device.kind == "cpu" and here.name == then.manifest.device.name:
        torch.set_num_threads(
            then.manifest.device.threads
        )  # sums depend on it; on another processor they differ anyway
    place = out / then.cfg.recipe / then.cfg.run_id
    if place.resolve() == folder.resolve():
        raise UsageError(f"{out} is where the record itself lies; choose another --out.")
    manifest_sha256 = sha256_of(folder / "manifest.json")
    refused = world.agreed(None if force or not world.is_main else _foreign(place, then.manifest, manifest_sha256))
    if refused:
        raise UsageError(refused)
    if world.is_main:
        _mark(place, manifest_sha256)
    if force or last is None or (last_step(lines_in(place, "metrics.jsonl")) or 0) < last:
        _carry_out(then, out, last, evaluates=bool(record.all_evaluations), force=force, progress=progress, world=world)
    if not world.is_main:
        return None
    return _document(record, documents.read(place, f"{then.cfg.recipe}/{then.cfg.run_id}"), then, last)


def _marker(place: Path) -> Path:
    return place.with_name(f"{place.name}.{MARKER}")  # beside it: --force removes the folder


def _mark(place: Path, manifest_sha256: str) -> None:
    """Say, before it begins, that what comes to lie at `place` is a re-run of the record with this manifest."""
    _marker(place).parent.mkdir(parents=True, exist_ok=True)
    document = {"schema_version": SCHEMA_VERSION, "record_manifest_sha256": manifest_sha256}
    write_atomically(_marker(place), json.dumps(document) + "\n")


def _foreign(place: Path, then: Manifest, manifest_sha256: str) -> str | None:
    """Why what lies at `place` cannot be continued or compared as a re-run; None where it can, or nothing is there."""
    if not (place.is_dir() and any(place.iterdir())):
        return None
    mend = "Choose another --out, or start the re-run over with --force."
    try:
        if read_record(place / "manifest.json", Manifest).started_at == then.started_at:
            return f"{place} is a copy of the record, started at the same time, and no re-run. {mend}"
    except DataError:
        pass  # a re-run that was stopped before it had one; the run itself judges what is damaged
    try:
        marker = read_json(_marker(place))
    except (OSError, ValueError, RecursionError):
        marker = None
    known = marker.get("record_manifest_sha256") if isinstance(marker, dict) else None
    if known is None:
        return f"{place} was not made by a re-run: {_marker(place).name} beside it is missing or damaged. {mend}"
    return None if known == manifest_sha256 else f"{place} is a re-run of another record of this configuration. {mend}"


def _last_step(record: documents.Documents, then: Restored, steps: int | None, world: World) -> int | None:
    """The first logged step at or after `steps`; None for the whole run."""
    if world.size != then.manifest.world_size and steps is None:
        asked = then.manifest.world_size
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


def _carry_out(
    then: Restored, out: Path, last: int | None, *, evaluates: bool, force: bool, progress: Progress, world: World
) -> None:
    watched = progress if last is None or not world.is_main else _Until(progress, last)
    try:
        experiment.run(
            then.cfg,
            out,
            command=then.manifest.command,
            progress=watched,
            with_evaluation=evaluates and last is None,
            force=force,
            world=world,
        )
    except Enough:
        progress.note(f"step {last:,} is logged; the rest is not repeated (--steps).")


def _document(
    record: documents.Documents, again: documents.Documents, then: Restored, last: int | None
) -> dict[str, Any]:
    now = read_record(again.folder / "manifest.json", Manifest)
    found = environment.differences(then.manifest, now)
    how, why = environment.comparison(then.manifest, found, completed=bool(then.completed))
    rows = [_identity(record, again, then), *compare.losses(record, again, how, last)]
    if last is None:
        rows += compare.weights(_weights(record, then), _weights(again, then), how)
        rows += compare.evaluations(record.all_evaluations, again.all_evaluations, how)
    failed = any(row.reproduced is False for row in rows)
    told = not any(row.what == compare.SEEDS for row in rows)
    return {
        "schema_version": SCHEMA_VERSION,
        "run": record.name,
        "again": again.name,
        "reproduced": False if failed else True if told else None,
        "verdict": NOT_REPRODUCED if failed else REPRODUCED if told else UNTOLD,
        "comparison": how,
        "why": why,
        "steps": last or then.cfg.protocol.steps,
        "of_steps": then.cfg.protocol.steps,
        "environment": [difference._asdict() for difference in found],
        "completed": then.completed,
        "rows": [row._asdict() for row in rows],
    }


def _identity(record: documents.Documents, again: documents.Documents, then: Restored) -> compare.Row:
    ours, theirs = then.manifest.config_sha256[: compare.HASH], then.cfg.sha256[: compare.HASH]
    if then.completed:
        return compare.Row("configuration", ours, theirs, None, "shown: with newer settings", None)
    return compare.Row("configuration", ours, theirs, None, "equal", ours == theirs)


def _weights(run: documents.Documents, then: Restored) -> dict[str, str]:
    """The sha256 of the last step's weight files; a record without weights has none."""
    place = run.folder / "checkpoints" / f"step-{then.cfg.protocol.steps:09d}"
    return {name: sha256_of(place / file) for name, file in WEIGHT_FILES.items() if (place / file).is_file()}
