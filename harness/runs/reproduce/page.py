"""reproduce.md: re-runs beside their records, a section each."""

from collections.abc import Mapping
from typing import Any

from harness.report.tables.table import escape
from harness.runs.reproduce import tolerance

Document = Mapping[str, Any]
HEAD = "# Runs carried out again"
SECTION = "\n## "


def added(text: str, document: Document, command: str) -> str:
    """The page `text`, empty at first, with this re-run's section in it, in place of an earlier one of its name."""
    name = _name(document)
    kept = [part for part in text.split(SECTION)[1:] if part.split("\n", 1)[0] != name]
    sections = sorted([*(part.strip() for part in kept), f"{name}\n\n{_section(document, command)}".strip()])
    return "".join([f"{HEAD}\n\n{_preface()}\n", *(f"{SECTION}{section}\n" for section in sections)])


def _name(document: Document) -> str:
    part = "" if document["steps"] == document["of_steps"] else f", first {document['steps']:,} steps"
    return f"{document['run']}{part}"


def _preface() -> str:
    return (
        "Bit for bit on the same processor, threads, processes, packages and code. Elsewhere a logged loss may differ "
        f"by {tolerance.FIRST:.1%} up to step {tolerance.FIRST_STEPS}, by {tolerance.EARLY:.0%} up to step "
        f"{tolerance.EARLY_STEPS} and by {tolerance.LATE:.0%} after it, "
        f"a metric by {tolerance.METRIC:.0%}, a share by {tolerance.SHARE:g}, before training by "
        f"{tolerance.METRIC_UNTRAINED:.0%} and {tolerance.SHARE_UNTRAINED:g}, kernel distances near zero besides by "
        f"{' and '.join(f'{allowed:g} ({name})' for name, allowed in tolerance.NEAR_ZERO.items())}. Where no loss is "
        f"logged up to step {tolerance.FIRST_STEPS}, losses cannot tell a re-run from another seed; "
        "`harness/runs/reproduce/tolerance.py` says why."
    )


def _section(document: Document, command: str) -> str:
    parts = [f"`{command}`", f"**{document['verdict']}**, {document['comparison']}: {document['why']}."]
    if document["completed"]:
        named = ", ".join(f"{path} {value!r}" for path, value in document["completed"].items())
        parts.append(f"Settings newer than the record, as the recipe has them now: {named}.")
    rows = [[r["what"], r["then"], r["now"], share(r["difference"]), r["allowed"], mark(r)] for r in document["rows"]]
    parts.append(_table(["", "record", "again", "difference", "allowed", ""], rows))
    if document["environment"]:
        found = [[d["what"], d["then"], d["now"]] for d in document["environment"]]
        parts.append(_table(["environment", "record", "again"], found))
    else:
        parts.append("The environment is the same in everything that the manifest records.")
    return "\n\n".join(parts)


def mark(row: Mapping[str, Any]) -> str:
    """Yes, no, or nothing where the row decides nothing."""
    return {True: "yes", False: "NO", None: ""}[row["reproduced"]]


def share(difference: float | None) -> str:
    """A difference in few characters."""
    if difference is None:
        return ""
    return "0" if difference == 0 else f"{difference:.1e}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *([escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
