"""A document as one Markdown file. Figures are named by the files beside it: <name>.png, .svg and .csv."""

import re
from collections.abc import Iterable, Iterator
from html import escape as escape_html
from urllib.parse import quote

from harness.claims.verdicts import INCONCLUSIVE, NOT_REPRODUCED, NOT_TESTED, REPRODUCED, Judgement
from harness.report.pages.document import (
    LONG_TABLE,
    MOST_RUNS,
    Block,
    Bullets,
    Code,
    Details,
    Document,
    FigureBlock,
    Inline,
    Link,
    Paragraph,
    Strong,
    TableBlock,
    Text,
    Verdicts,
    kept_spaces,
    plain,
    spans,
    with_code,
)
from harness.report.tables.table import Column, Table, escape
from harness.system.errors import one_line

SIGNS = {REPRODUCED: "✓", NOT_REPRODUCED: "✗", INCONCLUSIVE: "≈", NOT_TESTED: "–"}
NUMBERED = re.compile(r"^(\d+)([.)])(?=\s|$)")  # would make a paragraph a list


def render(document: Document) -> str:
    """The document's text; the same document gives the same text."""
    parts = [f"# {escape(document.title)}", *([_text(document.lead)] if plain(document.lead) else [])]
    for section in document.sections:
        parts += [f"## {escape(section.title)}", *_blocks(section.blocks)]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _blocks(blocks: Iterable[Block]) -> Iterator[str]:
    for block in blocks:
        match block:
            case Paragraph():
                yield _text(block.text)
            case Bullets():
                yield _bullets(_text(item) for item in block.items)
            case TableBlock():
                yield from _table(block)
            case FigureBlock():
                yield from _figure(block)
            case Verdicts():
                yield from _verdicts(block)
            case Details():
                yield from _details(block.summary, _blocks(block.blocks))


def _table(block: TableBlock) -> Iterator[str]:
    table = block.table
    if block.anchor:
        yield f"### {escape(table.title)}"
    if table.caption:
        yield _text(table.caption)
    if len(table.rows) > LONG_TABLE:
        yield from _details(f"Show all {len(table.rows):,} rows", [table.markdown()])
    else:
        yield table.markdown()


def _figure(block: FigureBlock) -> Iterator[str]:
    drawing = block.drawing
    if block.anchor:
        yield f"### {escape(block.title)}"
    png, svg, csv = (f"{quote(drawing.name)}.{kind}" for kind in ("png", "svg", "csv"))
    yield f"![{escape(drawing.alternative)}]({png})"
    yield f"As [SVG]({svg}); the numbers behind it as [CSV]({csv})."
    if drawing.notes:
        yield _bullets(_text(with_code(note)) for note in drawing.notes)


def _details(summary: str, parts: Iterable[str]) -> Iterator[str]:
    """What GitHub folds. The empty lines between its parts make them Markdown again."""
    yield f"<details><summary>{escape_html(one_line(summary))}</summary>"
    yield from parts
    yield "</details>"


# Verdicts --------------------------------------------------------------------------------------------------------


def _verdicts(block: Verdicts) -> Iterator[str]:
    if not block.judgements:
        yield "No claim was judged."
        return
    yield " · ".join(f"{number:,} {SIGNS[verdict]} {verdict}" for verdict, number in block.tally.items())
    columns = (
        Column("Verdict"), Column("Claim"), Column("Place"), Column("Paper"),
        Column("Setting"), Column("Effect"), Column("n", "number"),
    )  # fmt: skip
    rows = tuple(_row(judgement) for judgement in block.judgements)
    yield Table("verdicts", "", columns, rows).markdown()
    notes = [_noted(judgement) for claim in block.claims for judgement in claim if _more(judgement)]
    if notes:
        yield from _details("What each verdict rests on", [_bullets(notes)])


def _row(judgement: Judgement) -> dict[str, str | int | None]:
    scale = f"{judgement.scale}: " if judgement.scale else ""
    return {
        "Verdict": f"{SIGNS[judgement.verdict]} {judgement.verdict}",
        "Claim": judgement.statement,
        "Place": judgement.place,
        "Paper": judgement.published or None,
        "Setting": f"{scale}{judgement.setting}" or None,
        "Effect": judgement.effect or None,
        "n": judgement.n if judgement.decisive and not judgement.decisive.exact else None,
    }


def _noted(judgement: Judgement) -> str:
    where = f" ({escape(judgement.setting)})" if judgement.setting else ""
    return f"{_text(judgement.statement)}{where} {' '.join(_more(judgement))}"


def _more(judgement: Judgement) -> list[str]:
    """What a verdict rests on, as escaped sentences."""
    told = []
    if judgement.missing:
        told.append(f"Not measured: {escape('; '.join(judgement.missing))}.")
    if judgement.differences:
        told.append(f"Other than in the paper: {escape('; '.join(judgement.differences))}.")
    told += [escape(note) for note in judgement.notes]
    if judgement.seeds:
        told.append(f"Seeds {', '.join(map(str, judgement.seeds))}.")
    if judgement.runs:
        rest = len(judgement.runs) - MOST_RUNS
        names = [_code(name) for name in judgement.runs[:MOST_RUNS]] + ([f"and {rest:,} more"] if rest > 0 else [])
        told.append(f"Runs: {', '.join(names)}.")
    if judgement.to_test:
        told.append(f"To test it: {_code(judgement.to_test)}.")
    return told


# Text ------------------------------------------------------------------------------------------------------------


def _bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _text(text: Text) -> str:
    line = "".join(_span(part) for part in spans(text)).strip()
    return NUMBERED.sub(r"\1\\\2", line)


def _span(part: Inline) -> str:
    """A part of a line, with the spaces around its words outside of any mark, where they do not spoil it."""
    kept = kept_spaces(part if isinstance(part, str) else part.text)
    inner = kept.strip()
    if not inner:
        return kept
    if isinstance(part, str):
        written = escape(inner)
        if kept.endswith("!"):  # which would make an image of a link behind it
            written = written[:-1] + r"\!"
    elif isinstance(part, Code):
        written = _code(inner)
    elif isinstance(part, Link):
        written = f"[{escape(inner)}](#{quote(part.to)})"
    else:
        mark = "**" if isinstance(part, Strong) else "*"
        written = f"{mark}{escape(inner)}{mark}"
    return kept.replace(inner, written, 1)


def _code(text: str) -> str:
    """A code span with a fence longer than any in the text."""
    text = one_line(text)
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"
