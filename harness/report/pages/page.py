"""A document as one HTML page that needs nothing else: no network, no other file, and no script to be read.

Its policy lets a browser run the one script and apply the one style sheet below, named by their hashes, and load
nothing. The same document gives the same bytes.
"""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from io import StringIO
from itertools import count
from pathlib import Path

from harness.report.drawing.sheet import style
from harness.report.pages.document import (
    LONG_TABLE,
    Block,
    Bullets,
    Code,
    Details,
    Document,
    Emphasis,
    FigureBlock,
    Inline,
    Link,
    Paragraph,
    Section,
    Strong,
    TableBlock,
    Text,
    Verdicts,
    headings_within,
    kept_spaces,
    plain,
    spans,
    with_code,
)
from harness.report.pages.hypertext import Markup, element, joined
from harness.report.pages.inline_svg import inline
from harness.report.pages.verdict_cards import SPRITE, cards
from harness.report.tables.table import EMPTY, Column, Row, Table
from harness.system.errors import DataError

CONTENTS = "page.contents"  # no heading's anchor has a full stop
MOST_IN_CONTENTS = 12  # tables and figures of a section; of more, or of one, only the section is in the contents
FEW_COLUMNS = 3  # which fit a phone when all their lines break
LONG_TEXT, LONGEST_TEXT = 28, 90  # letters; columns with longer cells break their lines, at two widths


