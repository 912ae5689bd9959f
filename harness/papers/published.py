"""The numbers that the papers print, from the CSV files of harness/papers/*, each with source, quality and protocol.

`quality` is "table" or "text" (read there), "digitised" (measured from a bar chart), "second hand" (known from notes
about a paper, not seen in the paper itself) or "missing" (drawn or mentioned, but printed nowhere: there is no value
and none may be drawn). `protocol` says under which conditions a value was obtained; "not stated" in it means that the
cited source does not say. A paper's `protocols.csv` holds what is common to a figure or table, of one method or series
of it where they differ.

`source` has one of COMPARED in it: whether a row was compared with its source once more after it was entered. With
what, and which rows could not be, stands in reports/evidence/published-rows.md. The SD-DiT paper's own rows do without.
"""

import csv
import math
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources.abc import Traversable
from typing import NamedTuple

import pandas as pd

from harness.papers import folders
from harness.records.looks import from_title
from harness.system.errors import DataError, unknown

PROTOCOLS = "protocols.csv"
SOURCES = "sources.csv"  # who printed a number: harness/papers/atlas.py
QUALITIES = ("table", "text", "digitised", "second hand", "missing")
NUMBERS = ("training_steps_k", "batch_size")  # columns, besides the value
COMPARED = ("read again", "measured again", "not compared again")  # the last: the source could not be had

SAMPLES = {"FID-50K", "FID-15K", "FID-10K", "sFID", "IS", "Precision", "Recall"}
COSTS = {  # metric: what it is of
    "steps_per_sec": "training speed",
    "sec_per_step": "training speed",
    "k_steps_per_24h": "training speed",
    "mem_GB_per_GPU": "training memory",
    "mem_MB": "training memory",
    "hours_8xA100": "training time",
    "A100_days": "training time",
    "pct_of_DiT_time": "training time",
}
COUNTED = {
    "params_M": "counted, nothing trained",
    "Gflops": "counted, nothing trained",
    "input_patches_pct": "patches that a training step reads",
}
NOT_STATED = "not stated"
SIZES = ("s", "b", "l", "xl")  # the papers': written S/2, B/2, ...

Row = Mapping[str, str | float]


class Target(NamedTuple):
    """What a published value was measured on."""

    method: str
    size: str  # "s"
    patch: int
    steps: int | None  # None: not stated
    batch_size: int | None

    @property
    def network(self) -> str:
        return network_title(self.size, self.patch)


def rows() -> pd.DataFrame:
    """All published rows. `value` is a number or NaN; `value_text` is what the source prints, or empty.

    `training_steps_k` and `batch_size` are numbers or NaN; the other columns are texts, empty where nothing is known.
    Zeros at the end of a number are not kept: 68.40 is 68.4.
    """
    return _rows().copy()


def where(chosen: pd.Series) -> pd.DataFrame:
    """A copy of the chosen rows, numbered from 0."""
    return _rows()[chosen].reset_index(drop=True)


def missing() -> pd.DataFrame:
    """Every value a figure or text refers to without printing it; `source` says why."""
    return where(_rows()["quality"] == "missing")


def memory() -> pd.DataFrame:
    """Gigabytes per GPU while training: the SD-DiT paper's one number, and MaskDiT's bars."""
    return where(_rows()["metric"] == "mem_GB_per_GPU")


def of_method(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of a method, called as here ("sddit") or there ("SD-DiT"). Raises UsageError for one that has none."""
    titles = {title.casefold(): from_title(title) for title in _rows()["method"]}
    asked = titles.get(name.casefold(), name.casefold())
    if asked not in titles.values():
        raise unknown("published method", name, set(titles.values()))
    return table[table["method"].map(from_title) == asked].reset_index(drop=True)


def is_guided(row: Row) -> bool:
    """Whether the samples behind a row were drawn with classifier-free guidance."""
    series = str(row["series"])
    return "w/o CFG" not in series and ("CFG" in series or "guid" in series)


def conditions(row: Row) -> str:
    """A row's protocol without its metric, steps and batch, which have columns of their own: many rows share it."""
    return _sentence(row, {}, named=False)


def drawn_with(row: Row) -> tuple[str, str]:
    """The guidance and the sampler of a row's images, in words; empty where the rows do not tell."""
    shared = _protocol_of(row)
    return _guidance(row, shared), shared["sampler"]


def target_of(method: str, model: str, steps_k: float, batch_size: float) -> Target | None:
    """A published row's, from its columns (NaN where nothing is stated); None where `model` names no size."""
    named = re.match(r".*-(S|B|L|XL)/(\d+)", model)
    if named is None:
        return None
    steps = None if math.isnan(steps_k) else round(steps_k * 1000)
    return Target(
        from_title(method), named[1].lower(), int(named[2]), steps, None if math.isnan(batch_size) else int(batch_size)
    )


def network_title(size: str, patch: int | None) -> str:
    return f"{size.upper() if size.lower() in SIZES else size}/{patch}"


# Reading --------------------------------------------------------------------------------------------------------------


def tables() -> list[Traversable]:
    """The CSV files of published numbers, paper by paper."""
    found = [file for folder in folders() for file in sorted(folder.iterdir(), key=lambda file: file.name)]
    return [file for file in found if file.name.endswith(".csv") and file.name not in (PROTOCOLS, SOURCES)]


def read(file: Traversable) -> list[dict[str, str]]:
    """The rows of a CSV file as the file has them."""
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))


