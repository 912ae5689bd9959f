"""A table as data, and the same table as Markdown, LaTeX and CSV.

Text comes from outside too (the names of runs, of data sets): each form escapes it, so that it can only be read.
"""

import csv
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, Literal, TypeGuard

import pandas as pd

from harness.records.schema import write_atomically
from harness.system.errors import DataError, one_line

Cell = str | int | float | bool | None
Row = Mapping[str, Cell]

NOTHING = "–"
EMPTY = "None."
MOST_ROWS = 40  # of a LaTeX table on one page; a longer one may break across pages
LONG_TEXT = 28  # letters; a LaTeX column with longer cells has a fixed width and breaks its lines


class Printed(float):
    """A number with its own words: 68.40, as a paper prints it. It computes, sorts and is stored as any float."""

    text: str

    def __new__(cls, value: float, text: str) -> "Printed":
        number = super().__new__(cls, value)
        number.text = text
        return number


@dataclass(frozen=True)
class Column:
    """A column's name, which is its heading and holds its unit, and how its numbers are written."""

    name: str
    kind: Literal["text", "number"] = "text"  # numbers stand to the right; a cell may still be a word: "missing"
    decimals: int | None = None  # None: four significant digits, and none behind the point from 10,000 on
    signed: bool = False  # of differences: +1.20
    spread: str | None = None  # where a row keeps the standard deviation, written behind ±; in CSV its own column


@dataclass(frozen=True)
class Table:
    """Rows are mappings from a column's name to its cell; a name that is absent is an empty cell.

    `columns` may be given as names alone: then a column whose cells are all numbers is one of numbers.
    """

    name: str  # of its files and of its LaTeX label: "table1"
    title: str
    columns: Sequence["Column | str"]  # a name alone takes its kind from the rows
    rows: Sequence[Row]
    caption: str = ""  # plain text: what a reader must know to read it
    shown: tuple[Column, ...] = field(init=False)  # the columns, each with its kind

    def __post_init__(self) -> None:
        rows = tuple(dict(row) for row in self.rows)
        columns = tuple(c if isinstance(c, Column) else Column(c, _kind(c, rows)) for c in self.columns)
        names = _names(columns)
        strange = {name for row in rows for name in row} - set(names)
        assert not strange, f"table {self.name} has no column {', '.join(sorted(strange))}"
        assert len(set(names)) == len(names), f"table {self.name} has two columns of one name: {names}"
        assert re.fullmatch(r"[\w-]+", self.name), f"{self.name!r} cannot name a file"
        object.__setattr__(self, "shown", columns)
        object.__setattr__(self, "rows", rows)

    def text(self, row: Row, column: Column) -> str:
        """The cell in words, on one line, not escaped."""
        cell = row.get(column.name)
        if cell is None:
            return NOTHING
        if isinstance(cell, bool):
            return "yes" if cell else "no"
        if isinstance(cell, str):
            return one_line(cell)
        if isinstance(cell, Printed):
            return one_line(cell.text)
        sd = row.get(column.spread) if column.spread else None
        if isinstance(sd, int | float):
            return with_spread(cell, sd, decimals=column.decimals)
        return number(cell, decimals=column.decimals, signed=column.signed)

    def sort_value(self, row: Row, column: Column) -> str | float | None:
        """What the column is ordered by: numbers by their size, words in a column of numbers not at all."""
        cell = row.get(column.name)
        if column.kind == "text":
            return None if cell is None else self.text(row, column).casefold()
        return float(cell) if _is_number(cell) and math.isfinite(cell) else None

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, texts and lists; a number that is not finite is null."""
        names = _names(self.shown)
        return {
            "name": self.name,
            "title": self.title,
            "caption": self.caption,
            "columns": [{"name": column.name, "kind": column.kind} for column in self.shown],
            "rows": [{name: _plain(row.get(name)) for name in names} for row in self.rows],
        }

    def markdown(self, heading: int | None = None) -> str:
        """The rows as a Markdown table; with `heading`, a level, also title and caption above it."""
        above = ""
        if heading is not None:
            above = f"{'#' * heading} {escape(self.title)}\n\n" + (
                f"{escape(self.caption)}\n\n" if self.caption else ""
            )
        if not self.rows:
            return f"{above}{EMPTY}\n"
        frame = pd.DataFrame(
            [[escape(self.text(row, column)) for column in self.shown] for row in self.rows],
            columns=[escape(column.name) for column in self.shown],
        )
        alignment = ["right" if column.kind == "number" else "left" for column in self.shown]
        return above + frame.to_markdown(index=False, disable_numparse=True, colalign=alignment) + "\n"

    def latex(self) -> str:
        """The table with booktabs' rules, caption and label; one of many rows breaks across pages (longtable)."""
        caption = " ".join(filter(None, (f"{self.title.rstrip('.')}.", self.caption)))
        named = rf"\caption{{{escape_latex(caption)}}}\label{{tab:{self.name}}}"
        shape = "".join(self._latex_shape(column) for column in self.shown) or "l"
        head = _latex_line(column.name for column in self.shown)
        body = [_latex_line(self.text(row, column) for column in self.shown) for row in self.rows]
        body = body or [rf"\multicolumn{{{max(len(self.shown), 1)}}}{{l}}{{{EMPTY}}} \\"]
        if len(self.rows) > MOST_ROWS:
            lines = [
                r"% \usepackage{booktabs, longtable}",
                rf"\begingroup\small\begin{{longtable}}{{{shape}}}",
                named + r" \\",
                *(r"\toprule", head, r"\midrule", r"\endhead"),
                *(r"\bottomrule", r"\endfoot"),
                *body,
                r"\end{longtable}\endgroup",
            ]
        else:
            lines = [
                r"% \usepackage{booktabs, graphicx}",
                r"\begin{table}",
                r"\centering\small",
                named,
                r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",  # never wider than the page
                rf"\begin{{tabular}}{{{shape}}}",
                *(r"\toprule", head, r"\midrule"),
                *body,
                r"\bottomrule",
                r"\end{tabular}}",
                r"\end{table}",
            ]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """RFC 4180, with numbers in full. A text that a spreadsheet would compute gets an apostrophe in front."""
        text = StringIO()
        writer = csv.writer(text)
        names = _names(self.shown)
        writer.writerow([_inert(name) for name in names])
        writer.writerows([[_csv_cell(row.get(name)) for name in names] for row in self.rows])
        return text.getvalue()

    def _latex_shape(self, column: Column) -> str:
        if column.kind == "number":
            return "r"
        longest = max((len(self.text(row, column)) for row in self.rows), default=0)
        return r"p{0.2\linewidth}" if longest > LONG_TEXT else "l"


