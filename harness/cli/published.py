"""`harness published`: the numbers the papers print, each with its source, quality and protocol."""

import json
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from harness.cli.app.answer import show
from harness.cli.app.application import App
from harness.cli.app.layout import columns, width
from harness.cli.app.options import Json, count, option
from harness.system.errors import UsageError
from harness.system.groups import grouped

if TYPE_CHECKING:
    from harness.papers.atlas import Atlas, Number

published_app = App(help="Look up published numbers.")

INDENT = "  "
DIGITISED = SECOND_HAND = "*"


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


@published_app.command("atlas")
def published_atlas(
    method: Annotated[str, option("The method: sit, DiT, REPA.", "NAME")],
    size: Annotated[Literal["s", "b", "l", "xl"], option("The network's size: s, b, l or xl.", "SIZE")],
    patch: Annotated[int, option("Its patch.", "N")] = 2,
    resolution: Annotated[Literal["256", "512"], option("Pixels of a side: 256 or 512.", "N")] = "256",
    steps: Annotated[int | None, option("Of trainings of so many steps: 400k.", "N", parser=count)] = None,
    metric: Annotated[str, option("FID-50K, FID-10K, sFID, IS, Precision or Recall.", "NAME")] = "FID-50K",
    out: Annotated[Path | None, option("Also write picture, CSV and Markdown there.", "DIR")] = None,
    as_json: Json = False,
) -> None:
    """Show every published number of one recipe, by whom and how sampled, and how far they lie apart.

    Examples: harness published atlas --method sit --size b · harness published atlas --method dit --size xl --out
    reports/latest/atlas
    """
    from harness.papers.atlas import atlas

    found = atlas(method, size, patch=patch, pixels=int(resolution), steps=steps, metric=metric)
    files = []
    if out is not None:
        from harness.reporting.tables.atlas import write

        files = [str(path) for path in write(found, out)]
    show({"atlas": asdict(found), "files": files}, as_json, lambda answer: [*_atlas_lines(found), *answer["files"]])


@published_app.command("gaps")
def published_gaps(
    paper: Annotated[str, option("The paper's folder in harness/papers.", "NAME")] = "sddit",
    out: Annotated[Path | None, option("Also write CSV and Markdown there.", "DIR")] = None,
    as_json: Json = False,
) -> None:
    """Show the gap between each two FIDs that a paper compares, beside how far one recipe's trainings lie apart.

    Examples: harness published gaps · harness published gaps --out reports/latest/atlas
    """
    from harness.papers.gaps import gaps
    from harness.reporting.tables.atlas import gaps as table_of
    from harness.reporting.tables.atlas import summary, write_gaps

    found = gaps(paper)
    files = [str(path) for path in write_gaps(found, out)] if out is not None else []
    table = table_of(found).shown
    lines = [*columns([list(table), *table.to_numpy().tolist()]), "", *textwrap.wrap(summary(found), width())]
    show({"gaps": asdict(found), "files": files}, as_json, lambda answer: [*lines, *answer["files"]])


def _atlas_lines(atlas: "Atlas") -> list[str]:
    """The trainings, in each the protocols with their spread, in each the numbers."""
    from harness.reporting.figures.atlas import spread_text, status

    lines = [f"{atlas.metric} of {atlas.title}"]
    for training in atlas.trainings:
        lines += ["", training.title]
        for group in training.groups:
            lines += textwrap.wrap(
                f"{group.titled}: {spread_text(group.spread)}",
                width(),
                initial_indent=INDENT,
                subsequent_indent=2 * INDENT,
            )
            rows = [[_text(n), n.by, status(n) if n.quote else "", n.reference, n.sources[0]] for n in group.numbers]
            rows.insert(0, ["", "by", "", "reference", "source"])
            lines += columns(rows, indent=2 * INDENT)
        if len(training.groups) > 1:
            lines.append(f"{INDENT}over all protocols: {spread_text(training.spread)}")
    if atlas.left_out:
        lines += ["", f"{atlas.left_out} numbers of changed settings are left out; harness published list has them."]
    if any(number.quality == "second hand" for training in atlas.trainings for number in training.numbers):
        lines.append(f"{SECOND_HAND} second hand: known from notes about the paper, not seen in it")
    return lines


def _text(number: "Number") -> str:
    return f"{number.text}{SECOND_HAND if number.quality == 'second hand' else ''}"


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
