"""The papers whose claims are judged: what each is (paper.yaml), and what it claims (claims.yaml).

The numbers that a claims.yaml names are compared with the rows of the published CSV files when it is checked, not each
time it is read.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources.abc import Traversable
from typing import Any

from pydantic import Field

from harness import claims
from harness.claims import Claim, reading
from harness.claims.reading import Claims, Entry
from harness.claims.schema import Number
from harness.claims.verdict import Judgement
from harness.papers import folders, published
from harness.recipes.config import Settings
from harness.recipes.located import Fault, Faulty, located
from harness.records.evidence import Evidence
from harness.system.errors import one_line, some_of, unknown

UNDER_TEST = "sddit"
CLAIMS, PAPER = "claims.yaml", "paper.yaml"
COLUMNS = {  # of a number in a claims.yaml, and of a published CSV
    "table": "figure_or_table", "metric": "metric", "series": "series", "method": "method", "model": "model",
    "steps": "training_steps_k", "batch": "batch_size", "x": "x",
}  # fmt: skip
MOST_ROWS = 3  # named in a message


class Paper(Settings):
    """A paper.yaml."""

    short: str = Field(description="what the paper or its method is called")
    title: str
    authors: str = Field(description="the first author et al., as recipes have it")
    year: int
    arxiv: str = Field(pattern=r"^\d{4}\.\d{4,5}$", description="its number on arXiv, in quotes")
    versions: dict[str, str] = Field(description="which version was read, and what of it")

    @property
    def cited(self) -> str:
        """ "Zhu et al. 2024, arXiv:2403.17004"."""
        return f"{self.authors} {self.year}, arXiv:{self.arxiv}"


def names() -> list[str]:
    """The papers that have claims."""
    return [folder.name for folder in folders() if (folder / CLAIMS).is_file()]


def about(paper: str) -> Paper:
    """What a paper is. Raises UsageError for one without claims, Faulty for a paper.yaml with faults."""
    return _paper(_folder(paper) / PAPER)


@cache
def read(paper: str) -> Claims:
    """A paper's claims.yaml. Raises UsageError for a paper that has none, Faulty for one with faults."""
    file = _folder(paper) / CLAIMS
    return reading.read(file.read_text(encoding="utf-8"), str(file))


def claims_of(paper: str = UNDER_TEST) -> tuple[Claim, ...]:
    """The claims of a paper, as they are judged. Raises as `read`."""
    return tuple(entry.claim for entry in read(paper).entries)


def judge(evidence: Evidence, paper: str = UNDER_TEST) -> tuple[Judgement, ...]:
    """For each claim one judgement per setting in which it could be tested; one "not tested" where there is none."""
    return claims.judge(claims_of(paper), evidence)


def entry(claim: str) -> tuple[str, Entry]:
    """The paper and the claim with that id. Raises UsageError where there is none."""
    found = {entry.said.id: (paper, entry) for paper in names() for entry in read(paper).entries}
    if claim not in found:
        raise unknown("claim", claim, found, see="`harness claims list` names all")
    return found[claim]


def row_of(number: Number) -> list[dict[str, Any]]:
    """The published rows that fit a number: exactly one where it is told well enough."""
    rows = published.rows()
    for name, column in COLUMNS.items():
        asked = getattr(number, name)
        if asked is None:
            continue
        if name == "steps":
            rows = rows[(rows[column] * 1000).round() == asked]
        elif name == "batch":
            rows = rows[rows[column] == asked]
        else:
            asked = f"{asked:g}" if isinstance(asked, float) else str(asked)
            rows = rows[rows[column] == asked]
    return rows.to_dict("records")


# Checking -------------------------------------------------------------------------------------------------------------


def files() -> list[Traversable]:
    """What there is to check: every paper.yaml and every claims.yaml."""
    return [file for paper in names() for file in (_folder(paper) / PAPER, _folder(paper) / CLAIMS)]


def check(checked: Iterable[Traversable]) -> tuple[list[Fault], dict[str, int]]:
    """The faults of claims.yaml and paper.yaml files, and how many claims each of the former has.

    A number is a fault where no published row, or more than one, fits it, or the row has another value. An id is one
    where two of the files have it. Raises OSError for a file that cannot be opened.
    """
    faults: list[Fault] = []
    counts: dict[str, int] = {}
    ids: dict[str, str] = {}
    for file in checked:
        try:
            if file.name == PAPER:
                _paper(file)
                continue
            found = reading.read(_text(file), str(file))
        except Faulty as error:
            faults += error.faults
            continue
        counts[str(file)] = len(found.entries)
        faults += _numbers(found)
        for place, each in enumerate(found.entries):
            other = ids.setdefault(each.said.id, str(file))
            if other != str(file):
                what = f"{other} has a claim {each.said.id!r} too. Choose another id."
                faults.append(found.source.fault(("claims", place, "id"), what))
    return faults, counts


def _numbers(found: Claims) -> Iterator[Fault]:
    for name, number in found.numbers.items():
        rows = row_of(number)
        if len(rows) != 1:
            words = [", ".join(f"{key} {row[COLUMNS[key]]}" for key in COLUMNS if row[COLUMNS[key]]) for row in rows]
            which = (
                f": {some_of(words, MOST_ROWS)}. Name more columns of it"
                if rows
                else ". `harness published list` has all"
            )
            yield found.source.fault(("numbers", name), f"{len(rows) or 'no'} published rows fit {name!r}{which}.")
        elif rows[0]["value"] != number.value:
            what = (
                f"{name!r} is {number.value:g}, and its published row says {rows[0]['value']:g}. Correct one of them."
            )
            yield found.source.fault(("numbers", name, "value"), what)


def _folder(paper: str) -> Traversable:
    if paper not in names():
        raise unknown("paper with claims", paper, names())
    return next(folder for folder in folders() if folder.name == paper)


def _paper(file: Traversable) -> Paper:
    source = located(_text(file), str(file))
    faults: list[Fault] = []
    paper = source.read((), source.value, Paper, "a paper.yaml", faults)
    if paper is None:
        raise Faulty(faults)
    return paper


def _text(file: Traversable) -> str:
    """Its text. Raises Faulty where it is no UTF-8."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Faulty([Fault(str(file), 1, 1, f"it is no UTF-8 text: {one_line(error)}. Save it as UTF-8.")]) from None
