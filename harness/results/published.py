"""The numbers the papers print, from the tables in published/*.csv, each with its source and quality.

`quality` is "table" or "text" (read there), "digitised" (measured from a bar chart) or "missing" (drawn or mentioned,
but printed nowhere: there is no value and none may be drawn). FIDs are FID-50K on ImageNet 256 without guidance, batch
256, unless a row says otherwise.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from io import StringIO

import pandas as pd

from harness.errors import unknown
from harness.results.methods import from_title

TABLES = ("sd_dit", "dit", "maskdit", "maskdit_digitised", "mdt", "missing")
QUALITIES = ("table", "text", "digitised", "missing")
NUMBERS = ("training_steps_k", "batch_size")


@dataclass(frozen=True)
class PublishedPoint:
    method: str
    model: str
    input_patches: str
    steps_per_sec: float
    fid50k: float
    source: str
    quality: str


@dataclass(frozen=True)
class MissingPoint:
    method: str
    model: str
    input_patches: str
    reason: str


def rows() -> pd.DataFrame:
    """All published rows. `value` is a number or NaN; `value_text` is what the source prints ("100+70", or empty).

    `training_steps_k` and `batch_size` are numbers or NaN; the other columns are texts, empty where nothing is known.
    """
    return _rows().copy()


def names() -> list[str]:
    """The figures and tables that have rows, in the order of the files."""
    return list(dict.fromkeys(_rows()["figure_or_table"]))


def select(name: str) -> pd.DataFrame:
    """The rows of one figure or table. Raises UsageError for a name that has none."""
    if name not in names():
        raise unknown("published figure or table", name, names())
    table = rows()
    return table[table["figure_or_table"] == name].reset_index(drop=True)


def figure3() -> tuple[list[PublishedPoint], list[MissingPoint]]:
    """SD-DiT Fig. 3, size S/2: the points whose two numbers the text gives, and the points it only draws."""
    points, missing = [], []
    for model, group in select("SD-DiT Fig.3").groupby("model", sort=False):
        by_metric = group.set_index("metric")
        method = from_title(by_metric["method"].iloc[0])
        patches = " + ".join(f"{share}%" for share in by_metric.loc["input_patches_pct", "value_text"].split("+"))
        speed, fid = by_metric.loc["steps_per_sec"], by_metric.loc["FID-50K"]
        if "missing" in (speed["quality"], fid["quality"]):
            missing.append(MissingPoint(method, model, patches, "drawn only, value not in the paper's text"))
        else:
            values = float(speed["value"]), float(fid["value"])
            points.append(PublishedPoint(method, model, patches, *values, fid["source"], fid["quality"]))
    return points, missing


def table1() -> pd.DataFrame:
    """SD-DiT Table 1: FID-50K against training steps (in thousands), without guidance."""
    return select("SD-DiT Tab.1")[["model", "method", "training_steps_k", "value", "source", "quality"]]


def missing() -> pd.DataFrame:
    """Every value a figure or text refers to without printing it; `source` says why."""
    table = rows()
    return table[table["quality"] == "missing"].reset_index(drop=True)


@cache
def _rows() -> pd.DataFrame:
    folder = files("harness.results") / "published"
    tables = [
        pd.read_csv(StringIO((folder / f"{name}.csv").read_text(encoding="utf-8")), dtype=str, keep_default_na=False)
        for name in TABLES
    ]
    table = pd.concat(tables, ignore_index=True).rename(columns={"value": "value_text"})
    for column in NUMBERS:
        table[column] = pd.to_numeric(table[column], errors="coerce")
    table.insert(table.columns.get_loc("value_text"), "value", pd.to_numeric(table["value_text"], errors="coerce"))
    return table
