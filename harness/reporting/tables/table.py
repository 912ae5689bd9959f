"""A table as a pandas frame with a title, and the same table as Markdown, LaTeX and CSV.

Text comes from outside too (the names of runs, of data sets), so each form escapes it: it can only be read.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from harness.records.schema import write_atomically
from harness.system.errors import DataError, one_line

Cell = str | int | float | bool | None
Row = Mapping[str, Cell]

NOTHING = "–"
EMPTY = "None."
SPREAD = ", SD"  # the column "FID, SD" is the standard deviation of "FID" and is written behind its ±
METRIC_ORDER = (  # families of metrics, as tables list them
    "fid", "fd", "sfid", "sfd", "is", "precision", "recall", "kid", "density", "coverage",
    "fid_infinity", "fd_infinity", "class_accuracy", "denoiser_error", "linear_probe",
)  # fmt: skip
MOST_ROWS = 40  # a LaTeX table with more rows may break across pages
LONG_TEXT = 28  # characters; a LaTeX column with longer cells has a fixed width and breaks its lines


def frame_of(rows: Iterable[Row], columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The rows as a frame that keeps every cell's own type. A row without a column has an empty cell there."""
    rows = list(rows)
    assert columns is None or not (strange := {name for row in rows for name in row} - set(columns)), strange
    return pd.DataFrame(rows, columns=columns, dtype=object)


@dataclass(frozen=True)
class Table:
    """A frame of numbers and words under a title."""

    name: str  # its files and its LaTeX label have this name: "table1"
    title: str
    frame: pd.DataFrame
    caption: str = ""  # plain text: what a reader must know to read it
    formats: Mapping[str, str] = field(default_factory=dict)  # how a column's numbers are written, like "+.2f"

    @cached_property
    def shown(self) -> pd.DataFrame:
        """The cells as a reader sees them, each on one line and not escaped."""
        columns = [column for column in self.frame if not column.endswith(SPREAD)]
        nothing = [None] * len(self.frame)
        return pd.DataFrame(
            {
                column: [
                    shown(value, sd, self.formats.get(column, ""))
                    for value, sd in zip(self.frame[column], self.frame.get(f"{column}{SPREAD}", nothing), strict=True)
                ]
                for column in columns
            },
            dtype=object,
        )

    @cached_property
    def numeric(self) -> dict[str, bool]:
        """Whether each column is one of numbers, between which a word like "missing" may stand."""
        return {
            column: column in self.formats or any(isinstance(cell, int | float) and cell == cell for cell in cells)
            for column, cells in self.frame.items()
        }

    def markdown(self) -> str:
        """The rows as a Markdown table, without title and caption."""
        if self.frame.empty:
            return f"{EMPTY}\n"
        cells = self.shown.rename(columns=escape).map(escape)
        alignment = ["right" if self.numeric[column] else "left" for column in self.shown]
        return cells.to_markdown(index=False, disable_numparse=True, colalign=alignment) + "\n"

    def latex(self) -> str:
        """The table with booktabs' rules, caption and label. One of many rows breaks across pages (longtable)."""
        cells, long = self.shown, len(self.frame) > MOST_ROWS
        widths = cells.map(len).max()
        shape = ["r" if self.numeric[c] else "l" if widths[c] <= LONG_TEXT else r"p{0.2\linewidth}" for c in cells]
        text = cells.rename(columns=escape_latex).map(escape_latex).to_latex(
            index=False,
            column_format="".join(shape),
            longtable=long,
            caption=escape_latex(f"{self.title.rstrip('.')}. {self.caption}".strip()),
            label=f"tab:{self.name}",
        )  # fmt: skip
        if long:
            first_page_only = re.sub(r"^\\caption\[\].*\n", "", text, flags=re.MULTILINE)
            return f"% \\usepackage{{booktabs, longtable}}\n{first_page_only}"
        # A table that is wider than the page is scaled down to it.
        scaled = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
        text = text.replace(r"\begin{tabular}", f"{scaled}\n\\begin{{tabular}}")
        return "% \\usepackage{booktabs, graphicx}\n" + text.replace(r"\end{tabular}", r"\end{tabular}}")

    def csv(self) -> str:
        """RFC 4180, with numbers in full. A text that a spreadsheet would compute gets an apostrophe in front."""
        cells = {_inert(column): [_inert(cell) for cell in cells] for column, cells in self.frame.items()}
        return pd.DataFrame(cells, dtype=object).to_csv(index=False, lineterminator="\r\n")


