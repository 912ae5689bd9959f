"""Run folders as typed data. A folder that cannot be used is listed with its reason and never stops the others."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from harness.recipes.config import DIGEST_LENGTH, digest, identity, read_config, with_later_settings
from harness.records.export_record import RECORD as EXPORT_RECORD
from harness.records.schema import Evaluation, Manifest, Record, Result, read_lines, read_record
from harness.system.errors import DataError, one_line

MARKERS = ("config.yaml", "manifest.json", "result.json")  # any of them makes a folder a candidate
SECTIONS = {"network": dict, "knobs": dict, "protocol": dict, "sampling": dict, "formulation": str, "seed": int}
MAKE_ONE = "`harness demo` or `harness run dit-tiny` makes one."
SHOWN_REASONS = 3
NO_RUN = "holds no run folder"
R = TypeVar("R", bound=Record)


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


def load_runs(roots: Iterable[Path]) -> tuple[list[Run], list[LeftOut]]:
    """As find_runs, but where no run is finished there is nothing to go on with: raises DataError."""
    roots = [Path(root) for root in roots]
    runs, left_out = find_runs(roots)
    if not runs:
        raise DataError(nothing_finished(roots, left_out))
    return runs, left_out


def find_runs(roots: Iterable[Path]) -> tuple[list[Run], list[LeftOut]]:
    """Every finished run at or below `roots`, ordered by name, and everything that was left out.

    A root may itself be a run folder. Raises DataError for a root that does not exist.
    """
    roots = [Path(root) for root in roots]
    runs: list[Run] = []
    left_out: list[LeftOut] = []
    for folder in _candidates(roots, left_out):
        try:
            runs.append(load_run(folder))
        except DataError as error:
            left_out.append(LeftOut(folder, reason_of(error)))
    runs, repeats = _newest_of_each(runs)
    left_out += repeats
    return sorted(runs, key=lambda run: (run.name, str(run.path))), left_out


def load_run(folder: Path) -> Run:
    """The finished run in `folder`. Raises DataError when it is unfinished, damaged or not a run at all."""
    if not (folder / "result.json").exists():
        raise DataError(_why_unfinished(folder))
    manifest = _read(folder, "manifest.json", Manifest)
    result = _read(folder, "result.json", Result)
    config = read_sections(folder)
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
    metrics, damaged_lines = _read_metrics(folder)
    evaluations, damaged = _read_evaluations(folder, result)
    return Run(
        folder, with_later_settings(config), manifest, result, metrics, damaged_lines, tuple(damaged), evaluations
    )


# Finding ---------------------------------------------------------------------------------------------------------


def _candidates(roots: Sequence[Path], left_out: list[LeftOut]) -> Iterator[Path]:
    """Folders that hold at least one document of a run, each once, although two roots may lead to it."""
    seen = set()
    for root in roots:
        if not root.exists():
            raise DataError(f"{root} does not exist. Give a run folder or a folder of runs; {MAKE_ONE}")
        if not root.is_dir():
            raise DataError(f"{root} is a file. Give the run folder that holds it, or a folder of runs.")
        found = False
        for parent, folders, names in os.walk(root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            if not any(marker in names for marker in MARKERS):
                continue
            found = True
            folders.clear()  # do not search inside a run
            folder = Path(parent)
            if folder.resolve() not in seen:
                seen.add(folder.resolve())
                yield folder
        if not found:
            left_out.append(LeftOut(root, NO_RUN))


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


# Reading ---------------------------------------------------------------------------------------------------------


def _read(folder: Path, name: str, kind: type[R]) -> R:
    try:
        return read_record(folder / name, kind)
    except DataError as error:
        raise DataError(f"damaged: {reason_of(error).replace(f'{folder}{os.sep}', '')}") from None
    except (ValueError, RecursionError):  # json: a number of thousands of digits, brackets thousands deep
        raise DataError(f"damaged: {name} cannot be read as JSON") from None


def read_sections(folder: Path) -> dict[str, Any]:
    """config.yaml, where it is a run's. Raises DataError otherwise."""
    try:
        config = read_config(folder / "config.yaml")
    except (DataError, RecursionError, ValueError):
        raise DataError("damaged: config.yaml is missing or not a run's configuration") from None
    wrong = [name for name, kind in SECTIONS.items() if not isinstance(config.get(name), kind)]
    if wrong:
        raise DataError(f"damaged: config.yaml has no valid {', '.join(wrong)}")
    return config


def _read_metrics(folder: Path) -> tuple[list[dict[str, Any]], int]:
    try:
        return read_lines(folder / "metrics.jsonl")
    except (OSError, ValueError, RecursionError):
        raise DataError("damaged: metrics.jsonl cannot be read") from None


def _read_evaluations(folder: Path, result: Result) -> tuple[dict[str, Evaluation], list[str]]:
    """Those of result.json and those that `harness evaluate` added, and the names of damaged files: they are told, and
    no reason to leave out the run."""
    found, damaged = dict(result.evaluations), []
    for path in sorted((folder / "evaluations").glob("*.json")):
        if path.stem not in found:
            try:
                found[path.stem] = read_record(path, Evaluation)
            except DataError:
                damaged.append(path.name)
    return found, damaged


def _config_sha256(config: dict[str, Any]) -> str | None:
    """The hash RunConfig.sha256 gives this document, without the method's code; None for what JSON cannot hold."""
    try:
        return identity(config)
    except (TypeError, ValueError):
        return None


def _why_unfinished(folder: Path) -> str:
    try:
        read_sections(folder)
    except DataError:
        return "not a run folder: no result.json and no configuration of a run"
    if (folder / EXPORT_RECORD).exists():
        return "exported: a run's network, without its curves"
    try:
        steps = [line["step"] for line in _read_metrics(folder)[0] if isinstance(line.get("step"), int)]
    except DataError:
        steps = []
    try:
        events, _ = read_lines(folder / "events.jsonl")
    except (OSError, ValueError):
        events = []  # what can be said without it is said
    for event in reversed(events):  # a checkpoint that was still being written may have come last
        if event.get("event") in ("start", "resume"):
            break
        if event.get("event") == "divergence":
            return f"failed: it diverged at step {event.get('step')}; a lower learning rate or another seed may not"
    reached = f", last logged step {max(steps)}" if steps else ""
    return f"unfinished: no result.json{reached}; the command that started it continues it"


def reason_of(error: Exception) -> str:
    """What an error says, on one line and without its full stop."""
    return one_line(error).rstrip(".")
