"""Deliberate faults in the mathematics, and whether the tests notice: `make mutants`.

Each mutant changes one formula in a copy of the tree, and the tests named beside it are run there. A mutant that they
pass has survived: a property that nobody tests. `python tests/mutants.py [PART OF A NAME]... [--out FILE.json]`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import yaml

from harness.reporting.tables.table import Table, frame_of

ROOT = Path(__file__).parent.parent
COPIED = ("harness", "baselines", "tests")


class Mutant(NamedTuple):
    name: str  # what is wrong with it
    file: str
    old: str  # once in the file
    new: str
    tests: tuple[str, ...]


def _listed() -> list[Mutant]:
    groups = yaml.safe_load((Path(__file__).parent / "mutants.yaml").read_text(encoding="utf-8"))
    return [
        Mutant(fault["name"], group["file"], fault["old"], fault["new"], tuple(group["tests"]))
        for group in groups
        for fault in group["faults"]
    ]


MUTANTS = _listed()


class Outcome(NamedTuple):
    mutant: str
    file: str
    caught_by: str | None  # the first test that failed; None: it survived
    seconds: float


def run(chosen: list[Mutant], tell=print) -> list[Outcome]:
    """Try each mutant in a copy of the tree. Raises RuntimeError where the tests fail without any fault."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place)
        for name in COPIED:
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        tests = sorted({test for mutant in chosen for test in mutant.tests})
        status, told = _tested(copy, tests)
        if status != 0:
            raise RuntimeError(f"the tests fail without a fault in the code; correct that first.\n{told}")
        outcomes = []
        for number, mutant in enumerate(chosen, 1):
            path, started = copy / mutant.file, time.perf_counter()
            source = path.read_text()
            path.write_text(mutated(mutant, source))
            status, told = _tested(copy, mutant.tests)
            path.write_text(source)
            if status not in (0, 1):
                raise RuntimeError(f"{mutant.name}: pytest ended with {status}.\n{told}")
            failed = [line for line in told.splitlines() if line.startswith(("FAILED ", "ERROR "))]
            caught_by = failed[0].split(" ")[1].removeprefix("tests/") if failed else None
            outcomes.append(Outcome(mutant.name, mutant.file, caught_by, round(time.perf_counter() - started, 1)))
            tell(f"{number}/{len(chosen)} {mutant.name}: {'caught by ' + caught_by if caught_by else 'SURVIVED'}")
        return outcomes


def mutated(mutant: Mutant, source: str) -> str:
    """The file with the fault. Raises ValueError where what it changes is not there once."""
    if source.count(mutant.old) != 1:
        raise ValueError(
            f"{mutant.name}: {mutant.old!r} is {source.count(mutant.old)} times in {mutant.file}, and must be there "
            "once. The code has changed: write the mutant anew."
        )
    return source.replace(mutant.old, mutant.new)


def _tested(copy: Path, tests) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout[-3000:] + done.stderr[-1000:]


def markdown(outcomes: list[Outcome]) -> str:
    """The outcomes as a table."""
    caught = sum(outcome.caught_by is not None for outcome in outcomes)
    rows = [
        {"fault": o.mutant, "file": o.file, "first test that fails": o.caught_by or "none: it survived"}
        for o in outcomes
    ]
    counted = f"{caught} of {len(outcomes)} caught by the tests. Made by `make mutants`."
    table = Table("mutants", "Deliberate faults", frame_of(rows)).markdown()
    return f"# Deliberate faults in the mathematics\n\n{counted}\n\n{table}"


def main() -> int:
    """Run the mutants whose names contain any of the arguments; 0 when all were caught."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    chosen = [m for m in MUTANTS if not asked.parts or any(part in m.name for part in asked.parts)]
    outcomes = run(chosen, lambda line: print(line, flush=True))
    if asked.out:
        asked.out.write_text(json.dumps([outcome._asdict() for outcome in outcomes], indent=1) + "\n")
        asked.out.with_suffix(".md").write_text(markdown(outcomes))
    survived = [outcome.mutant for outcome in outcomes if outcome.caught_by is None]
    print(f"{len(outcomes) - len(survived)} of {len(outcomes)} caught; survived: {', '.join(survived) or 'none'}")
    return 1 if survived or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
