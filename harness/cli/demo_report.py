"""The whole story in a few minutes: train, sample and evaluate the tiny recipes, then draw and tabulate them.

Each run is a process of its own, so that its peak memory is its own and an interruption is one any user could make.
"""

import json
import shutil
import subprocess
from pathlib import Path

from harness.reporting import report
from harness.reporting.archive import copy_records
from harness.system.errors import HarnessError
from harness.system.processes.children import exit_code, started

RECIPES = ("dit-tiny", "maskdit-tiny", "mdt-tiny", "sddit-tiny")


class RunFailed(HarnessError):
    """A run of the demo ended with an error of its own, which it has already printed."""

    def __init__(self, recipe: str, exit_code: int):
        super().__init__(f"the demo stopped at {recipe}. The same command continues from there.")
        self.exit_code = exit_code


def run(out: Path, runs: Path, arguments: list[str]) -> list[Path]:
    """Run the four tiny recipes, `arguments` added to each `harness run`; leave figures, report and records in `out`.

    Returns the files written. Raises RunFailed, with the run's own exit code, when one does not end well.
    """
    archive = out / "runs"
    for recipe in RECIPES:
        result = _run_one(recipe, ["--out", str(runs), *arguments])
        shutil.rmtree(archive / recipe, ignore_errors=True)  # of an earlier demo with other settings
        copy_records(runs / recipe / result["run_id"], archive)
    return list(report.write([archive], out).files)


def _run_one(recipe: str, arguments: list[str]) -> dict:
    with started(["run", recipe, "--json", *arguments], stdout=subprocess.PIPE, text=True) as process:
        answer, _ = process.communicate()
    if process.returncode:
        raise RunFailed(recipe, exit_code(process.returncode))
    return json.loads(answer)
