"""`harness published`: the numbers the papers print, each with its source, quality and protocol."""

import json
from typing import Annotated, Any, Literal

from harness.cli.app.answer import show
from harness.cli.app.application import App
from harness.cli.app.layout import columns
from harness.cli.app.options import Json, option
from harness.system.errors import UsageError
from harness.system.groups import grouped

published_app = App(help="Look up published numbers.")

INDENT = "  "
DIGITISED = "*"


@published_app.command("list")
def published_list(
    figure: Annotated[
        Literal["3", "4", "5", "6", "7"] | None, option("Of one figure of the SD-DiT paper: 3 to 7.", "N")
    ] = None,
    table: Annotated[Literal["1", "2", "3", "4"] | None, option("Of one table of it: 1 to 4.", "N")] = None,
    method: Annotated[str | None, option("Of one method: sddit, MaskDiT, REPA.", "NAME")] = None,
    missing: Annotated[bool, option("Only what no text prints, and why.", name="--missing")] = False,
    as_csv: Annotated[bool, option("Print every column as CSV instead of text.", name="--csv")] = False,
    as_json: Json = False,
) -> None:
    """List published numbers with the source, the quality and the protocol of each; missing ones with the reason.

    Examples: harness published list --figure 3 · harness published list --table 2 --method sddit · harness published
    list --missing · harness published list --csv > published.csv
    """
    from harness.papers import published
    from harness.papers.sddit import numbers

    if as_csv and as_json:
        raise UsageError("--csv and --json are two forms of one answer; give one of them.")
    if figure is not None and table is not None:
        raise UsageError("--figure and --table name two places; give one of them.")
    found = numbers.figure(figure) if figure else numbers.table(table) if table else published.rows()
    if method is not None:
        found = published.of_method(found, method)
    if missing:
        found = found[found["quality"] == "missing"]
    if as_csv:
        return print(found.to_csv(index=False), end="")
    show(
        {"published": json.loads(found.to_json(orient="records"))}, as_json, lambda answer: _lines(answer["published"])
    )


def _lines(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return ["Nothing published fits; leave out --method or --missing."]
    blocks = [_block(place, members) for place, members in grouped(rows, lambda row: row["figure_or_table"]).items()]
    absent = sum(row["quality"] == "missing" for row in rows)
    end = f"{len(rows)} rows, {absent} of them missing. --csv and --json print every column."
    return [line for block in blocks for line in [*block, ""]] + [end]


def _block(place: str, rows: list[dict[str, Any]]) -> list[str]:
    """One figure or table: its rows, then a note for each source and protocol that they share."""
    notes: dict[tuple[str, ...], int] = {}
    cells = []
    for row in rows:
        number = notes.setdefault(_note(row), len(notes) + 1)
        cells.append(
            [row["model"] or row["method"], _training(row), _case(row), row["metric"], _value(row), f"[{number}]"]
        )
    kept = [i for i in range(len(cells[0])) if any(line[i] for line in cells)]
    titles = ["model", "training", "case", "metric", "value", "note"]
    lines = [place, *columns([[line[i] for i in kept] for line in [titles, *cells]], indent=INDENT)]
    for (source, conditions), number in notes.items():
        lines += [f"{INDENT}[{number}] {source}", f"{INDENT}    {conditions}"]
    if any(row["quality"] == "digitised" for row in rows):
        lines += [f"{INDENT}{DIGITISED} digitised: measured from a drawing, not printed"]
    return lines


def _note(row: dict[str, Any]) -> tuple[str, str]:
    from harness.papers import published

    conditions = published.conditions(row)
    return (f"missing: {row['source']}", conditions) if row["quality"] == "missing" else (row["source"], conditions)


def _training(row: dict[str, Any]) -> str:
    """Steps x batch, as the paper's Table 2 has it; what is not known is left out."""
    steps, batch = row["training_steps_k"], row["batch_size"]
    length = f"{steps:g}k" if steps is not None else f"{row['x']} epochs" if row["x_unit"] == "epochs" else ""
    if batch is None:
        return length
    return f"{length} x {batch:g}" if length else f"batch {batch:g}"


def _case(row: dict[str, Any]) -> str:
    """The series where it says more than the method's name, and the place on the figure's axis."""
    series = "" if row["series"] in ("-", row["method"], row["model"]) else row["series"]
    if row["x_unit"] == "epochs" or (row["x_unit"] == "k_steps" and row["training_steps_k"] is not None):
        return series  # the column of the training says it
    unit = "" if row["x_unit"] == "k_steps" else row["x_unit"]
    return ", ".join(filter(None, [series, f"{unit} {row['x']}".strip()]))


def _value(row: dict[str, Any]) -> str:
    if row["quality"] == "missing":
        return "missing"
    return row["value_text"] + (DIGITISED if row["quality"] == "digitised" else "")
