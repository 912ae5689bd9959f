"""Commands that read finished runs: compare, report, and the demo that makes its own."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Annotated, Any

from harness.cli.app import completion, defaults
from harness.cli.app.answer import show
from harness.cli.app.options import LATEST, RUNS, Assignments, Json, Roots, RunsOut, count, listed, option
from harness.cli.app.state import state
from harness.system.errors import HarnessError, OutOfTolerance, UsageError

DEMO = ("dit-tiny", "maskdit-tiny", "mdt-tiny", "sddit-tiny")


class RunFailed(HarnessError):
    """A run of the demo ended with an error of its own, which it has already printed."""

    def __init__(self, recipe: str, exit_code: int):
        super().__init__(f"the demo stopped at {recipe}. The same command continues from there.")
        self.exit_code = exit_code


def compare(
    runs: Roots = None,
    figure: Annotated[
        str,
        option(
            "3, 4, 5, 6 or 7 of the paper; losses, memory, cost or held-out; or all.",
            "NAME",
            complete=completion.among(*completion.FIGURES),
        ),
    ] = "all",
    out: Annotated[Path, option("Where the figures go.", "DIR")] = LATEST,
    as_json: Json = False,
) -> None:
    """Draw the paper's figures with the published points beside the measured ones: PNG, SVG and the CSV behind each.

    Examples: harness compare · harness compare --figure 3 --out figures · harness compare runs/ reports/demo/runs
    --figure losses
    """
    import harness

    show(harness.compare(runs or RUNS, figure, out=out), as_json, _files)


def report(
    runs: Roots = None,
    out: Annotated[Path, option("Where report, figures and tables go.", "DIR")] = LATEST,
    format: Annotated[
        str, option("md, html, or both: md,html.", "LIST", complete=completion.listed_among("md", "html"))
    ] = "md,html",
    records: Annotated[
        bool, option("Also copy the runs' small records there, so that anyone can redraw it.", name="--records")
    ] = False,
    check: Annotated[
        bool, option("End with 6 where a number or verdict lies outside its tolerance.", name="--check")
    ] = False,
    against: Annotated[
        Path | None, option("With --check: an earlier report's verdicts to agree with.", "CLAIMS.json")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write which of the paper's claims hold, its figures and tables beside what was measured: Markdown and a page.

    Examples: harness report · harness report runs/ --out reports/mine --records · harness report --check --against
    reports/tiny/claims.json
    """
    if against is not None and not check:
        raise UsageError("--against says what to check against: add --check.")
    import harness
    from harness.reporting.report import earlier_claims, outside_tolerance

    earlier = earlier_claims(against) if against is not None else []  # a wrong file is refused before the work
    written = harness.report(runs or RUNS, out=out, formats=listed(format), records=records)
    failed = outside_tolerance(written, earlier) if check else []
    document = {"files": [str(file) for file in written.files], "verdicts": written.tally, "outside_tolerance": failed}
    said = [f"{', '.join(f'{count} {verdict}' for verdict, count in written.tally.items())}."]
    said += ["check passed."] if check and not failed else []
    show(document, as_json, lambda answer: [*_files(answer), "", *said])
    if failed:
        raise OutOfTolerance(f"{len(failed)} outside tolerance: {' '.join(failed)}")


def demo(
    out: Annotated[Path, option("Where the figures, the report and the records go.", "DIR")] = Path("reports/demo"),
    runs: RunsOut = RUNS,
    steps: Annotated[int | None, option("Fewer steps than the recipes'.", "N", parser=count)] = None,
    set_: Assignments = None,
    as_json: Json = False,
) -> None:
    """Train the four tiny recipes on real digits, evaluate them, and draw and tabulate them. A few minutes on a CPU.

    Examples: harness demo · harness demo --steps 200 --out reports/quick --runs runs/quick
    """
    import harness
    from harness.reporting.archive import copy_records

    arguments = ["--out", str(runs), *(part for assignment in set_ or [] for part in ("--set", assignment))]
    arguments += ["--steps", str(steps)] if steps is not None else []
    arguments += ["--quiet"] if state.quiet else []
    with defaults.told_everything():
        for recipe in DEMO:
            result = _run(recipe, arguments)
            shutil.rmtree(out / "runs" / recipe, ignore_errors=True)  # an earlier demo had other settings
            copy_records(runs / recipe / result["run_id"], out / "runs")
    written = harness.report(out / "runs", out=out)
    show({"files": [str(file) for file in written.files]}, as_json, _files)


def _run(recipe: str, arguments: list[str]) -> dict[str, Any]:
    """A run in a process of its own, so that its peak memory is its own. Raises RunFailed if it does not end well."""
    from harness.system.processes.children import exit_code, started

    with started(["run", recipe, "--json", *arguments], stdout=subprocess.PIPE, text=True) as process:
        answer, _ = process.communicate()
    if process.returncode:
        raise RunFailed(recipe, exit_code(process.returncode))
    return json.loads(answer)


def _files(document: dict[str, Any]) -> list[Path]:
    return [Path(file) for file in document["files"]]
