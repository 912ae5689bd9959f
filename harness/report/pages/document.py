"""A report as data: sections of paragraphs, lists, tables, figures and verdicts. page.py and markdown.py write it out.

Text is never parsed. A string is shown letter for letter, whatever stands in it; what is code, strong, emphasised or a
link says so with its type: ("Run ", Code("harness sweep"), " first, see ", Link("the deviations", "deviations"), ".").
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.claims.verdicts import VERDICTS, Judgement, Verdict
from harness.report.drawing.sheet import Drawing
from harness.report.tables.table import Table
from harness.system.errors import one_line

LONG_TABLE = 30  # rows; a longer table is shown on demand
MOST_NUMBERS = 400  # rows of a figure's numbers in the page; its CSV has all
MOST_RUNS = 40  # named below one verdict


@dataclass(frozen=True)
class Code:
    """A name or command, in letters of one width."""

    text: str


@dataclass(frozen=True)
class Strong:
    text: str


@dataclass(frozen=True)
class Emphasis:
    text: str


@dataclass(frozen=True)
class Link:
    """To a heading of the same document, by its anchor: anchor_of(title)."""

    text: str
    to: str


Inline = str | Code | Strong | Emphasis | Link
Text = Inline | tuple[Inline, ...]


@dataclass(frozen=True)
class Paragraph:
    text: Text


@dataclass(frozen=True)
class Bullets:
    items: Sequence[Text]


@dataclass(frozen=True)
class TableBlock:
    """A table under its title, which is left out where it repeats the section's."""

    table: Table
    anchor: str = field(default="", compare=False)  # set by the document; empty: it has no heading of its own

    @property
    def title(self) -> str:
        return self.table.title


@dataclass(frozen=True)
class FigureBlock:
    """A drawing; `svg` is its picture as text or as a file. None: it is drawn for the page."""

    drawing: Drawing
    svg: str | Path | None = None
    anchor: str = field(default="", compare=False)

    @property
    def title(self) -> str:
        return self.drawing.title

    @property
    def numbers(self) -> Table:
        """The first rows of what it draws, as a table; its caption says how many there are."""
        rows = self.drawing.rows
        columns = tuple(dict.fromkeys(name for row in rows for name in row))
        name = re.sub(r"[^\w-]", "-", self.drawing.name) or "figure"
        return Table(name, "", columns, rows[:MOST_NUMBERS], self.numbers_caption)

    @property
    def numbers_caption(self) -> str:
        count = len(self.drawing.rows)
        if count <= MOST_NUMBERS:
            return ""
        return f"The first {MOST_NUMBERS:,} of {count:,} rows; all of them are in {self.drawing.name}.csv."


@dataclass(frozen=True)
class Verdicts:
    """What was found about each claim. A claim that was judged in several settings is told once, with all of them."""

    judgements: Sequence[Judgement]

    @property
    def claims(self) -> list[list[Judgement]]:
        """The judgements by claim, in the order in which the claims first appear."""
        groups: dict[str, list[Judgement]] = {}
        for judgement in self.judgements:
            groups.setdefault(judgement.claim, []).append(judgement)
        return list(groups.values())

    @property
    def tally(self) -> dict[Verdict, int]:
        """How many judgements came to each verdict, those that none came to included."""
        counts = Counter(judgement.verdict for judgement in self.judgements)
        return {verdict: counts[verdict] for verdict in VERDICTS}


@dataclass(frozen=True)
class Details:
    """A part that is shown on demand."""

    summary: str
    blocks: Sequence["Block"]


Block = Paragraph | Bullets | TableBlock | FigureBlock | Verdicts | Details


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]
    anchor: str = field(default="", compare=False)  # set by the document


