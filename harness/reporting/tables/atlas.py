"""The atlas of published numbers as tables: the numbers, the spread of each protocol, a paper's gaps."""

from pathlib import Path

from harness.papers.atlas import Atlas, Number, Spread
from harness.papers.gaps import Gaps
from harness.records.schema import write_atomically
from harness.reporting.drawing.sheet import save
from harness.reporting.figures import atlas as figure
from harness.reporting.tables.table import Row, Table, count, escape, frame_of, writing

ALL_PROTOCOLS = "all protocols"
PERCENT = {"Lowest": "g", "Highest": "g", "Relative spread, %": ".1f"}
GAP_FORMATS = {"Gap, %": ".1f", "Of the known spread": ".2f"}
SPREADS = "n: those who trained, each once. Relative spread: the highest over the lowest, less 1."


def numbers(atlas: Atlas) -> Table:
    """Every number with its protocol, and which of them are quotes."""
    rows: list[Row] = [
        {
            "Training": training.title,
            "Protocol": number.protocol,
            "NFE": number.evaluations,
            atlas.metric: number.text,
            "Printed by": number.by,
            "Known as": _known_as(number),
            "Reference": number.reference,
            "Source": "; ".join(number.sources),
        }
        for training in atlas.trainings
        for number in training.numbers
    ]
    return Table(atlas.name, f"{atlas.metric} of {atlas.title}, as published", frame_of(rows))


def spreads(atlas: Atlas) -> Table:
    """How far the counted numbers of each protocol lie apart, and those of a training over all of its protocols."""
    rows: list[Row] = []
    for training in atlas.trainings:
        rows += [_spread(training.title, group.protocol, group.spread) for group in training.groups]
        if len(training.groups) > 1:
            rows.append(_spread(training.title, ALL_PROTOCOLS, training.spread))
    return Table(f"{atlas.name}-spread", f"Spread of {atlas.metric}", frame_of(rows), SPREADS, PERCENT)


def gaps(found: Gaps) -> Table:
    """The gaps between the numbers that a paper compares, the smallest first, beside the known spread."""
    rows: list[Row] = [
        {
            "Place": gap.place,
            "The paper says": f"{gap.first} {gap.says} {'than' if gap.says == 'lower' else 'to'} {gap.second}",
            "Values": f"{gap.values[0]:g} / {gap.values[1]:g}",
            "Gap, %": 100 * gap.relative,
            "Of the known spread": gap.relative / found.known_relative,
            "Below it": gap.relative < found.known_relative,
        }
        for gap in found.gaps
    ]
    title = "Gaps between compared numbers, beside the known spread of one recipe"
    return Table("gaps", title, frame_of(rows), summary(found), GAP_FORMATS)


def summary(found: Gaps) -> str:
    """What the gaps come to, in three sentences."""
    below, lower = found.below("lower"), found.of("lower")
    alike, comparable = found.below("comparable"), found.of("comparable")
    return (
        f"Known spread of one recipe: {found.known_relative:.1%} ({figure.spread_text(found.known)}; {found.recipe}). "
        f"Of {len(lower)} pairs of which the paper calls one lower, {len(below)} have a gap below it. "
        f"Of {len(comparable)} that it calls comparable, {len(alike)} have."
    )


def write(atlas: Atlas, out: Path) -> list[Path]:
    """Write an atlas into `out` as picture, CSV and Markdown, and return the paths."""
    paths = save(figure.make(atlas), out)
    with writing(out):
        paths.append(out / f"{atlas.name}.md")
        write_atomically(paths[-1], markdown(atlas))
    return paths


def markdown(atlas: Atlas) -> str:
    """The spreads, then the numbers."""
    table, spread = numbers(atlas), spreads(atlas)
    left_out = f"Left out: {count(atlas.left_out, 'number')} of changed settings." if atlas.left_out else ""
    parts = [f"# {escape(table.title)}", escape(spread.caption), spread.markdown(), escape(left_out), table.markdown()]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def write_gaps(found: Gaps, out: Path) -> list[Path]:
    """Write a paper's gaps into `out` as CSV and Markdown, and return the paths."""
    table = gaps(found)
    forms = {"md": f"# {escape(table.title)}\n\n{escape(table.caption)}\n\n{table.markdown()}", "csv": table.csv()}
    paths = [out / f"{table.name}.{kind}" for kind in forms]
    with writing(out):
        for path, text in zip(paths, forms.values(), strict=True):
            write_atomically(path, text)
    return paths


def _known_as(number: Number) -> str:
    second = f" ({figure.SECOND_HAND})" if number.quality == figure.SECOND_HAND else ""
    return f"{figure.status(number)}{second}"


def _spread(training: str, protocol: str, spread: Spread) -> Row:
    percent = None if spread.relative is None else 100 * spread.relative
    ends = {"n": spread.trainings, "Lowest": spread.low, "Highest": spread.high}
    return {"Training": training, "Protocol": protocol, **ends, "Relative spread, %": percent}
