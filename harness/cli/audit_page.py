"""audit.md: an audit as a page."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, get_args

from harness.checks.finding import NOT_KEPT, OK, Status
from harness.reporting.tables.table import Table, escape, frame_of

Document = Mapping[str, Any]


def page(document: Document, command: str) -> str:
    """The audit as Markdown: the verdicts, the checks, what they found, and where runs differ from their recipes."""
    verdicts = ", ".join(f"{count} {name}" for name, count in document["verdicts"].items() if count)
    found = counts(document)
    checks = [
        {"check": check, "what": what} | {status: found[check][status] or None for status in get_args(Status)}
        for check, what in document["checks"].items()
    ]
    runs = [{"run": run["run"], "verdict": run["verdict"], "findings": _findings(run)} for run in document["runs"]]
    parts = [
        "# Audit",
        f"`{command}`: {document['num_runs']} runs, {verdicts}.",
        "What is not in a folder, like the weights of committed records, is not kept and not a failure.",
        "## Checks",
        Table("checks", "Checks", frame_of(checks)).markdown().strip(),
        "## Runs",
        Table("runs", "Runs", frame_of(runs)).markdown().strip(),
    ]
    if document["left_out"]:
        left_out = [f"{item['folder']}: {item['reason']}" for item in document["left_out"]]
        parts.append(escape(f"Left out: {'; '.join(left_out)}."))
    return "\n\n".join(parts) + "\n"


def counts(document: Document) -> dict[str, Counter]:
    """How many runs have which status, by check."""
    return {
        check: Counter(f["status"] for run in document["runs"] for f in run["findings"] if f["name"] == check)
        for check in document["checks"]
    }


def _findings(run: Document) -> str:
    found = [f"{f['name']}: {f['found']}" for f in run["findings"] if f["status"] not in (OK, NOT_KEPT)]
    asked = [d["setting"].rpartition(".")[2] for d in run["differs_from_recipe"] if d["why"] == "asked for"]
    return "; ".join([*found, *([f"asked for: {', '.join(asked)}"] if asked else [])])
