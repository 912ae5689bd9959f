"""The command that carries a run out again and compares it with its record: reproduce."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from harness.cli.app.answer import show
from harness.cli.app.layout import columns
from harness.cli.app.options import Json, argument, count, option
from harness.cli.app.processes import Nproc, start_all, together
from harness.system.errors import OutOfTolerance

HEAD = "# Runs carried out again"
SECTION = "\n## "
MARKS = {True: "yes", False: "NO", None: ""}  # what a row says of whether it is reproduced; None decides nothing


def reproduce(
    run: Annotated[Path, argument("A run folder, with or without its weights.", "RUN")],
    out: Annotated[Path, option("Where the re-run goes, as RECIPE/RUN; repeating continues it.", "DIR")] = Path(
        "reproduced"
    ),
    steps: Annotated[
        int | None, option("Stop after the first N steps, and compare their losses alone.", "N", parser=count)
    ] = None,
    force: Annotated[bool, option("Start the re-run over.", name="--force")] = False,
    page: Annotated[Path | None, option("Also add the result to this Markdown file.", "FILE")] = None,
    nproc: Nproc = None,
    as_json: Json = False,
) -> None:
    """Carry a run out again from its records and compare: configuration, losses, weights, images, metrics.

    Bit for bit on the same processor, threads, packages and code, else within a stated tolerance; it says which, and
    what differs. Exit code 6 when it is not reproduced, or when losses cannot tell it from another seed.

    Examples: harness reproduce runs/dit-tiny/seed0-9ac3130fa4 · harness reproduce
    reports/demo/runs/sddit-tiny/seed0-6b41865f93 --steps 100
    """
    start_all(nproc)

    from harness.runs.reproduce import reproduce as reproducing

    with together(f"again {run.name}") as (world, progress):
        document = reproducing.reproduce(run, out, steps=steps, force=force, progress=progress, world=world)
    if document is None:  # the main process has it
        return
    if page is not None:
        from harness.records.schema import write_atomically

        page.parent.mkdir(parents=True, exist_ok=True)
        text = page.read_text(encoding="utf-8") if page.exists() else ""
        command = f"harness reproduce {document['run']}" + (f" --steps {steps}" if steps else "")
        write_atomically(page, added(text, document, command))
    show(document, as_json, _lines)
    if document["reproduced"] is None:
        raise OutOfTolerance(
            f"{document['run']}: {document['verdict']}. The record logs no line early enough; compare it on the "
            "machine it was made on, bit for bit, or make a record with --set log_every=20."
        )
    if not document["reproduced"]:
        failed = [row["what"] for row in document["rows"] if row["reproduced"] is False]
        raise OutOfTolerance(
            f"{document['run']} is not reproduced {document['comparison']}: {', '.join(failed)} "
            f"differ{'s' if len(failed) == 1 else ''} by more than allowed. What differs in the environment is listed "
            "above; --force starts the re-run over."
        )


def _lines(document: dict[str, Any]) -> Iterator[str]:
    """What was compared and how, what differs in the environment, and the verdict."""
    part = "" if document["steps"] == document["of_steps"] else f" of {document['of_steps']:,}"
    yield f"{document['run']} again, {document['steps']:,}{part} steps"
    yield f"  compared {document['comparison']}: {document['why']}"
    if document["completed"]:
        yield f"  settings newer than the record: {', '.join(document['completed'])}"
    rows = [
        [row["what"], row["then"], row["now"], _share(row["difference"]), MARKS[row["reproduced"]], row["allowed"]]
        for row in document["rows"]
    ]
    yield from ["", *columns([["", "record", "again", "differs", "ok", "allowed"], *rows], indent="  ")]
    found = [[item["what"], item["then"], item["now"]] for item in document["environment"]]
    table = columns([["", "record", "again"], *found], indent="  ") if found else ["  the same"]
    yield from ["", "Environment", *table, "", document["verdict"]]


def added(text: str, document: dict[str, Any], command: str) -> str:
    """The page `text`, empty at first, with this re-run's section in it, in place of an earlier one of its name."""
    part = "" if document["steps"] == document["of_steps"] else f", first {document['steps']:,} steps"
    name = f"{document['run']}{part}"
    kept = [section.strip() for section in text.split(SECTION)[1:] if section.split("\n", 1)[0] != name]
    sections = sorted([*kept, f"{name}\n\n{_section(document, command)}".strip()])
    return "".join([f"{HEAD}\n\n{_preface()}\n", *(f"{SECTION}{section}\n" for section in sections)])


def _preface() -> str:
    from harness.runs.reproduce import comparison as allowed

    near_zero = " and ".join(f"{most:g} ({name})" for name, most in allowed.NEAR_ZERO.items())
    return (
        "Bit for bit on the same processor, threads, processes, packages and code. Elsewhere a logged loss may differ "
        f"by {allowed.FIRST:.1%} up to step {allowed.FIRST_STEPS}, by {allowed.EARLY:.0%} up to step "
        f"{allowed.EARLY_STEPS} and by {allowed.LATE:.0%} after it, "
        f"a metric by {allowed.METRIC:.0%}, a share by {allowed.SHARE:g}, before training by "
        f"{allowed.METRIC_UNTRAINED:.0%} and {allowed.SHARE_UNTRAINED:g}, kernel distances near zero besides by "
        f"{near_zero}. Where no loss is logged up to step {allowed.FIRST_STEPS}, losses cannot tell a re-run from "
        "another seed; `harness/runs/reproduce/comparison.py` says why."
    )


def _section(document: dict[str, Any], command: str) -> str:
    from harness.reporting.tables.table import Table, frame_of

    parts = [f"`{command}`", f"**{document['verdict']}**, {document['comparison']}: {document['why']}."]
    if document["completed"]:
        named = ", ".join(f"{path} {value!r}" for path, value in document["completed"].items())
        parts.append(f"Settings newer than the record, as the recipe has them now: {named}.")
    rows = [
        {
            "compared": row["what"],
            "record": row["then"],
            "again": row["now"],
            "difference": _share(row["difference"]),
            "allowed": row["allowed"],
            "reproduced": MARKS[row["reproduced"]],
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


def _share(difference: float | None) -> str:
    """A difference in few characters."""
    return "" if difference is None else "0" if difference == 0 else f"{difference:.1e}"
