"""One run folder in full, finished or not: settings, provenance, speed, evaluations, events, files.

A document that is missing or damaged is left out, and `damaged` says why.
"""

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.records.folders.departures import departures
from harness.records.folders.listing import Entry, config_in, entry_of, last_step, lines_in, mean_speed
from harness.records.schema import Evaluation, Manifest, Record, Result, read_lines, read_record
from harness.records.store import reason_of
from harness.system.errors import DataError

OF_SPEED = ("steps_per_sec", "steps_per_sec_sd", "timed_steps", "compiled", "attention")
LOGS = ("metrics.jsonl", "events.jsonl")
OF_COST = ("params", "gmacs_forward", "gmacs_step", "input_patches")


def describe(folder: Path, name: str = "") -> dict[str, Any]:
    """Everything there is to say of the run in `folder`. Raises DataError when it is no run's folder."""
    entry = entry_of(folder, name)
    if entry.state == "foreign":
        raise DataError(f"{folder} is not a run folder: {entry.reason}.")
    damaged: list[str] = [entry.reason] if entry.reason else []
    manifest = _read(folder, "manifest.json", Manifest, damaged)
    result = _read(folder, "result.json", Result, damaged)
    lines = lines_in(folder, "metrics.jsonl")
    events = lines_in(folder, "events.jsonl")
    damaged += [f"{n} line(s) of {file} cannot be read" for file in LOGS if (n := _damaged_lines(folder / file))]
    return plain(
        {
            **entry.as_json(),
            "config": _config(folder, manifest),
            "manifest": manifest and manifest.model_dump(mode="json"),
            "cost": {key: getattr(result, key) for key in OF_COST} if result else None,
            "speed": _speed(entry, result, lines),
            "memory": _memory(result, lines),
            "wall_seconds": result and result.wall_seconds,
            "notes": result.notes if result else [],
            "evaluations": [e.model_dump(mode="json") for e in _evaluations(folder, result, damaged)],
            "events": events,
            "files": files_of(folder),
            "damaged": list(dict.fromkeys(damaged)),
        }
    )


def evaluations_of(folder: Path) -> list[Evaluation]:
    """All that can be read of a run's evaluations, by step and name."""
    return _evaluations(folder, _read(folder, "result.json", Result, []), [])


def files_of(folder: Path) -> list[dict[str, Any]]:
    """What lies in the folder, with the files and bytes below each; links are counted and not followed."""
    found = []
    for path in sorted(folder.iterdir()):
        files = list(files_below(path))
        found.append(
            {
                "name": path.name + ("/" if path.is_dir() and not path.is_symlink() else ""),
                "files": len(files),
                "bytes": sum(map(size_of, files)),
            }
        )
    return found


def size_of(path: Path) -> int:
    """Bytes of a file; 0 when it has gone meanwhile."""
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def files_below(path: Path) -> Iterable[Path]:
    """Files and links at or below `path`; links are not followed."""
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for parent, folders, names in os.walk(path):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        yield from (Path(parent) / name for name in (*names, *links))


def _config(folder: Path, manifest: Manifest | None) -> dict[str, Any] | None:
    config = config_in(folder)
    if config is None:
        return None
    found = departures(config, manifest.command if manifest else "")
    return {
        "recipe": found.recipe,
        "differing": [
            {
                "setting": departure.setting,
                "value": departure.value,
                **({"recipe": departure.recipe} if departure.known else {}),
                "source": departure.source,
            }
            for departure in found.differing
        ],
        "equal": found.equal,
        "absent": list(found.absent),
    }


def _speed(entry: Entry, result: Result | None, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the timed steps; shares and utilisation are means over them. Without a result, as far as the log goes."""
    speed = {key: getattr(result, key) for key in OF_SPEED} if result else {"steps_per_sec": mean_speed(lines)}
    return {
        **speed,
        "data_wait_share": _mean(lines, "data_wait_share"),
        "mfu": _mean(lines, "mfu"),
        "logged_steps": last_step(lines),
        "log_lines": len(lines),
    }


def _memory(result: Result | None, lines: list[dict[str, Any]]) -> dict[str, Any]:
    if result:
        return {"peak_bytes": result.peak_memory_bytes, "kind": result.peak_memory_kind}
    logged = [line.get("peak_memory_bytes") for line in lines]
    return {"peak_bytes": max((value for value in logged if isinstance(value, int)), default=None), "kind": None}


def _mean(lines: Iterable[Mapping[str, Any]], key: str) -> float | None:
    """Of a logged figure, each line weighted by its timed steps."""
    logged = [(line.get("timed_steps"), line.get(key)) for line in lines]
    pairs = [(n, value) for n, value in logged if isinstance(n, int) and n > 0 and isinstance(value, int | float)]
    return sum(n * value for n, value in pairs) / sum(n for n, _ in pairs) if pairs else None


def _evaluations(folder: Path, result: Result | None, damaged: list[str]) -> list[Evaluation]:
    """result.json's and those of evaluations/, by step and name."""
    found = dict(result.evaluations) if result else {}
    for path in sorted((folder / "evaluations").glob("*.json")):
        if path.stem not in found and (evaluation := _read(folder, f"evaluations/{path.name}", Evaluation, damaged)):
            found[path.stem] = evaluation
    return sorted(found.values(), key=lambda evaluation: (evaluation.step or 0, evaluation.name))


def _read(folder: Path, name: str, kind: type[Record], damaged: list[str]) -> Any:
    if not os.path.lexists(folder / name):
        return None
    if not (folder / name).is_file():
        damaged.append(f"{name} is not a file")
        return None
    try:
        return read_record(folder / name, kind)
    except DataError as error:
        damaged.append(reason_of(error).replace(f"{folder}{os.sep}", ""))
    return None


def _damaged_lines(path: Path) -> int:
    try:
        return read_lines(path)[1] if path.is_file() else 0
    except (OSError, ValueError, RecursionError):
        return 1


def plain(value: Any) -> Any:
    """The value as JSON can hold it: a number that is not finite becomes its name."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value
