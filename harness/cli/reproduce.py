"""The command that carries a run out again and compares it with its record: reproduce."""

from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.app.answer import show
from harness.cli.app.options import Json, count
from harness.cli.app.processes import Nproc, start_all, together
from harness.system.errors import OutOfTolerance


def reproduce(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, with or without its weights.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the re-run goes, as <recipe>/<run-id>; repeating continues it.")
    ] = Path("reproduced"),
    steps: Annotated[
        int | None,
        typer.Option(parser=count, metavar="N", help="Stop after the first N steps, and compare their losses alone."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Start the re-run over.")] = False,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also add the result to this Markdown file.")
    ] = None,
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
        _add(document, page, steps)
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


def _add(document: dict[str, Any], page: Path, steps: int | None) -> None:
    from harness.cli.reproduce_page import added
    from harness.records.schema import write_atomically

    page.parent.mkdir(parents=True, exist_ok=True)
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    command = f"harness reproduce {document['run']}" + (f" --steps {steps}" if steps else "")
    write_atomically(page, added(text, document, command))


def _lines(document: dict[str, Any]) -> list[str]:
    """What was compared and how, what differs in the environment, and the verdict."""
    from harness.cli.app.layout import columns, wrapped
    from harness.cli.reproduce_page import mark, share

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
    lines += ["", *columns(rows, indent="  "), "", "Environment"]
    found = [[item["what"], item["then"], item["now"]] for item in document["environment"]]
    lines += columns([["", "record", "again"], *found], indent="  ") if found else ["  the same"]
    return [*lines, "", *wrapped(document["verdict"], "", "  ")]
