"""The command that checks runs against their own records: audit."""

from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.app.answer import show
from harness.cli.app.options import Json, Roots
from harness.system.errors import OutOfTolerance

SHOWN_RUNS = 3  # that are named beside one warning


def audit(
    runs: Roots = None,
    out: Annotated[Path | None, typer.Option(help="Also write audit.md and audit.json into this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Check runs against their own records.

    Files against hashes, settings against the recipe, evaluations, data, seeds, clock, log, and that nothing names a
    machine. What a folder does not hold is "not kept" and no failure. Exit code 6 when a check fails.

    Examples: harness audit · harness audit reports/demo reports/tiny --out reports/evidence · harness audit
    runs/sddit-tiny --json
    """
    from harness.checks.audit import audit as auditing

    roots = runs or [Path("runs")]
    document = auditing.audit(roots)
    if out is not None:
        _write(document, roots, out)
    show(document, as_json, _lines)
    if bad := auditing.failures(document):
        raise OutOfTolerance(
            f"{len(bad)} checks failed in {document['verdicts'][auditing.FAILED]} of {document['num_runs']} runs: "
            f"{bad[0]}"
            + (f", and {len(bad) - 1} more, listed above" if bad[1:] else "")
            + ". Restore those files, or make the runs again with `harness run --force`."
        )


def _write(document: dict[str, Any], roots: list[Path], out: Path) -> None:
    import json

    from harness.cli.audit_page import page
    from harness.records.schema import write_atomically

    out.mkdir(parents=True, exist_ok=True)
    command = " ".join(["harness audit", *(root.name if root.is_absolute() else str(root) for root in roots)])
    write_atomically(out / "audit.json", json.dumps(document, indent=1) + "\n")
    write_atomically(out / "audit.md", page(document, command))


def _lines(document: dict[str, Any]) -> list[str]:
    """How many runs pass each check, what failed or needs a warning, and the verdict."""
    from harness.checks.finding import FAILURE, WARNING
    from harness.cli.app.layout import columns, wrapped
    from harness.cli.audit_page import counts

    total = document["num_runs"]
    lines = [f"Checks of {total} run{'s' if total > 1 else ''}"]
    found = counts(document)
    rows = [
        [check, ", ".join(f"{count} {status}" for status, count in found[check].items()), what]
        for check, what in document["checks"].items()
    ]
    lines += columns(rows, indent="  ")
    for title, status in (("Failed", FAILURE), ("Warnings", WARNING)):
        by_text = _runs_by_text(document, status)
        lines += ["", title] if by_text else []
        for text, runs in by_text.items():
            shown = len(runs) if status == FAILURE else SHOWN_RUNS
            more = f" and {len(runs) - shown} more" if runs[shown:] else ""
            lines += wrapped(f"{text} [{', '.join(runs[:shown])}{more}]", "  ", "    ")
    lines += ["", "Runs"]
    if total == 1:
        lines += [f"  {document['runs'][0]['run']}: {document['runs'][0]['verdict']}"]
    else:
        lines += [f"  {count} {name}" for name, count in document["verdicts"].items() if count]
    return lines + columns([[f"{i['folder']}:", i["reason"]] for i in document["left_out"]], indent="  left out  ")


def _runs_by_text(document: dict[str, Any], status: str) -> dict[str, list[str]]:
    """The runs that each finding of this status applies to."""
    by_text: dict[str, list[str]] = {}
    for run in document["runs"]:
        for finding in run["findings"]:
            if finding["status"] == status:
                by_text.setdefault(f"{finding['name']}: {finding['found']}", []).append(run["run"])
    return by_text
