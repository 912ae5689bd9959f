"""What Tables 1 to 3 share: a published value, the measured one beside it, and whether they may be compared."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.papers.published import Target, target_of
from harness.papers.sddit import numbers as published
from harness.report.figures.figure3 import Spread
from harness.report.tables.repeats import Repeats
from harness.report.tables.table import Cell, Column, Printed

Row = dict[str, Cell]

MEASURED_AS = {
    "FID-50K": "fid50k",
    "sFID": "sfid50k",
    "IS": "is50k",
    "Precision": "precision50k",
    "Recall": "recall50k",
}
PRINTED_AS = {name: metric for metric, name in MEASURED_AS.items()}
TWO_DECIMALS = ("FID-50K", "Precision", "Recall")  # as the papers print them; the data keep no zeros at the end
FAMILIES = ("fid", "fd", "sfid", "sfd", "is", "precision", "recall")  # of metrics, in the order of Table 2
OF_THE_PAPER = "ImageNet 256"
NOT_MEASURED = "not measured"
NOT_BUILT = "for context: not trained here"

SHARED = (
    Column("Published", "number"),
    Column("Measured", "number", spread="Measured, SD"),
    Column("n", "number"),
    Column("Difference", "number", decimals=2, signed=True),
    Column("Difference, %", "number", decimals=1, signed=True),
)
MODEL = (
    Column("Setting"),
    Column("Model"),
    Column("Training steps", "number"),
    Column("Batch", "number"),
    Column("Metric"),
)
JUDGED = (Column("Comparable"), Column("Source"))

HOW_TO_READ = (
    "Measured: mean over n seeds, ± their standard deviation where n is above 1. Difference: measured minus published, "
    "and in % of the published value. Comparable: whether the runs were made as the published ones, or what differs."
)


@dataclass(frozen=True)
class Printing:
    """One published value."""

    model: str
    metric: str
    value: float
    text: str
    source: str
    target: Target | None  # None: a model of no size that could be trained here
    steps: int | None
    batch_size: int | None
    series: str

    @property
    def cell(self) -> Printed:
        return Printed(self.value, f"{self.value:.2f}" if self.metric in TWO_DECIMALS else self.text)


# Cells -----------------------------------------------------------------------------------------------------------


def comparable(differences: Mapping[str, str]) -> str:
    """ "yes", or "no" with the weightiest difference in full and the others by their word."""
    if not differences:
        return "yes"
    first, *others = differences.items()
    if len(others) < 2:
        return f"no: {'; '.join(differences.values())}"
    return f"no: {first[1]}; also {', '.join(word for word, _ in others)}"


def measured(values: Mapping[int, float], metric: str) -> Row:
    value = Spread.of(list(values.values()))
    mean = Printed(value.mean, f"{value.mean:.2f}") if value.sd is None and metric in MEASURED_AS else value.mean
    return {"Measured": mean, "Measured, SD": value.sd, "n": value.n}


def difference(mean: float, printing: Printing) -> Row:
    return {"Difference": mean - printing.value, "Difference, %": 100 * (mean / printing.value - 1)}


def printings(number: str) -> list[Printing]:
    return [printing_of(record) for record in published.table(number).to_dict("records")]


def printing_of(record: Mapping[str, Any]) -> Printing:
    steps, batch = record["training_steps_k"], record["batch_size"]
    return Printing(
        model=record["model"],
        metric=record["metric"],
        value=record["value"],
        text=record["value_text"],
        source=f"{record['source']} ({record['quality']})",
        target=target_of(record["method"], record["model"], steps, batch),
        steps=None if math.isnan(steps) else round(steps * 1000),
        batch_size=None if math.isnan(batch) else int(batch),
        series=record["series"],
    )


def is_paper_scale(group: Repeats) -> bool:
    return group.setting.scale == "paper" and group.settings["sampling.guidance_scale"] in (None, 1)


def in_full(found: Iterable[Repeats], titles: Mapping[str, str]) -> str:
    """What every setting's runs differ in from the paper's, in a sentence each."""
    settings = {group.setting.name: group.setting for group in found}
    sentences = [
        f" {titles[name]} differs from the paper in: {'; '.join(setting.differences.values())}."
        for name, setting in settings.items()
        if setting.differences
    ]
    return "".join(sentences)


def metric_order(name: str) -> tuple[bool, int, str]:
    own = MEASURED_AS.get(name, name)
    return (name not in MEASURED_AS, FAMILIES.index(family(own)), name)


def family(metric: str) -> str:
    return re.split(r"[-@\d]", metric, maxsplit=1)[0]