@cache
def _rows() -> pd.DataFrame:
    found = pd.DataFrame([row for file in tables() for row in read(file)]).rename(columns={"value": "value_text"})
    for column in NUMBERS:
        found[column] = pd.to_numeric(found[column], errors="coerce")
    found.insert(found.columns.get_loc("value_text"), "value", pd.to_numeric(found["value_text"], errors="coerce"))
    return found.assign(protocol=[_protocol(row) for row in found.to_dict("records")])


@cache
def _protocols() -> dict[tuple[str, str, str], dict[str, str]]:
    entries = [entry for folder in folders() if (folder / PROTOCOLS).is_file() for entry in read(folder / PROTOCOLS)]
    return {(entry["figure_or_table"], entry["method"], entry["series"]): entry for entry in entries}


def _protocol_of(row: Row) -> Mapping[str, str]:
    """The entry of protocols.csv that fits a row best: of its series, else of its method, else of the whole table."""
    place, method, series = row["figure_or_table"], row["method"], row["series"]
    keys = ((place, method, series), (place, "", series), (place, method, ""), (place, "", ""))
    found = next((_protocols()[key] for key in keys if key in _protocols()), None)
    if found is None:
        raise DataError(f"no {PROTOCOLS} has an entry for {place!r}. Add one; write {NOT_STATED!r} in unknown cells.")
    return found


# How a protocol is worded ---------------------------------------------------------------------------------------------


def _protocol(row: Row) -> str:
    """A row's protocol: how long it was trained, at which batch, and the conditions."""
    metric = str(row["metric"])
    own = {}
    if metric in SAMPLES or COSTS.get(metric) == "training time":
        own["steps"] = _steps(row)
    if metric in SAMPLES or metric in COSTS:
        own["batch"] = _batch(row)
    return _sentence(row, own, named=True)


def _sentence(row: Row, own: Mapping[str, str], *, named: bool) -> str:
    """What is known, then what the source does not state, then remarks."""
    metric, shared = str(row["metric"]), _protocol_of(row)
    facts = dict(own)
    if metric in SAMPLES or metric == "class":
        facts["guidance"] = _guidance(row, shared)
    facts["what"] = _what(metric, shared["data"]) if named or metric in COUNTED else shared["data"]
    if metric in SAMPLES or metric == "class":
        facts["sampler"] = shared["sampler"]
    if metric in SAMPLES or metric in COSTS:
        facts |= {"device": shared["device"], "precision": shared["precision"]}
    known = ", ".join(text for text in facts.values() if text not in ("", NOT_STATED))
    unstated = ", ".join(name for name, text in facts.items() if text == NOT_STATED)
    remarks = shared["remarks"] if metric in SAMPLES or metric in COSTS else ""
    return "; ".join(filter(None, [known, unstated and f"{NOT_STATED}: {unstated}", remarks]))


def _what(metric: str, data: str) -> str:
    if metric in COUNTED:
        return COUNTED[metric]
    if metric == "class":
        return f"class of a row of samples, {data}"
    return f"{metric if metric in SAMPLES else COSTS.get(metric, 'setting of the training')} on {data}"


def _steps(row: Row) -> str:
    steps, x = float(row["training_steps_k"]), str(row["x"])
    if not math.isnan(steps):
        return f"{steps:g}k steps"
    if row["x_unit"] == "epochs":
        return f"{x} epochs"
    return (x if row["x_unit"] == "k_steps" else "") or _unstated(row)


def _batch(row: Row) -> str:
    return _unstated(row) if math.isnan(float(row["batch_size"])) else f"batch {row['batch_size']:g}"


def _guidance(row: Row, shared: Mapping[str, str]) -> str:
    series = str(row["series"])
    scale = re.search(r"CFG ([\d.]+)", series)
    if shared["guidance"]:
        return shared["guidance"]
    if "w/o CFG" in series:
        return "without guidance"
    if scale:
        return f"guidance scale {scale[1]}" + (" in an interval" if "interval" in series else "")
    if is_guided(row):
        return "with guidance, scale not stated" if "not stated" in series else f"with guidance ({series})"
    return _unstated(row)


def _unstated(row: Row) -> str:
    """A value that was never printed has no conditions to state."""
    return "" if row["quality"] == "missing" else NOT_STATED
