"""Run folders as typed data. A folder that cannot be used is listed with its reason and never stops the others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from harness.recipes.naming import DIGEST_LENGTH, digest, identity, with_later_settings
from harness.records.finding import MAKE_ONE, NO_RUN, found_below
from harness.records.looks import LONGEST_NAME
from harness.records.run_folder import RunFolder, reason_of
from harness.records.schema import Evaluation, Manifest, Result
from harness.system.errors import DataError

SHOWN_REASONS = 3


@dataclass(frozen=True)
class LeftOut:
    """Something found but not used, with the reason in one line."""

    path: Path
    reason: str

    @property
    def name(self) -> str:
        """The last two parts of the path: which run it is, without the folders of the person who ran it."""
        return "/".join(self.path.parts[-2:])


@dataclass(frozen=True)
class Run:
    """A finished run: the documents of its folder, checked against each other."""

    path: Path
    config: dict[str, Any]
    manifest: Manifest
    result: Result
    metrics: list[dict[str, Any]]
    damaged_lines: int = 0  # lines of metrics.jsonl that could not be read
    damaged_evaluations: tuple[str, ...] = ()  # files of evaluations/, not of result.json, that could not be read
    evaluations: dict[str, Evaluation] = field(default_factory=dict)  # result.json's and those made later, by name

    @property
    def name(self) -> str:
        """Which run it is: <recipe>/<run-id>."""
        return f"{self.result.recipe}/{self.result.run_id}"

    @property
    def data_title(self) -> str:
        """What figures call its data: a folder of images by its last part."""
        return PurePath(self.manifest.data.name).name[:LONGEST_NAME]


def find_runs(roots: Iterable[Path]) -> tuple[list[Run], list[LeftOut]]:
    """Every finished run at or below `roots`, ordered by name, and everything that was left out.

    A root may itself be a run folder. Raises DataError for a root that does not exist.
    """
    runs: list[Run] = []
    left_out: list[LeftOut] = []
    folders: dict[Path, Path] = {}  # each once although two roots may lead to it
    for root in map(Path, roots):
        below = [folder for folder, reason in found_below(root) if not reason]
        for folder in below:
            folders.setdefault(folder.resolve(), folder)
        if not below:
            left_out.append(LeftOut(root, NO_RUN))
    for folder in folders.values():
        try:
            runs.append(load_run(folder))
        except DataError as error:
            left_out.append(LeftOut(folder, reason_of(error)))
    runs, repeats = _newest_of_each(runs)
    left_out += repeats
    return sorted(runs, key=lambda run: (run.name, str(run.path))), left_out


def load_run(folder: Path) -> Run:
    """The finished run in `folder`. Raises DataError when it is unfinished, damaged or not a run at all."""
    return finished(RunFolder(folder))


def finished(found: RunFolder) -> Run:
    """The run whose documents these are, checked against each other. Raises as load_run."""
    manifest, result, config = found.manifest, found.result, found.config
    if result is None and "result.json" not in found.damaged:
        raise DataError(_why_unfinished(found))
    if manifest is None or result is None or config is None:
        documents = {"manifest.json": manifest, "result.json": result, "config.yaml": config}
        name = next(name for name, document in documents.items() if document is None)
        raise DataError(f"damaged: {name} {found.damaged.get(name, 'is missing')}")
    if not result.complete:
        raise DataError("unfinished: result.json says so; the command that started it continues it")
    disagreements = [
        f"{name} is {ours!r} in config.yaml and {theirs!r} in result.json"
        for name, ours, theirs in (
            ("recipe", config.get("recipe"), result.recipe),
            ("method", config["method"], result.method),
            ("size", config.get("size"), result.size),
            ("seed", config["seed"], result.seed),
        )
        if ours != theirs
    ]
    if disagreements:
        raise DataError(f"damaged: {'; '.join(disagreements)}")
    if _config_sha256(config) != manifest.config_sha256:
        raise DataError("damaged: config.yaml is not what ran: its hash differs from manifest.json's")
    if result.run_id != f"seed{result.seed}-{manifest.config_sha256[:DIGEST_LENGTH]}":
        raise DataError(f"damaged: result.json is of {result.run_id}, which is another run than config.yaml's")
    if (log := "metrics.jsonl") in found.damaged and not found.damaged_lines:
        raise DataError(f"damaged: {log} {found.damaged[log]}")
    return Run(
        path=found.folder,
        config=with_later_settings(config),
        manifest=manifest,
        result=result,
        metrics=found.metrics,
        damaged_lines=found.damaged_lines,
        damaged_evaluations=tuple(
            Path(name).name
            for name in found.damaged
            if name.startswith("evaluations/") and Path(name).stem not in result.evaluations
        ),
        evaluations=result.evaluations | {n: e for n, e in found.evaluations.items() if n not in result.evaluations},
    )


def _why_unfinished(found: RunFolder) -> str:
    if found.config is None:
        return "not a run folder: no result.json and no configuration of a run"
    if found.exported:
        return "exported: a run's network, without its curves"
    for event in reversed(found.events):  # a checkpoint that was still being written may have come last
        if event.get("event") in ("start", "resume"):
            break
        if event.get("event") == "divergence":
            return f"failed: it diverged at step {event.get('step')}; a lower learning rate or another seed may not"
    reached = "" if found.last_step is None else f", last logged step {found.last_step}"
    return f"unfinished: no result.json{reached}; the command that started it continues it"


def _config_sha256(config: dict[str, Any]) -> str | None:
    """The hash RunConfig.sha256 gives this document, without the method's code; None for what JSON cannot hold."""
    try:
        return identity(config)
    except (TypeError, ValueError):
        return None


def _newest_of_each(runs: Iterable[Run]) -> tuple[list[Run], list[LeftOut]]:
    """One run per configuration, seed and machine: a copy or a repetition is no second seed."""
    newest: dict[str, Run] = {}
    left_out = []
    for run in sorted(runs, key=lambda run: run.manifest.started_at, reverse=True):
        kept = newest.setdefault(_identity(run), run)
        if kept is not run:
            where = "/".join(kept.path.parts[-2:])
            left_out.append(LeftOut(run.path, f"same configuration, seed and machine as {where}, which counts once"))
    return list(newest.values()), left_out


def _identity(run: Run) -> str:
    manifest = run.manifest
    return digest(
        {
            "config": manifest.config_sha256,
            "data": manifest.data.sha256,
            "device": run.result.device.model_dump(mode="json"),
            "world_size": run.result.world_size,
            "precision": manifest.precision,
        }
    )


def nothing_finished(roots: Sequence[Path], left_out: Sequence[LeftOut]) -> str:
    """What to say where no run is finished, with the first few that were left out."""
    reasons = [f"{item.name}: {item.reason}" for item in left_out[:SHOWN_REASONS]]
    if len(left_out) > SHOWN_REASONS:
        reasons.append(f"and {len(left_out) - SHOWN_REASONS} more")
    found = f" Left out: {'; '.join(reasons)}." if reasons else ""
    return f"no finished run in {', '.join(map(str, roots)) or 'no folder at all'}.{found} {MAKE_ONE}"
