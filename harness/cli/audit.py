"""The command that checks runs against their own records: audit."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

from harness.cli.app.answer import show
from harness.cli.app.layout import columns
from harness.cli.app.options import RUNS, Json, Roots, option
from harness.system.errors import OutOfTolerance, some_of

SHOWN_RUNS = 3  # a warning names this many runs


def audit(
    runs: Roots = None,
    out: Annotated[Path | None, option("Also write audit.md and audit.json into this folder.", "DIR")] = None,
    as_json: Json = False,
) -> None:
    """Check runs against their own records.

    Files against hashes, settings against the recipe, evaluations, data, seeds, clock, log, and that nothing names a
    machine. What a folder does not hold is "not kept" and no failure. Exit code 6 when a check fails.

    Examples: harness audit · harness audit reports/demo reports/tiny --out reports/evidence · harness audit
    runs/sddit-tiny --json
    """
    from harness.checks.audit import audit as auditing
    from harness.records.schema import write_atomically

    roots = runs or [RUNS]
    document = auditing.audit(roots)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        command = " ".join(["harness audit", *(root.name if root.is_absolute() else str(root) for root in roots)])
        write_atomically(out / "audit.json", json.dumps(document, indent=1) + "\n")
        write_atomically(out / "audit.md", page(document, command))
    show(document, as_json, _lines)
    if bad := auditing.failures(document):
        raise OutOfTolerance(
            f"{len(bad)} checks failed in {document['verdicts'][auditing.FAILED]} of {document['num_runs']} runs: "
            f"{bad[0]}"
            + (f", and {len(bad) - 1} more, listed above" if bad[1:] else "")
            + ". Restore those files, or make the runs again with `harness run --force`."
        )


def _lines(document: dict[str, Any]) -> Iterator[str]:
    """How many runs pass each check, what failed or needs a warning, and the verdict."""
    from harness.checks.finding import FAILURE, WARNING

    total, found = document["num_runs"], _counts(document)
    yield f"Checks of {total} run{'s' if total > 1 else ''}"
    yield from columns(
        [
            [check, ", ".join(f"{count} {status}" for status, count in found[check].items()), what]
            for check, what in document["checks"].items()
        ],
        indent="  ",
    )
    for title, status in (("Failed", FAILURE), ("Warnings", WARNING)):
        by_text: dict[str, list[str]] = {}
        for run in document["runs"]:
            for finding in run["findings"]:
                if finding["status"] == status:
                    by_text.setdefault(f"{finding['name']}: {finding['found']}", []).append(run["run"])
        yield from ["", title] if by_text else []
        for text, runs in by_text.items():
            shown = len(runs) if status == FAILURE else SHOWN_RUNS
            yield f"  {text} [{some_of(runs, shown)}]"
    yield from ["", "Runs"]
    if total == 1:
        yield f"  {document['runs'][0]['run']}: {document['runs'][0]['verdict']}"
    else:
        yield from (f"  {count} {name}" for name, count in document["verdicts"].items() if count)
    yield from columns([[f"{i['folder']}:", i["reason"]] for i in document["left_out"]], indent="  left out  ")


def _counts(document: dict[str, Any]) -> dict[str, Counter]:
    """How many runs have which status, by check."""
    return {
        check: Counter(f["status"] for run in document["runs"] for f in run["findings"] if f["name"] == check)
        for check in document["checks"]
    }


def page(document: dict[str, Any], command: str) -> str:
    """audit.md: the verdicts, the checks, what they found, and where runs differ from their recipes."""
    from harness.checks.finding import NOT_KEPT, OK, Status
    from harness.reporting.tables.table import Table, escape, frame_of

    def findings(run: dict[str, Any]) -> str:
        found = [f"{f['name']}: {f['found']}" for f in run["findings"] if f["status"] not in (OK, NOT_KEPT)]
        asked = [d["setting"].rpartition(".")[2] for d in run["differs_from_recipe"] if d["why"] == "asked for"]
        return "; ".join([*found, *([f"asked for: {', '.join(asked)}"] if asked else [])])

    found = _counts(document)
    checks = [
        {"check": check, "what": what} | {status: found[check][status] or None for status in get_args(Status)}
        for check, what in document["checks"].items()
    ]
    runs = [{"run": run["run"], "verdict": run["verdict"], "findings": findings(run)} for run in document["runs"]]
    verdicts = ", ".join(f"{count} {name}" for name, count in document["verdicts"].items() if count)
    left_out = "; ".join(f"{item['folder']}: {item['reason']}" for item in document["left_out"])
    parts = [
        "# Audit",
        f"`{command}`: {document['num_runs']} runs, {verdicts}.",
        "What is not in a folder, like the weights of committed records, is not kept and not a failure.",
        "## Checks",
        Table("checks", "Checks", frame_of(checks)).markdown().strip(),
        "## Runs",
        Table("runs", "Runs", frame_of(runs)).markdown().strip(),
        *([escape(f"Left out: {left_out}.")] if left_out else []),
    ]
    return "\n\n".join(parts) + "\n"
