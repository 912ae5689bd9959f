"""One run folder in full, finished or not: settings, provenance, speed, evaluations, events, files.

A document that is missing or damaged is left out, and `damaged` says why.
"""

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.records.folders.listing import entry as entry_in_list
from harness.records.run_folder import RunFolder
from harness.records.schema import Evaluation
from harness.system.errors import DataError

OF_COST = ("params", "gmacs_forward", "gmacs_step", "input_patches")
OF_SPEED = ("steps_per_sec", "steps_per_sec_sd", "timed_steps", "compiled", "attention")


def describe(folder: Path, name: str = "") -> dict[str, Any]:
    """Everything there is to say of the run in `folder`. Raises DataError when it is no run's folder."""
    found = RunFolder(folder, name)
    entry = entry_in_list(found)
    if entry.state == "foreign":
        raise DataError(f"{folder} is not a run folder: {entry.reason}.")
    result = found.result
    peaks = [line["peak_memory_bytes"] for line in found.metrics if isinstance(line.get("peak_memory_bytes"), int)]
    damaged = [entry.reason, *(f"{file} {why}" for file, why in found.damaged.items())]
    return plain(
        {
            **entry.as_json(),
            "config": _config(found),
            "manifest": found.manifest and found.manifest.model_dump(mode="json"),
            "cost": {key: getattr(result, key) for key in OF_COST} if result else None,
            "speed": {
                **({k: getattr(result, k) for k in OF_SPEED} if result else {"steps_per_sec": found.logged_speed}),
                "data_wait_share": _mean(found.metrics, "data_wait_share"),
                "mfu": _mean(found.metrics, "mfu"),
                "logged_steps": found.last_step,
                "log_lines": len(found.metrics),
            },
            "memory": {
                "peak_bytes": result.peak_memory_bytes if result else max(peaks, default=None),
                "kind": result and result.peak_memory_kind,
            },
            "wall_seconds": result and result.wall_seconds,
            "notes": result.notes if result else [],
            "evaluations": [evaluation.model_dump(mode="json") for evaluation in in_order(found)],
            "events": found.events,
            "files": files_of(folder),
            "damaged": list(dict.fromkeys(filter(None, damaged))),
        }
    )


def in_order(found: RunFolder) -> list[Evaluation]:
    """All evaluations that can be read, by step and name."""
    return sorted(found.all_evaluations.values(), key=lambda evaluation: (evaluation.step or 0, evaluation.name))


def files_of(folder: Path) -> list[dict[str, Any]]:
    """The entries of the folder, with the files and bytes below each; links are counted and not followed."""
    found = []
    for path in sorted(folder.iterdir()):
        files = list(files_below(path))
        name = path.name + ("/" if path.is_dir() and not path.is_symlink() else "")
        found.append({"name": name, "files": len(files), "bytes": sum(map(size_of, files))})
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


def _config(found: RunFolder) -> dict[str, Any] | None:
    if found.config is None:
        return None
    compared = found.departures
    return {
        "recipe": compared.recipe,
        "differing": [
            {
                "setting": departure.setting,
                "value": departure.value,
                **({"recipe": departure.recipe} if departure.known else {}),
                "source": departure.source,
            }
            for departure in compared.differing
        ],
        "equal": compared.equal,
        "absent": list(compared.absent),
    }


def _mean(lines: Iterable[Mapping[str, Any]], key: str) -> float | None:
    """The mean of a logged figure, each line weighted by its timed steps."""
    logged = [(line.get("timed_steps"), line.get(key)) for line in lines]
    pairs = [(n, value) for n, value in logged if isinstance(n, int) and n > 0 and isinstance(value, int | float)]
    return sum(n * value for n, value in pairs) / sum(n for n, _ in pairs) if pairs else None


def plain(value: Any) -> Any:
    """The value as JSON can hold it: a number that is not finite becomes its name."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value