def write(tables: Iterable[Table], out: Path) -> list[Path]:
    """Write <name>.md, .tex and .csv of each table into `out`, and return their paths.

    Raises DataError where the disk does not take them.
    """
    paths = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for table in tables:
            for kind, text in (("md", table.markdown(1)), ("tex", table.latex()), ("csv", table.csv())):
                paths.append(out / f"{table.name}.{kind}")
                write_atomically(paths[-1], text)
    except OSError as error:
        raise DataError(
            f"cannot write to {out}: {error.strerror or error}. Choose another folder with --out."
        ) from None
    return paths


# Numbers ---------------------------------------------------------------------------------------------------------


def number(value: float | int | None, *, decimals: int | None = None, signed: bool = False) -> str:
    """A number in words: four digits, from 10,000 on whole; with `decimals` so many; a whole number as it is."""
    if value is None:
        return NOTHING
    sign = "+" if signed and value else ""
    if isinstance(value, int):
        return f"{value:{sign},}"
    if decimals is not None:
        text = f"{value:{sign},.{decimals}f}"
        return text if float(text.replace(",", "")) else text.lstrip("+-")  # and not -0.00
    return f"{value:{sign},.0f}" if abs(value) >= 10_000 else f"{value:{sign}.4g}"


def with_spread(mean: float, sd: float, *, decimals: int | None = None) -> str:
    """ "12.34 ± 0.56": two digits of the deviation, and the mean as far as they reach."""
    if not (math.isfinite(mean) and math.isfinite(sd) and sd > 0):
        return f"{number(mean, decimals=decimals)} ± {number(sd)}"
    reach = max(1 - int(f"{sd:.1e}".partition("e")[2]), 0)
    return f"{mean:,.{reach}f} ± {sd:,.{reach}f}"


