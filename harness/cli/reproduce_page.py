"""reproduce.md: re-runs beside their records, a section each."""

from collections.abc import Mapping
from typing import Any

from harness.reporting.tables.table import Table, frame_of
from harness.runs.reproduce import comparison as tolerance

Document = Mapping[str, Any]
HEAD = "# Runs carried out again"
SECTION = "\n## "
PREFACE = (
    "Bit for bit on the same processor, threads, processes, packages and code. Elsewhere a logged loss may differ "
    f"by {tolerance.FIRST:.1%} up to step {tolerance.FIRST_STEPS}, by {tolerance.EARLY:.0%} up to step "
    f"{tolerance.EARLY_STEPS} and by {tolerance.LATE:.0%} after it, "
    f"a metric by {tolerance.METRIC:.0%}, a share by {tolerance.SHARE:g}, before training by "
    f"{tolerance.METRIC_UNTRAINED:.0%} and {tolerance.SHARE_UNTRAINED:g}, kernel distances near zero besides by "
    f"{' and '.join(f'{allowed:g} ({name})' for name, allowed in tolerance.NEAR_ZERO.items())}. Where no loss is "
    f"logged up to step {tolerance.FIRST_STEPS}, losses cannot tell a re-run from another seed; "
    "`harness/runs/reproduce/comparison.py` says why."
)


def added(text: str, document: Document, command: str) -> str:
    """The page `text`, empty at first, with this re-run's section in it, in place of an earlier one of its name."""
    part = "" if document["steps"] == document["of_steps"] else f", first {document['steps']:,} steps"
    name = f"{document['run']}{part}"
    kept = [section.strip() for section in text.split(SECTION)[1:] if section.split("\n", 1)[0] != name]
    sections = sorted([*kept, f"{name}\n\n{_section(document, command)}".strip()])
    return "".join([f"{HEAD}\n\n{PREFACE}\n", *(f"{SECTION}{section}\n" for section in sections)])


def _section(document: Document, command: str) -> str:
    parts = [f"`{command}`", f"**{document['verdict']}**, {document['comparison']}: {document['why']}."]
    if document["completed"]:
        named = ", ".join(f"{path} {value!r}" for path, value in document["completed"].items())
        parts.append(f"Settings newer than the record, as the recipe has them now: {named}.")
    rows = [
        {
            "compared": row["what"],
            "record": row["then"],
            "again": row["now"],
            "difference": share(row["difference"]),
            "allowed": row["allowed"],
            "reproduced": mark(row),
        }
        for row in document["rows"]
    ]
    parts.append(Table("rows", "Comparison", frame_of(rows)).markdown())
    if document["environment"]:
        found = [{"environment": d["what"], "record": d["then"], "again": d["now"]} for d in document["environment"]]
        parts.append(Table("environment", "Environment", frame_of(found)).markdown())
    else:
        parts.append("The environment is the same in everything that the manifest records.")
    return "\n\n".join(part.strip() for part in parts)


def mark(row: Mapping[str, Any]) -> str:
    """Yes, no, or nothing where the row decides nothing."""
    return {True: "yes", False: "NO", None: ""}[row["reproduced"]]


def share(difference: float | None) -> str:
    """A difference in few characters."""
    if difference is None:
        return ""
    return "0" if difference == 0 else f"{difference:.1e}"
