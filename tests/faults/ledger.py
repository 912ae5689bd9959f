"""What the fault suites tried and what came of it: one JSON file a suite, and one table of them all.

    ledger = Ledger("kills", seed=7)
    ledger.add(Fault("training", "SIGKILL at a random moment", tried=50, survived=50, lost="at most 3 steps"))
    ledger.write()                                # reports/evidence/kills.json; rows of other kinds there stay

`python tests/faults/ledger.py [FOLDER]` draws faults.md from every JSON file of the folder.
"""

import json
import os
import platform
import re
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.records.schema import write_atomically
from harness.reporting.tables.table import NOTHING, Table, frame_of

REPORTS = Path(__file__).parents[2] / "reports" / "evidence"
TABLE = "faults.md"
SCHEMA_VERSION = 1
NO_FAULTS = {  # kinds whose tries are no faults
    "property": "examples of a property",
    "fuzz": "inputs of a fuzzer",
    "case": "cases of ordinary tests",
}


@dataclass(frozen=True)
class Fault:
    """One kind of fault in one place, and how often the harness came through it."""

    kind: str  # a word or two: training, disk full, flipped bit
    what: str  # what was done, and what counts as survived
    tried: int
    survived: int
    lost: str  # the most work that any of them cost: nothing, at most 3 steps
    details: dict[str, int | float | str] = field(default_factory=dict)  # further counts, a column each

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.what


class Ledger:
    """The faults of one suite. `seed` is what a failure is repeated with."""

    def __init__(self, name: str, *, seed: int | None = None):
        self.name, self._seed = name, seed
        self._rows: dict[tuple[str, str], dict[str, Any]] = {}

    def add(self, fault: Fault) -> None:
        """A row; a second one of the same kind and words replaces the first."""
        assert 0 <= fault.survived <= fault.tried, fault
        self._rows[fault.key] = {**asdict(fault), "seed": self._seed, "python": platform.python_version()}

    def write(self, folder: Path = REPORTS) -> Path:
        """<folder>/<name>.json with these rows, and those of an earlier file that these do not replace."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        rows = {(row["kind"], row["what"]): row for row in _read(path)} | self._rows
        document = {"schema_version": SCHEMA_VERSION, "suite": self.name, "faults": list(rows.values())}
        write_atomically(path, json.dumps(document, indent=2) + "\n")
        return path


def table(folder: Path = REPORTS) -> str:
    """Markdown: every suite's faults, and their sum."""
    suites = {path.stem: faults for path in sorted(folder.glob("*.json")) if (faults := _read(path))}
    rows = [row for faults in suites.values() for row in faults]
    counted = [_counted([row for row in rows if row["kind"] not in NO_FAULTS], "faults")]
    counted += [
        _counted(of, words) for kind, words in NO_FAULTS.items() if (of := [r for r in rows if r["kind"] == kind])
    ]
    lines = [
        "# Faults tried and survived",
        "",
        f"{'; '.join(counted)}. `make faults` makes this again, and `python tests/faults/ordinary.py` the part "
        "ordinary alone; a row's seed repeats it.",
        "",
    ]
    for name, faults in suites.items():
        lines += [f"## {name}", "", _table_of(faults)]
    return "\n".join(lines)


def _counted(rows: list[dict[str, Any]], words: str) -> str:
    tried, survived = (sum(row[count] for row in rows) for count in ("tried", "survived"))
    return f"{tried:,} {words} tried, {survived:,} survived"


def _table_of(faults: list[dict[str, Any]]) -> str:
    """Markdown, with a column for each further count."""
    details = {name: None for row in faults for name in row["details"]}
    rows = [
        {
            "kind": row["kind"],
            "what was done": row["what"],
            "tried": row["tried"],
            "survived": row["survived"],
            "lost at most": row["lost"],
            **details,
            **row["details"],
            "seed": row["seed"],
        }
        for row in faults
    ]
    return _narrow(Table("faults", "Faults", frame_of(rows)).markdown())


def _narrow(markdown: str) -> str:
    """The table without padding, so that a new row changes no other; what a row does not count is left empty."""
    lines = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in markdown.splitlines()]
    lines[1] = ["---:" if rule.endswith(":") else "---" for rule in lines[1]]
    return "".join(f"| {' | '.join('' if cell == NOTHING else cell for cell in line)} |\n" for line in lines)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or "faults" not in document:
        return []  # another kind of file: the mutants lie beside these
    if document["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"{path} has schema version {document['schema_version']}; this reads {SCHEMA_VERSION}.")
    return document["faults"]


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else REPORTS
    write_atomically(folder / TABLE, table(folder))
    print(os.path.relpath(folder / TABLE))
