"""Everything in one run folder that the checks read, each document read once."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from harness.records.schema import (
    SELF,
    Evaluation,
    Import,
    Manifest,
    Record,
    Result,
    read_json,
    read_lines,
    read_record,
)
from harness.records.store import read_sections, reason_of
from harness.system.errors import DataError

R = TypeVar("R", bound=Record)
LOGS = ("metrics.jsonl", "events.jsonl")


@dataclass(frozen=True)
class Documents:
    """One run folder. What is absent is None or empty; what cannot be read is in `damaged`, with why."""

    folder: Path
    name: str
    config: dict[str, Any] | None
    manifest: Manifest | None
    result: Result | None
    imported: Import | None  # a published checkpoint, trained elsewhere
    metrics: list[dict[str, Any]]
    events: list[dict[str, Any]]
    evaluations: dict[str, Evaluation]  # evaluations/*.json, by file name
    written: dict[str, Mapping[str, Any]]  # the same as they stand in their files: which conditions were recorded
    damaged: dict[str, str] = field(default_factory=dict)
    unsealed: tuple[str, ...] = ()  # records without a hash of themselves: older versions', or it was taken out

    @property
    def all_evaluations(self) -> dict[str, Evaluation]:
        """result.json's and those of evaluations/."""
        return {**(self.result.evaluations if self.result else {}), **self.evaluations}

    @property
    def sections(self) -> dict[str, Any]:
        return self.config or {}

    def setting(self, path: str) -> Any:
        """A setting of the configuration by its path, like "protocol.steps"; None where it has none."""
        node: Any = self.config
        for part in path.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return node


def read(folder: Path, name: str) -> Documents:
    """The documents of `folder`. Never raises for what lies in it: a document that cannot be read is `damaged`."""
    damaged: dict[str, str] = {}
    config = None
    if (folder / "config.yaml").exists():
        try:
            config = read_sections(folder)
        except DataError as error:
            damaged["config.yaml"] = reason_of(error).removeprefix("damaged: ")
    logs = {log: _lines(folder / log, damaged) for log in LOGS}
    evaluations = {}
    for path in sorted((folder / "evaluations").glob("*.json")):
        evaluation = _record(folder, f"evaluations/{path.name}", Evaluation, damaged)
        if evaluation:
            evaluations[path.stem] = evaluation
    manifest = _record(folder, "manifest.json", Manifest, damaged)
    result = _record(folder, "result.json", Result, damaged)
    imported = _record(folder, "import.json", Import, damaged)
    known = {"manifest.json": manifest, "result.json": result, "import.json": imported}
    written = {name: read_json(folder / "evaluations" / f"{name}.json") for name in evaluations}
    plain = {name: read_json(folder / name) for name, record in known.items() if record}
    plain |= {f"evaluations/{name}.json": document for name, document in written.items()}
    return Documents(
        folder=folder,
        name=name,
        config=config,
        manifest=manifest,
        result=result,
        imported=imported,
        metrics=logs["metrics.jsonl"],
        events=logs["events.jsonl"],
        evaluations=evaluations,
        written=written,
        damaged=damaged,
        unsealed=tuple(name for name, document in plain.items() if SELF not in document),
    )


def _record(folder: Path, name: str, kind: type[R], damaged: dict[str, str]) -> R | None:
    path = folder / name
    if not os.path.lexists(path):
        return None
    if not path.is_file():
        damaged[name] = "it is not a file"
        return None
    try:
        return read_record(path, kind)
    except DataError as error:
        damaged[name] = reason_of(error).removeprefix(f"{path} ")
    except (ValueError, RecursionError):
        damaged[name] = "it cannot be read as JSON"
    return None


def _lines(path: Path, damaged: dict[str, str]) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        lines, bad = read_lines(path)
    except (OSError, ValueError, RecursionError) as error:
        damaged[path.name] = f"it cannot be read: {error}"
        return []
    if bad:
        damaged[path.name] = f"{bad} damaged line(s)"
    return lines
