"""What `harness audit` and `harness reproduce` print where JSON was not asked for."""

from collections.abc import Mapping
from typing import Any

from harness.checks.audit.finding import FAILED, NOT_KEPT, OK, REMARK
from harness.checks.audit.page import counts
from harness.cli.app.layout import columns, wrapped
from harness.runs.reproduce.page import mark, share

Document = Mapping[str, Any]
SHOWN_RUNS = 3  # that are named for one remark


def of_the_audit(document: Document) -> list[str]:
    """Checks with how many runs pass, what failed or needs a remark, requirements, and the verdict."""
    total = document["num_runs"]
    lines = [f"Checks of {total} run{'s' if total > 1 else ''}"]
    found = counts(document)
    rows = []
    for check, what in document["checks"].items():
        told = [f"{found[check][status]} {status}" for status in (OK, REMARK, NOT_KEPT, FAILED) if found[check][status]]
        rows.append([check, ", ".join(told), what])
    lines += columns(rows, indent="  ")
    for title, status in (("Failed", FAILED), ("Remarks", REMARK)):
        said = _by_text(document, status)
        if said:
            lines += ["", title]
        for text, runs in said.items():
            more = f" and {len(runs) - SHOWN_RUNS} more" if len(runs) > SHOWN_RUNS else ""
            named = ", ".join(runs if status == FAILED else runs[:SHOWN_RUNS]) + ("" if status == FAILED else more)
            lines += wrapped(f"{text} [{named}]", "  ", "    ")
    lines += ["", "Requirements of a reviewer"]
    for item in document["requirements"]:
        lines += wrapped(f"{item['id']:<4}{item['standing']}: {item['asks']}", "  ", "      ")
        lines += wrapped(item["evidence"], "      ", "      ")
    lines += ["", "Runs"]
    if total == 1:
        lines += [f"  {document['runs'][0]['run']}: {document['runs'][0]['verdict']}"]
    else:
        lines += [f"  {count} {name}" for name, count in document["verdicts"].items() if count]
    lines += columns([[f"{i['folder']}:", i["reason"]] for i in document["left_out"]], indent="  left out  ")
    return lines


def _by_text(document: Document, status: str) -> dict[str, list[str]]:
    """The runs that one thing is said of."""
    said: dict[str, list[str]] = {}
    for run in document["runs"]:
        for finding in run["findings"]:
            if finding["status"] == status:
                said.setdefault(f"{finding['check']}: {finding['says']}", []).append(run["run"])
    return said


def of_the_reproduction(document: Document) -> list[str]:
    """What was compared and how, what differs in the environment, and the verdict."""
    part = "" if document["steps"] == document["of_steps"] else f" of {document['of_steps']:,}"
    lines = [f"{document['run']} again, {document['steps']:,}{part} steps"]
    lines += wrapped(f"compared {document['comparison']}: {document['why']}", "  ", "    ")
    if document["completed"]:
        lines += wrapped(f"settings newer than the record: {', '.join(document['completed'])}", "  ", "    ")
    rows = [["", "record", "again", "differs", "ok", "allowed"]]
    rows += [
        [row["what"], row["then"], row["now"], share(row["difference"]), mark(row), row["allowed"]]
        for row in document["rows"]
    ]
    lines += ["", *columns(rows, widest=26, indent="  "), "", "Environment"]
    found = [[item["what"], item["then"], item["now"]] for item in document["environment"]]
    lines += columns([["", "record", "again"], *found], widest=26, indent="  ") if found else ["  the same"]
    return [*lines, "", *wrapped(document["verdict"], "", "  ")]