def render(document: Document) -> str:
    """The page. Raises DataError where a figure's picture cannot be read."""
    css, script = _asset("page.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(css)}'; script-src '{_hash(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        Markup('<meta name="color-scheme" content="light dark">'),
        element("title", plain(document.title)),
        Markup(f"<style>{css}</style>"),
    )
    body = element(
        "body",
        element("a", "Skip to the content", class_="skip", href="#page.content"),
        SPRITE,
        element(
            "div",
            element("header", element("h1", document.title), *_lead(document.lead), class_="top"),
            _contents(document),
            element("main", *_sections(document), id="page.content"),
            element("footer", element("p", "This page holds all that it shows and loads nothing.")),
            class_="page",
        ),
        Markup(f"<script>{script}</script>"),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _asset(name: str) -> str:
    return (files("harness.report.pages") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


# Frame -----------------------------------------------------------------------------------------------------------


def _lead(lead: Text) -> Iterator[Markup]:
    if plain(lead):
        yield element("p", *_inline(lead), class_="lead")


def _contents(document: Document) -> Markup:
    return element(
        "nav",
        element("h2", "Contents", id=CONTENTS),
        element("ol", *(_entry(section) for section in document.sections)),
        aria_labelledby=CONTENTS,
    )


def _entry(section: Section) -> Markup:
    within = list(headings_within(section.blocks))
    shown = within if 1 < len(within) <= MOST_IN_CONTENTS else []
    below = element("ol", *(element("li", _to(block.anchor, block.title)) for block in shown)) if shown else ""
    return element("li", _to(section.anchor, section.title), below)


def _to(anchor: str, *children: str, class_: str | None = None) -> Markup:
    return element("a", *children, href=f"#{anchor}", class_=class_)


def _sections(document: Document) -> Iterator[Markup]:
    numbers = count()  # each figure's own, so that names within the pictures differ
    for section in document.sections:
        yield element(
            "section",
            element("h2", section.title, id=section.anchor),
            *_blocks(section.blocks, numbers),
            element("p", _to(CONTENTS, "Back to the contents"), class_="back"),
            aria_labelledby=section.anchor,
        )


# Blocks ----------------------------------------------------------------------------------------------------------


def _blocks(blocks: Iterable[Block], numbers: Iterator[int]) -> Iterator[Markup]:
    for block in blocks:
        match block:
            case Paragraph():
                yield element("p", *_inline(block.text))
            case Bullets():
                yield element("ul", *(element("li", *_inline(item)) for item in block.items))
            case TableBlock():
                yield _titled_table(block)
            case FigureBlock():
                yield _figure(block, next(numbers))
            case Verdicts():
                yield cards(block)
            case Details():
                yield details(block.summary, *_blocks(block.blocks, numbers))


def _inline(text: Text) -> Iterator[Markup]:
    for part in spans(text):
        yield _span(part)


def _span(part: Inline) -> Markup:
    if isinstance(part, str):
        return joined(kept_spaces(part))
    if isinstance(part, Link):
        return _to(part.to, part.text)
    kinds: dict[type, str] = {Code: "code", Strong: "strong", Emphasis: "em"}
    return element(kinds[type(part)], part.text)


def details(summary: str, *children: str, class_: str | None = None) -> Markup:
    return element("details", element("summary", summary), *children, class_=class_)


def _figure(block: FigureBlock, number: int) -> Markup:
    drawing = block.drawing
    picture = inline(_picture(block), name=f"f{number}", alternative=f"{drawing.title}. {drawing.alternative}")
    notes = (
        [element("ul", *(element("li", *_inline(with_code(note))) for note in drawing.notes))] if drawing.notes else []
    )
    numbers = block.numbers
    if numbers.rows:
        notes += [element("p", block.numbers_caption)] if block.numbers_caption else []
        notes.append(_table(numbers, label=f"The numbers behind {drawing.title}"))
    told = details("Notes and numbers of this figure, as text", *notes) if notes else ""
    return joined(
        # The picture begins with its title, so a second one is for those who navigate by headings.
        element("h3", block.title, id=block.anchor, class_="unseen") if block.anchor else "",
        element("figure", element("div", picture, class_="sheet"), element("figcaption", told) if told else ""),
    )


def _picture(block: FigureBlock) -> str:
    """The figure's SVG: as it was given, from its file, or drawn now."""
    if isinstance(block.svg, Path):
        try:
            return block.svg.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read the figure {block.svg}: {error}. Draw it again.") from None
    if block.svg is not None:
        return block.svg
    drawn = StringIO()
    with style():
        block.drawing.figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    return drawn.getvalue()


# Tables ----------------------------------------------------------------------------------------------------------


def _titled_table(block: TableBlock) -> Markup:
    table = block.table
    heading = element("h3", table.title, id=block.anchor) if block.anchor else ""
    caption = element("p", table.caption, class_="caption") if table.caption else ""
    shown = _table(table, label=table.title)
    if len(table.rows) > LONG_TABLE:
        shown = details(f"Show all {len(table.rows):,} rows", shown, class_="long")
    return joined(heading, caption, shown)


def _table(table: Table, *, label: str) -> Markup:
    """A table in a box of its own that scrolls; without a script it is a plain one."""
    if not table.rows:
        return element("p", EMPTY)
    columns = table.shown
    texts = [[table.text(row, column) for column in columns] for row in table.rows]
    classes = [_class(column, [row[i] for row in texts]) for i, column in enumerate(columns)]
    head = (
        element("th", column.name, scope="col", class_=class_) for column, class_ in zip(columns, classes, strict=True)
    )
    body = (element("tr", *_cells(table, row, words, classes)) for row, words in zip(table.rows, texts, strict=True))
    few = "few" if len(columns) <= FEW_COLUMNS else None
    grid = element("table", element("thead", element("tr", *head)), element("tbody", *body), class_=few)
    return element("div", grid, class_="scroll", role="region", aria_label=label, tabindex="0")


def _cells(table: Table, row: Row, words: Sequence[str], classes: Sequence[str | None]) -> Iterator[Markup]:
    for i, (column, text, class_) in enumerate(zip(table.shown, words, classes, strict=True)):
        value = table.sort_value(row, column)
        number = repr(value) if isinstance(value, float) else None
        if value is None:
            class_ = f"{class_} none" if class_ else "none"
        if i == 0 and column.kind == "text":
            yield element("th", text, scope="row", class_=class_)
        else:
            yield element("td", text, class_=class_, data_sort=number)


def _class(column: Column, words: Sequence[str]) -> str | None:
    """n: a column of numbers; l and x: of texts that break their lines; None: of short ones."""
    if column.kind == "number":
        return "n"
    longest = max(map(len, words))
    return "x" if longest > LONGEST_TEXT else "l" if longest > LONG_TEXT else None
