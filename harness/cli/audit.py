"""Commands that check what is there against what it says: audit, reproduce."""

from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.app.answer import Json, Roots, answers, count, show
from harness.cli.app.processes import Nproc, start_all, together
from harness.system.errors import OutOfTolerance


def add_to(app: typer.Typer) -> None:
    """Put these commands into the command line, in the order a user meets them."""
    app.command(
        epilog="Examples: harness audit · harness audit reports/demo reports/tiny --out reports/evidence · "
        "harness audit runs/sddit-tiny --json"
    )(audit)
    app.command(
        epilog="Examples: harness reproduce runs/dit-tiny/seed0-9ac3130fa4 · "
        "harness reproduce reports/demo/runs/sddit-tiny/seed0-6b41865f93 --steps 100"
    )(reproduce)


@answers
def audit(
    runs: Roots = None,
    out: Annotated[Path | None, typer.Option(help="Also write audit.md and audit.json into this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Check runs against their own records, and say which requirements of a reproducibility reviewer hold.

    Files against hashes, settings against the recipe, evaluations, data, seeds, clock, log, and that nothing names a
    machine. What a folder does not hold is "not kept" and no failure. Exit code 6 when a check fails.
    """
    from harness.checks.audit import audit as auditing

    roots = runs or [Path("runs")]
    document = auditing.audit(roots)
    if out is not None:
        _write(document, roots, out)
    show(document, as_json, _audit_lines)
    if bad := auditing.failures(document):
        raise OutOfTolerance(
            f"{len(bad)} checks failed in {document['verdicts'][auditing.BAD]} of {document['num_runs']} runs: {bad[0]}"
            + (f", and {len(bad) - 1} more, listed above" if bad[1:] else "")
            + ". Restore those files, or make the runs again with `harness run --force`."
        )


def _write(document: dict[str, Any], roots: list[Path], out: Path) -> None:
    import json

    from harness.checks.audit.page import page
    from harness.records.schema import write_atomically

    out.mkdir(parents=True, exist_ok=True)
    said = " ".join(["harness audit", *(root.name if root.is_absolute() else str(root) for root in roots)])
    write_atomically(out / "audit.json", json.dumps(document, indent=1) + "\n")
    write_atomically(out / "audit.md", page(document, said))


def _audit_lines(document: dict[str, Any]) -> list[str]:
    from harness.cli.audit_text import of_the_audit

    return of_the_audit(document)


@answers
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
    """
    start_all(nproc)

    from harness.runs.reproduce import reproduce as reproducing

    with together(f"again {run.name}") as (world, progress):
        document = reproducing.reproduce(run, out, steps=steps, force=force, progress=progress, world=world)
    if document is None:  # the main process has it
        return
    if page is not None:
        _add(document, page, steps)
    show(document, as_json, _reproduction_lines)
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
    from harness.records.schema import write_atomically
    from harness.runs.reproduce.page import added

    page.parent.mkdir(parents=True, exist_ok=True)
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    command = f"harness reproduce {document['run']}" + (f" --steps {steps}" if steps else "")
    write_atomically(page, added(text, document, command))


def _reproduction_lines(document: dict[str, Any]) -> list[str]:
    from harness.cli.audit_text import of_the_reproduction

    return of_the_reproduction(document)
