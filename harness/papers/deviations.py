"""Where this harness departs from the papers, or fills in what they do not say. The report prints all of it."""

from dataclasses import dataclass
from typing import Literal

from harness.papers import documents


@dataclass(frozen=True)
class Deviation:
    """One entry of a paper's deviations.yaml."""

    concerns: str
    kind: Literal["changed", "inferred", "assumed"]  # the report explains them
    paper: str
    here: str


DEVIATIONS = tuple(Deviation(**entry) for _, entries in documents("deviations.yaml") for entry in entries)