# Text ------------------------------------------------------------------------------------------------------------

# What Markdown, its dialects or HTML take for markup: letters anywhere, an underscore only at the edge of a word.
MARKUP = re.compile(r"[\\`*\[\]<>|~$]|&(?=#?\w)|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.", re.IGNORECASE)
BLOCKS = re.compile(r"^(?:#{1,6}|[-+])(?=\s|$)|^(?=[-=]+$)")  # what would make a line a heading, a list or a rule

JOINED = re.compile(r"([-,'])(?=\1)")  # LaTeX would draw two of them as another sign
APART = "\0"  # between them; a text on one line has none
LATEX = {
    APART: "{}",
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "{''}", "`": r"\textasciigrave{}",
    "[": "{[}", "]": "{]}", "*": "{*}",  # at the start of a row they would belong to the \\ before it
    "±": r"$\pm$", "×": r"$\times$", "−": "$-$", "–": r"\textendash{}", "—": r"\textemdash{}", "…": r"\ldots{}",
    "≤": r"$\leq$", "≥": r"$\geq$", "≈": r"$\approx$", "→": r"$\rightarrow$", "·": r"$\cdot$", "µ": r"$\mu$",
    "μ": r"$\mu$", "σ": r"$\sigma$", "τ": r"$\tau$", "β": r"$\beta$", "λ": r"$\lambda$",
}  # fmt: skip
ACCENTS = {"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"', "\u0327": "c", "\u030c": "v"}

NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?", re.ASCII)
COMPUTED = ("=", "+", "-", "@")  # what a spreadsheet takes for the start of a formula


def escape(text: str) -> str:
    """`text` on one line, with nothing in it that Markdown or HTML would take for markup."""
    return BLOCKS.sub(r"\\\g<0>", MARKUP.sub(r"\\\g<0>", one_line(text)))


def escape_latex(text: str) -> str:
    """`text` on one line, each letter as LaTeX shows it; letters its common fonts lack by their number, U+4E2D."""
    line = unicodedata.normalize("NFC", one_line(text))
    return "".join(_latex_letter(letter) for letter in JOINED.sub(rf"\1{APART}", line))


def _latex_letter(letter: str) -> str:
    if letter in LATEX:
        return LATEX[letter]
    if letter.isascii():
        return letter
    base, *marks = list(unicodedata.normalize("NFD", letter))
    if base.isascii() and base.isalpha() and len(marks) == 1 and marks[0] in ACCENTS:
        return rf"\{ACCENTS[marks[0]]}{{{base}}}"
    return f"U+{ord(letter):04X}"


def _latex_line(cells: Iterable[str]) -> str:
    return " & ".join(escape_latex(cell) for cell in cells) + r" \\"


def _inert(text: str) -> str:
    computed = unicodedata.normalize("NFKC", text).lstrip().startswith(COMPUTED)  # a wide "＝" computes as well
    return f"'{text}" if computed and not NUMBER.fullmatch(text) else text


def _csv_cell(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return str(cell).lower()
    return _inert(cell) if isinstance(cell, str) else repr(_plain(cell, finite=False))


# Rows and columns ------------------------------------------------------------------------------------------------


def _names(columns: Iterable[Column]) -> list[str]:
    """What CSV and JSON have a column for: each column, and after it its spread."""
    return [name for column in columns for name in (column.name, column.spread) if name is not None]


def _kind(name: str, rows: Sequence[Row]) -> Literal["text", "number"]:
    cells = [row[name] for row in rows if row.get(name) is not None]
    return "number" if cells and all(_is_number(cell) for cell in cells) else "text"


def _is_number(cell: Cell) -> TypeGuard[int | float]:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def _plain(cell: Cell, *, finite: bool = True) -> Cell:
    """The cell as one of Python's own types: a Printed number, or numpy's, is a float."""
    if not isinstance(cell, float):
        return cell
    return float(cell) if math.isfinite(cell) or not finite else None