@dataclass(frozen=True)
class Document:
    """Gives every heading its anchor, unique in the document and the same in both forms.

    Raises ValueError for a link to an anchor that no heading has.
    """

    title: str
    sections: Sequence[Section]
    lead: Text = ""  # one or two sentences under the title

    def __post_init__(self) -> None:
        anchors = _Anchors()
        anchors.next(self.title)
        object.__setattr__(self, "sections", tuple(_anchored(section, anchors) for section in self.sections))
        known = {heading.anchor for heading in headings(self)}
        lost = sorted({link.to for link in _links(self)} - known)
        if lost:
            raise ValueError(f"links lead to {', '.join(lost)}, but the headings are {', '.join(sorted(known))}")


Heading = Section | TableBlock | FigureBlock


def headings(document: Document) -> Iterator[Heading]:
    """Everything with an anchor, in the order of the document."""
    for section in document.sections:
        yield section
        yield from headings_within(section.blocks)


def headings_within(blocks: Iterable[Block]) -> Iterator[TableBlock | FigureBlock]:
    """Tables and figures with an anchor, those shown on demand included."""
    for block in blocks:
        if isinstance(block, Details):
            yield from headings_within(block.blocks)
        elif isinstance(block, TableBlock | FigureBlock) and block.anchor:
            yield block


def anchor_of(title: str) -> str:
    """The anchor of the first heading with this title, made as code hosts make it: "Fig. 3" is fig-3."""
    return re.sub(r"[^\w\- ]", "", one_line(title).lower()).replace(" ", "-") or "section"


def with_code(text: str) -> Text:
    """A note as a figure prints it: a command of ours between `...` is code, and whatever else stands there is not."""
    parts = re.split(r"`(harness [\w ./,=-]+)`", text)
    return tuple(Code(part) if i % 2 else part for i, part in enumerate(parts) if part)


def spans(text: Text) -> tuple[Inline, ...]:
    return text if isinstance(text, tuple) else (text,)


def plain(text: Text) -> str:
    """The text without its types, on one line."""
    return one_line("".join(part if isinstance(part, str) else part.text for part in spans(text)))


def kept_spaces(text: str) -> str:
    """`text` on one line, with a space at either end where it has any: a part of a longer text."""
    line = one_line(text)
    if not line:
        return " " if text else ""
    return f"{' ' if text[0].isspace() else ''}{line}{' ' if text[-1].isspace() else ''}"


class _Anchors:
    """Hands out anchors; one that is taken gets a number behind it."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def next(self, title: str) -> str:
        wanted, number = anchor_of(title), 0
        anchor = wanted
        while anchor in self._taken:
            number += 1
            anchor = f"{wanted}-{number}"
        self._taken.add(anchor)
        return anchor


def _anchored(section: Section, anchors: _Anchors) -> Section:
    anchor = anchors.next(section.title)
    return replace(section, anchor=anchor, blocks=_anchored_blocks(section.blocks, section.title, anchors))


def _anchored_blocks(blocks: Iterable[Block], above: str, anchors: _Anchors) -> tuple[Block, ...]:
    made: list[Block] = []
    for block in blocks:
        if isinstance(block, Details):
            made.append(replace(block, blocks=_anchored_blocks(block.blocks, above, anchors)))
        elif isinstance(block, TableBlock | FigureBlock):
            repeated = not block.title.strip() or block.title == above
            made.append(replace(block, anchor="" if repeated else anchors.next(block.title)))
        else:
            made.append(block)
    return tuple(made)


def _links(document: Document) -> Iterator[Link]:
    yield from _links_of(document.lead)
    for section in document.sections:
        yield from _links_within(section.blocks)


def _links_within(blocks: Iterable[Block]) -> Iterator[Link]:
    for block in blocks:
        if isinstance(block, Paragraph):
            yield from _links_of(block.text)
        elif isinstance(block, Bullets):
            for item in block.items:
                yield from _links_of(item)
        elif isinstance(block, Details):
            yield from _links_within(block.blocks)


def _links_of(text: Text) -> Iterator[Link]:
    return (part for part in spans(text) if isinstance(part, Link))
