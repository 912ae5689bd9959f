"""Plain aligned text that fits the terminal, or 80 columns: how commands print on a terminal and off it."""

import os
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, TextIO

GAP = "  "
WIDEST_LINE = 120
LEAST = 4  # characters that a column keeps, however narrow the terminal


def width(stream: TextIO | None = None) -> int:
    """Columns of the terminal that stdout, or another stream, is; 80 where none says, and at most 120."""
    chosen = os.environ.get("COLUMNS", "")
    if chosen.isdecimal() and int(chosen):
        return min(int(chosen), WIDEST_LINE)
    try:
        return min(os.get_terminal_size((stream or sys.stdout).fileno()).columns or 80, WIDEST_LINE)
    except (OSError, ValueError):  # no terminal, or a stream that is closed or no file
        return 80


def columns(rows: Sequence[Sequence[str]], *, indent: str = "") -> list[str]:
    """Rows as aligned text. Where they do not fit, the widest columns are wrapped, between words if possible."""
    return [line for lines in columns_by_row(rows, indent=indent) for line in lines]


def columns_by_row(rows: Sequence[Sequence[str]], *, indent: str = "") -> list[list[str]]:
    """As `columns`, with the lines of each row apart, for headings between them."""
    if not rows:
        return []
    rows = [[shown(cell) for cell in row] for row in rows]
    widths = _widths(list(zip(*rows, strict=True)), width() - len(indent))
    made = []
    for row in rows:
        cells = [_wrapped_cell(cell, room) for cell, room in zip(row, widths, strict=True)]
        lines = [
            GAP.join(part.ljust(room) for part, room in zip(parts, widths, strict=True))
            for parts in zip_longest(*cells, fillvalue="")
        ]
        made.append([f"{indent}{line}".rstrip() for line in lines])
    return made


def _widths(columns: Sequence[Sequence[str]], line: int) -> list[int]:
    """The width of each column, so that all fit into a line: first no narrower than its longest word, then narrower."""
    widths = [max(map(len, column)) for column in columns]
    words = [max(len(word) for cell in column for word in [*cell.split(), ""]) for column in columns]
    room = line - len(GAP) * (len(widths) - 1)
    for least in (words, [LEAST] * len(words)):
        while sum(widths) > room and (wide := [i for i, width in enumerate(widths) if width > least[i]]):
            widths[max(wide, key=widths.__getitem__)] -= 1
    return widths


def facts(document: Mapping[str, Any]) -> list[str]:
    """A line for each value of a flat document, under its name: whole numbers in groups of three digits."""
    forms = {float: "{:.5g}", int: "{:,}"}
    rows = [[key.replace("_", " "), forms.get(type(value), "{}").format(value)] for key, value in document.items()]
    return columns(rows)


def short_count(steps: int) -> str:
    """400k for 400,000."""
    return f"{steps // 1000}k" if steps and steps % 1000 == 0 else str(steps)


def fitted(lines: Iterable[str | Path], stream: TextIO | None = None) -> list[str]:
    """The lines, those that are too wide in several, which are indented by two more.

    A Path stays in one line and a long word stays whole, so that they can be copied.
    """
    made, room = [], width(stream)
    for line in lines:
        text = shown(str(line))
        if isinstance(line, Path) or len(text) <= room:
            made.append(text)
        else:
            rest = " " * (len(text) - len(text.lstrip()) + 2)
            made += textwrap.wrap(text, room, subsequent_indent=rest, break_on_hyphens=False, break_long_words=False)
    return made


def shown(text: str) -> str:
    """The text without what would move the cursor or change colours: a name on the disk may hold anything."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _wrapped_cell(cell: str, room: int) -> list[str]:
    indented = len(cell) - len(cell.lstrip(" "))
    lines = textwrap.wrap(cell.strip(), max(room - indented, 1), break_on_hyphens=False) or [""]
    return [" " * indented + line for line in lines]
