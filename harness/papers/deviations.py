"""Where this harness departs from the papers, or fills in what they do not say. The report prints all of it."""

from dataclasses import dataclass
from typing import Literal

from harness.papers import folders
from harness.recipes.config import plain_values


@dataclass(frozen=True)
class Deviation:
    """One entry of a paper's deviations.yaml."""

    concerns: str
    kind: Literal["changed", "inferred", "assumed"]  # the report explains them
    paper: str
    here: str


DEVIATIONS = tuple(
    Deviation(**entry)
    for folder in folders()
    if (file := folder / "deviations.yaml").is_file()
    for entry in plain_values(file.read_text(encoding="utf-8"))
)