def write(tables: Iterable[Table], out: Path) -> list[Path]:
    """Write <name>.md, .tex and .csv of each table into `out`, and return their paths."""
    paths = []
    with writing(out):
        for table in tables:
            heading = [f"# {escape(table.title)}", *([escape(table.caption)] if table.caption else [])]
            forms = {"md": "\n\n".join([*heading, table.markdown()]), "tex": table.latex(), "csv": table.csv()}
            for kind, text in forms.items():
                paths.append(out / f"{table.name}.{kind}")
                write_atomically(paths[-1], text)
    return paths


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Makes the folder `out` for what the block writes there. Raises DataError where the disk does not take it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise DataError(
            f"cannot write to {out}: {error.strerror or error}. Choose another folder with --out."
        ) from None


# Cells -----------------------------------------------------------------------------------------------------------


def shown(value: Cell, sd: Cell = None, form: str = "") -> str:
    """A cell in words, on one line; a number with its standard deviation, where that is known."""
    if isinstance(value, str):
        return one_line(value)
    if value is None or math.isnan(value):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(sd, int | float) and not math.isnan(sd):
        return with_spread(value, sd)
    return format(value, form) if form else number(value)


def number(value: float | int) -> str:
    """A whole number as it is, another one with four digits, from 10,000 on without decimals."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def family(metric: str) -> str:
    """A metric's name without the network, and without the number of images: "fd" of "fd-digits@1k"."""
    return re.split(r"[-@\d]", metric, maxsplit=1)[0]


def count(number: int, what: str, plural: str = "") -> str:
    """ "1 run", "1,200 runs"."""
    return f"{number:,} {what if number == 1 else plural or f'{what}s'}"


def with_spread(mean: float, sd: float) -> str:
    """ "12.34 ± 0.56": two digits of the deviation, and the mean with as many decimals."""
    if not (math.isfinite(mean) and math.isfinite(sd) and sd > 0):
        return f"{number(mean)} ± {number(sd)}"
    decimals = max(1 - int(f"{sd:.1e}".partition("e")[2]), 0)
    return f"{mean:,.{decimals}f} ± {sd:,.{decimals}f}"


# Escaping --------------------------------------------------------------------------------------------------------

# What Markdown, its dialects or HTML take for markup: characters anywhere, an underscore only at the edge of a word.
MARKUP = re.compile(r"[\\`*\[\]<>|~$]|&(?=#?\w)|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.", re.IGNORECASE)
BLOCKS = re.compile(r"^(?:#{1,6}|[-+])(?=\s|$)|^(?=[-=]+$)")  # what would make a line a heading, a list or a rule
NUMBERED = re.compile(r"^(\d+)([.)])(?=\s|$)")  # what would make a line a numbered list
LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "{''}", "`": r"\textasciigrave{}",
    "[": "{[}", "]": "{]}", "*": "{*}",  # at the start of a row they would belong to the \\ before it
    "±": r"$\pm$", "×": r"$\times$", "−": "$-$", "≤": r"$\leq$", "≥": r"$\geq$", "≈": r"$\approx$",
    "→": r"$\rightarrow$", "·": r"$\cdot$", "μ": r"$\mu$", "σ": r"$\sigma$", "τ": r"$\tau$", "β": r"$\beta$",
    "λ": r"$\lambda$",
})  # fmt: skip
NOT_IN_LATEX = re.compile(r"[^\0-\u017f\u2013\u2014\u2026]")  # what LaTeX's common fonts do not have
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?", re.ASCII)
COMPUTED = ("=", "+", "-", "@")  # what a spreadsheet takes for the start of a formula


def escape(text: str) -> str:
    """`text` on one line, with nothing in it that Markdown or HTML would take for markup."""
    line = BLOCKS.sub(r"\\\g<0>", MARKUP.sub(r"\\\g<0>", one_line(text)))
    return NUMBERED.sub(r"\1\\\2", line)


def escape_latex(text: str) -> str:
    """`text` on one line, each character as LaTeX shows it; one that its fonts lack by its number, U+4E2D."""
    line = unicodedata.normalize("NFKC", one_line(text)).translate(LATEX)
    return NOT_IN_LATEX.sub(lambda found: f"U+{ord(found[0]):04X}", line)


def _inert(cell: Cell) -> Cell:
    if not isinstance(cell, str) or NUMBER.fullmatch(cell):
        return cell
    computed = unicodedata.normalize("NFKC", cell).lstrip().startswith(COMPUTED)  # a wide "＝" computes as well
    return f"'{cell}" if computed else cell
