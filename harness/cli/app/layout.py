"""Plain aligned text that fits the terminal, or 80 columns: how commands print tables off and on a terminal."""

import shutil
import textwrap
from collections.abc import Sequence
from itertools import zip_longest

GAP = "  "
WIDEST_LINE = 120
WIDEST = 31  # letters of a column: a file's name fits, a list is wrapped
NARROWEST_LAST = 20  # characters that the last column has at least


def width() -> int:
    return min(shutil.get_terminal_size().columns, WIDEST_LINE)


def columns(rows: Sequence[Sequence[str]], *, widest: int = WIDEST, indent: str = "") -> list[str]:
    """Rows as aligned text. What is too long for its column is wrapped there; the last takes what is left of a line."""
    return [line for lines in columns_by_row(rows, widest=widest, indent=indent) for line in lines]


def columns_by_row(rows: Sequence[Sequence[str]], *, widest: int = WIDEST, indent: str = "") -> list[list[str]]:
    """As `columns`, with the lines of each row apart, for headings between them."""
    if not rows:
        return []
    rows = [[shown(cell) for cell in row] for row in rows]
    widths = [min(max(len(row[i]) for row in rows), widest) for i in range(len(rows[0]) - 1)]
    left = max(width() - len(indent) - sum(widths) - len(GAP) * len(widths), NARROWEST_LAST)
    made = []
    for row in rows:
        cells = [_wrapped_cell(cell, room) for cell, room in zip(row, [*widths, left], strict=True)]
        lines = [
            GAP.join(part.ljust(room) for part, room in zip(parts, [*widths, 0], strict=True))
            for parts in zip_longest(*cells, fillvalue="")
        ]
        made.append([f"{indent}{line}".rstrip() for line in lines])
    return made


def wrapped(text: str, indent: str = "", rest: str | None = None) -> list[str]:
    """A sentence in lines; `rest` indents those after the first."""
    rest = f"{indent}  " if rest is None else rest
    return textwrap.wrap(
        shown(text), width(), initial_indent=indent, subsequent_indent=rest, break_on_hyphens=False
    ) or [""]


def fitted(lines: Sequence[str]) -> list[str]:
    """The lines, those that are wider than the terminal in several.

    A text of several lines is a file's and stays, and one with colours has been fitted by who coloured it.
    """
    made = []
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip()) + 4)
        made += [line] if len(line) <= width() or {"\n", "\033"} & set(line) else wrapped(line, rest=indent)
    return made


def shown(text: str) -> str:
    """The text without what would move the cursor or change colours: a name on the disk may hold anything."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _wrapped_cell(cell: str, room: int) -> list[str]:
    indented = len(cell) - len(cell.lstrip(" "))
    lines = textwrap.wrap(cell.strip(), max(room - indented, 1), break_on_hyphens=False) or [""]
    return [" " * indented + line for line in lines]
