"""The gap between each two FIDs that a paper compares, beside how far apart one recipe is known to come out.

A gap is the higher value over the lower one, less 1. The known spread is the same ratio of the numbers of one recipe,
trained several times and sampled by one protocol, from the atlas. A gap below it may be chance.
`gaps.yaml` of a paper's folder lists the pairs and the recipe; its values are looked up in the CSV files.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.papers import documents, published
from harness.papers.atlas import FID, Spread, atlas
from harness.system.errors import DataError, unknown

GAPS = "gaps.yaml"
KEYS = {"at": "figure_or_table", "model": "model", "steps": "training_steps_k", "x": "x", "series": "series"}


@dataclass(frozen=True)
class Gap:
    """Two FIDs that a paper compares."""

    place: str
    first: str  # "SD-DiT-S/2, 400k steps", which the paper calls lower than `second`, or comparable to it
    second: str
    values: tuple[float, float]
    says: str  # "lower" or "comparable"

    @property
    def relative(self) -> float:
        """How far the higher lies above the lower, in parts of the lower."""
        return max(self.values) / min(self.values) - 1


@dataclass(frozen=True)
class Gaps:
    """A paper's gaps, the smallest first, and the spread that they stand beside."""

    paper: str
    gaps: tuple[Gap, ...]
    known: Spread
    recipe: str  # whose spread it is

    @property
    def known_relative(self) -> float:
        assert self.known.relative is not None, self.recipe
        return self.known.relative

    def below(self, says: str) -> list[Gap]:
        """The gaps below the known spread, of pairs that the paper calls so."""
        return [gap for gap in self.gaps if gap.says == says and gap.relative < self.known_relative]

    def of(self, says: str) -> list[Gap]:
        """The gaps of pairs that the paper calls so."""
        return [gap for gap in self.gaps if gap.says == says]


def gaps(paper: str = "sddit") -> Gaps:
    """A paper's gaps, by its folder. Raises UsageError for a paper without gaps.yaml, DataError for a wrong entry."""
    said = dict(documents(GAPS))
    if paper not in said:
        raise unknown(f"paper with a {GAPS}", paper, said)
    found = tuple(sorted(map(_gap, said[paper]["pairs"]), key=lambda gap: gap.relative))
    known = said[paper]["known"]
    (training,) = atlas(**known).trainings
    group = max(training.groups, key=lambda group: group.spread.relative or 0.0)
    if group.spread.relative is None:
        raise DataError(f"{GAPS} of {paper}: {training.title} was trained once; name a recipe that several trained.")
    return Gaps(paper, found, group.spread, f"{training.title}, {group.protocol}")


def _gap(said: Mapping[str, Any]) -> Gap:
    says = "lower" if "lower" in said else "comparable"
    pair = (said["lower"], said["higher"]) if says == "lower" else said["comparable"]
    (first, one), (second, other) = map(_found, pair)
    return Gap(said["place"], first, second, (one, other), says)


def _found(said: Mapping[str, Any]) -> tuple[str, float]:
    """A number's name and value. Raises DataError where none or several fit."""
    rows = published.rows()
    rows = rows[(rows["metric"] == FID) & rows["value"].notna()]
    for key, value in said.items():
        rows = rows[rows[KEYS[key]] == value]
    if len(set(rows["value"])) != 1:
        raise DataError(
            f"{GAPS}: {len(rows)} published numbers fit {dict(said)}. Name its place, model, steps, x, series."
        )
    row = rows.iloc[0]
    steps = "" if math.isnan(row["training_steps_k"]) else f", {row['training_steps_k']:g}k steps"
    setting = (
        f"{row['x_unit']} {row['x']}" if said.get("x") else row["series"] if "x" in said or "series" in said else ""
    )
    return f"{row['model']}{steps}{f', {setting}' if setting else ''}", float(row["value"])
