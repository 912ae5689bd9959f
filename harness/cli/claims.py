"""`harness claims`: what the papers claim, and whether a claims.yaml is without faults."""

from pathlib import Path
from typing import Annotated, Any

from harness.cli.app.answer import show
from harness.cli.app.application import App
from harness.cli.app.layout import columns
from harness.cli.app.options import Json, argument, option

claims_app = App(help="Look up the papers' claims, and check a claims.yaml.")

Paper = Annotated[str | None, option("Of one paper, like sddit. Default: all.", "NAME")]


@claims_app.command("list")
def claims_list(paper: Paper = None, as_json: Json = False) -> None:
    """List the claims, each with its place in the paper.

    Examples: harness claims list · harness claims list --paper sddit
    """
    from harness.papers import claims

    found = [
        {"paper": name, "id": claim.id, "place": claim.place}
        for name in ([paper] if paper else claims.names())
        for claim in claims.claims_of(name)
    ]
    show({"claims": found}, as_json, lambda answer: _lines(answer["claims"]))


def _lines(found: list[dict[str, Any]]) -> list[str]:
    return [*columns([(each["paper"], each["id"], each["place"]) for each in found]), f"{len(found)} claims."]


@claims_app.command("show")
def claims_show(
    claim: Annotated[str, argument("A claim's id, as `harness claims list` has it.", "CLAIM")], as_json: Json = False
) -> None:
    """Show what a claim says, its published numbers, and the command whose runs test it.

    Examples: harness claims show fid-order · harness claims show parameters --json
    """
    from harness.papers import claims

    paper, entry = claims.entry(claim)
    said = entry.claim
    document = {
        "claim": said.id,
        "paper": claims.about(paper).cited,
        "place": said.place,
        "statement": said.statement,
        "published": said.published,
        "yardstick": entry.said.yardstick,
        "to test": said.to_test or "no runs of this harness can test it",
        "note": said.note,
        "true by construction": said.by_construction,
    }
    told = {name: text for name, text in document.items() if text}
    show(told, as_json, lambda answer: [f"{name}: {text}" for name, text in answer.items()])


@claims_app.command("check")
def claims_check(
    files: Annotated[
        list[Path] | None, argument("claims.yaml and paper.yaml files. Default: those of all papers.", "FILES")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check claims.yaml and paper.yaml files; every fault is told by file, line and column, and ends with exit code 4.

    Examples: harness claims check · harness claims check my/claims.yaml
    """
    from harness.papers import claims
    from harness.recipes.located import Faulty
    from harness.system.errors import DataError

    for file in files or ():
        if not file.is_file():
            raise DataError(f"{file} is no file. Name a claims.yaml or a paper.yaml.")
    faults, counts = claims.check(files or claims.files())
    if faults:
        raise Faulty(faults)
    show(
        {"claims": counts},
        as_json,
        lambda answer: [*(f"{file}: {n} claims" for file, n in answer["claims"].items()), "No fault."],
    )
