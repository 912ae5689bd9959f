"""audit.md: an audit as a page."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from harness.checks.audit.finding import NOT_KEPT, OK
from harness.report.tables.table import escape

Document = Mapping[str, Any]


def page(document: Document, command: str) -> str:
    """The audit as Markdown: verdicts, checks, requirements, what failed, and where runs differ from their recipes."""
    verdicts = ", ".join(f"{count} {name}" for name, count in document["verdicts"].items() if count)
    parts = [
        "# Audit",
        f"`{command}`: {document['num_runs']} runs, {verdicts}.",
        "What is not in a folder, like the weights of committed records, is not kept and not a failure.",
        "## Checks",
        _table(["check", "what", "ok", "remark", "not kept", "failed"], _checks(document)),
        "## Requirements of a reviewer",
        _table(
            ["", "asks for", "standing", "evidence"],
            [[r["id"], r["asks"], r["standing"], r["evidence"]] for r in document["requirements"]],
        ),
        "## Runs",
        _table(["run", "verdict", "said by the checks"], [_run(run) for run in document["runs"]]),
    ]
    if document["left_out"]:
        parts += [
            "Left out: " + "; ".join(f"{item['folder']}: {item['reason']}" for item in document["left_out"]) + "."
        ]
    return "\n\n".join(parts) + "\n"


def counts(document: Document) -> dict[str, Counter]:
    """How many runs have which status, by check."""
    return {
        check: Counter(f["status"] for run in document["runs"] for f in run["findings"] if f["check"] == check)
        for check in document["checks"]
    }


def _checks(document: Document) -> list[list[str]]:
    found = counts(document)
    return [
        [check, what, *(str(found[check][status] or "") for status in ("ok", "remark", "not kept", "failed"))]
        for check, what in document["checks"].items()
    ]


def _run(run: Document) -> list[str]:
    told = [f"{f['check']}: {f['says']}" for f in run["findings"] if f["status"] not in (OK, NOT_KEPT)]
    asked = [d["setting"].rpartition(".")[2] for d in run["differs_from_recipe"] if d["why"] == "asked for"]
    return [run["run"], run["verdict"], "; ".join([*told, *([f"asked for: {', '.join(asked)}"] if asked else [])])]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *([escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
