"""Everything in one run folder that audits and re-runs read, each document read once."""

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from harness.records.folders.departures import Departures, departures
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
    damaged: dict[str, str] = field(default_factory=dict)
    unsealed: tuple[str, ...] = ()  # records without a hash of themselves: written by older versions, or edited

    @property
    def all_evaluations(self) -> dict[str, Evaluation]:
        """result.json's and those of evaluations/."""
        return {**(self.result.evaluations if self.result else {}), **self.evaluations}

    @property
    def sections(self) -> dict[str, Any]:
        return self.config or {}

    @cached_property
    def departures(self) -> Departures:
        """Where the configuration differs from today's recipe."""
        return departures(self.sections, self.manifest.command if self.manifest else "")

    def setting(self, path: str) -> Any:
        """A setting of the configuration by its path, like "protocol.steps"; None where it has none."""
        node: Any = self.config
        for part in path.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return node


def read(folder: Path, name: str) -> Documents:
    """The documents of `folder`. Never raises for what lies in it: a document that cannot be read is `damaged`."""
    damaged: dict[str, str] = {}
    unsealed: list[str] = []

    def record(name: str, kind: type[R]) -> R | None:
        path = folder / name
        if not os.path.lexists(path):
            return None
        if not path.is_file():
            damaged[name] = "it is not a file"
            return None
        try:
            found = read_record(path, kind)
            if SELF not in read_json(path):
                unsealed.append(name)
            return found
        except DataError as error:
            damaged[name] = reason_of(error).removeprefix(f"{path} ")
        except (ValueError, RecursionError):
            damaged[name] = "it cannot be read as JSON"
        return None

    def lines(name: str) -> list[dict[str, Any]]:
        if not (folder / name).is_file():
            return []
        try:
            found, bad = read_lines(folder / name)
        except (OSError, ValueError, RecursionError) as error:
            damaged[name] = f"it cannot be read: {error}"
            return []
        if bad:
            damaged[name] = f"{bad} damaged line(s)"
        return found

    config = None
    if (folder / "config.yaml").exists():
        try:
            config = read_sections(folder)
        except DataError as error:
            damaged["config.yaml"] = reason_of(error).removeprefix("damaged: ")
    paths = sorted((folder / "evaluations").glob("*.json"))
    evaluations = {path.stem: record(f"evaluations/{path.name}", Evaluation) for path in paths}
    return Documents(
        folder=folder,
        name=name,
        config=config,
        manifest=record("manifest.json", Manifest),
        result=record("result.json", Result),
        imported=record("import.json", Import),
        metrics=lines("metrics.jsonl"),
        events=lines("events.jsonl"),
        evaluations={name: evaluation for name, evaluation in evaluations.items() if evaluation},
        damaged=damaged,
        unsealed=tuple(unsealed),
    )
