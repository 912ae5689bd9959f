"""The numbers the papers print, from the tables in published/*.csv, each with its source, quality and protocol.

`quality` is "table" or "text" (read there), "digitised" (measured from a bar chart) or "missing" (drawn or mentioned,
but printed nowhere: there is no value and none may be drawn). `protocol` says under which conditions a value was
obtained; "not stated" in it means that the cited source does not say. published/protocols.csv holds what is common to a
figure or table, of one method or series of it where they differ.

The files: sd_dit (the paper: figures, Tables 1 to 3, appendices) and settings (its Table 4, and what its text adds);
dit, maskdit, maskdit_digitised, mdt (what it compares with); fast_dit and third_party (speeds and runs by others);
anchors (later methods); missing. Values known only from someone's notes of a paper are in none of them: nobody here
has seen them in the paper, so they could not be told from a slip of the pen.
"""

import csv
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import pandas as pd

from harness.records.looks import from_title
from harness.system.errors import DataError, unknown

FILES = (
    "sd_dit",
    "settings",
    "dit",
    "maskdit",
    "maskdit_digitised",
    "mdt",
    "fast_dit",
    "third_party",
    "anchors",
    "missing",
)
QUALITIES = ("table", "text", "digitised", "missing")
NUMBERS = ("training_steps_k", "batch_size")
FIGURES = ("3", "4", "5", "6", "7")  # 1 and 2 are drawings of the method
TABLES = ("1", "2", "3", "4")

SAMPLES = {"FID-50K", "FID-15K", "sFID", "IS", "Precision", "Recall"}
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
IMAGENET = 1_281_167  # training images: one epoch
BUDGET = (400, 256)  # thousands of steps, batch: what later methods are compared at
BUDGET_EPOCHS = 80
ALIKE = 0.995  # 4000k steps of 256 images are 799.3 epochs, and called 800

Row = Mapping[str, str | float]


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


# All rows -------------------------------------------------------------------------------------------------------------


def rows() -> pd.DataFrame:
    """All published rows. `value` is a number or NaN; `value_text` is what the source prints, or empty.

    `training_steps_k` and `batch_size` are numbers or NaN; the other columns are texts, empty where nothing is known.
    Zeros at the end of a number are not kept: 68.40 is 68.4.
    """
    return _rows().copy()


def names() -> list[str]:
    """The figures and tables that have rows, in the order of the files."""
    return list(dict.fromkeys(_rows()["figure_or_table"]))


def select(name: str) -> pd.DataFrame:
    """The rows of one figure or table. Raises UsageError for a name that has none."""
    if name not in names():
        raise unknown("published figure or table", name, names())
    return _named(name)


def missing() -> pd.DataFrame:
    """Every value a figure or text refers to without printing it; `source` says why."""
    return _where(_rows()["quality"] == "missing")


def of_method(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of a method, called as here ("sddit") or there ("SD-DiT"). Raises UsageError for one that has none."""
    titles = {title.casefold(): from_title(title) for title in _rows()["method"]}
    asked = titles.get(name.casefold(), name.casefold())
    if asked not in titles.values():
        raise unknown("published method", name, set(titles.values()))
    return table[table["method"].map(from_title) == asked].reset_index(drop=True)


# The paper's figures and tables ---------------------------------------------------------------------------------------


def figure(number: str) -> pd.DataFrame:
    """The rows of a figure of the SD-DiT paper, "3" to "7". Raises UsageError for another.

    Figure 4 has what belongs beside it too, told apart by `figure_or_table` and `source`: the other FIDs of the XL/2
    networks against steps, at its batch and without guidance.
    """
    if number not in FIGURES:
        raise unknown("figure with published numbers", number, FIGURES)
    own = _named(f"SD-DiT Fig.{number}")
    return own if number != "4" else pd.concat([own, _beside_figure4()], ignore_index=True)


def table(number: str) -> pd.DataFrame:
    """The rows of a table of the SD-DiT paper, "1" to "4". Raises UsageError for another.

    In Table 4 `metric` is a setting's path in a recipe where it has one, `series` the paper's words for it.
    """
    if number not in TABLES:
        raise unknown("table with published numbers", number, TABLES)
    return _named(f"SD-DiT Tab.{number}")


def settings() -> pd.DataFrame:
    """How the SD-DiT paper trains and samples: Table 4, what its text adds, and (missing) what it does not say."""
    places = _rows()["figure_or_table"]
    own = places.isin(["SD-DiT Tab.4", "SD-DiT (not stated)"]) | places.str.fullmatch(r"SD-DiT .* settings")
    return _where(own)


def figure3() -> tuple[list[PublishedPoint], list[MissingPoint]]:
    """SD-DiT Fig. 3, size S/2: the points whose two numbers the text gives, and the points it only draws."""
    points, missing = [], []
    for model, group in figure("3").groupby("model", sort=False):
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
    return table("1")[["model", "method", "training_steps_k", "value", "source", "quality"]]


# Across sources -------------------------------------------------------------------------------------------------------


def memory() -> pd.DataFrame:
    """Gigabytes per GPU while training: the SD-DiT paper's one number, and MaskDiT's bars."""
    return _where(_rows()["metric"] == "mem_GB_per_GPU")


def speeds() -> pd.DataFrame:
    """Training steps per second, of every source. Devices, batches and precisions differ: see `protocol`."""
    return _where(_rows()["metric"] == "steps_per_sec")


def context() -> pd.DataFrame:
    """FID-50K of the paper's and of later methods, with one more column, `group`; a row may be in one group only.

    The groups: "400k x 256" (steps x batch, without guidance), "80 epochs" (as long, at another batch or one that the
    source does not give), "longest" and "longest, guided" (of each method, its XL size where it has one).
    """
    found = _where(_rows()["metric"] == "FID-50K")
    found = found[[_in_context(row) for row in found.to_dict("records")]].reset_index(drop=True)
    records = found.to_dict("records")
    groups = [_budget_group(row) for row in records]
    for guided, group in ((False, "longest"), (True, "longest, guided")):
        for method in dict.fromkeys(row["method"] for row in records):
            own = [i for i, row in enumerate(records) if row["method"] == method and _is_guided(row) is guided]
            own = [i for i in own if records[i]["quality"] != "missing"]
            largest = [i for i in own if "XL" in records[i]["model"]] or own
            epochs = {i: _epochs(records[i]) for i in largest}
            known = [length for length in epochs.values() if length is not None]
            for i in largest:  # where no length is known, every run may be the longest
                length = epochs[i]
                if not known or (length is not None and length >= ALIKE * max(known)):
                    groups[i] = groups[i] or group
    found["group"] = groups
    return found[found["group"] != ""].reset_index(drop=True)


def conditions(row: Row) -> str:
    """A row's protocol without its metric, steps and batch, which have columns of their own: many rows share it."""
    return _sentence(row, {}, named=False)


# How protocols are put together ---------------------------------------------------------------------------------------


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
    unknown_ = ", ".join(name for name, text in facts.items() if text == NOT_STATED)
    remarks = shared["remarks"] if metric in SAMPLES or metric in COSTS else ""
    return "; ".join(filter(None, [known, unknown_ and f"{NOT_STATED}: {unknown_}", remarks]))


def _what(metric: str, data: str) -> str:
    if metric in COUNTED:
        return COUNTED[metric]
    if metric in SAMPLES | {"class"}:
        return f"{metric} on {data}" if metric in SAMPLES else f"class of a row of samples, {data}"
    return f"{COSTS.get(metric, 'setting of the training')} on {data}"


def _steps(row: Row) -> str:
    steps, x, unit = float(row["training_steps_k"]), str(row["x"]), row["x_unit"]
    if not math.isnan(steps):
        return f"{steps:g}k steps"
    if unit == "epochs":
        return f"{x} epochs"
    if unit == "k_steps" and x:
        return x
    return "" if row["quality"] == "missing" else NOT_STATED


def _batch(row: Row) -> str:
    if not math.isnan(float(row["batch_size"])):
        return f"batch {row['batch_size']:g}"
    return "" if row["quality"] == "missing" else NOT_STATED


def _guidance(row: Row, shared: Mapping[str, str]) -> str:
    series = str(row["series"])
    scale = re.search(r"CFG ([\d.]+)", series)
    if shared["guidance"]:
        return shared["guidance"]
    if "w/o CFG" in series:
        return "without guidance"
    if scale:
        return f"guidance scale {scale[1]}"
    if _is_guided(row):
        return "with guidance, scale not stated" if "not stated" in series else f"with guidance ({series})"
    return "" if row["quality"] == "missing" else NOT_STATED


def _is_guided(row: Row) -> bool:
    series = str(row["series"])
    return "w/o CFG" not in series and ("CFG" in series or "guid" in series)


def _protocol_of(row: Row) -> Mapping[str, str]:
    """The entry of protocols.csv that fits a row best: of its series, else of its method, else of the whole table."""
    place, method, series = row["figure_or_table"], row["method"], row["series"]
    keys = ((place, method, series), (place, "", series), (place, method, ""), (place, "", ""))
    found = next((_protocols()[key] for key in keys if key in _protocols()), None)
    if found is None:
        raise DataError(f"published/protocols.csv has no entry for {place!r}. Add one, its unknown cells not stated.")
    return found


# What belongs together ------------------------------------------------------------------------------------------------


def _beside_figure4() -> pd.DataFrame:
    known, (_, batch) = _rows(), BUDGET
    others = known["figure_or_table"].isin(["DiT XL/2 FID vs steps", "MDT FID vs steps"])
    beyond = (known["figure_or_table"] == "SD-DiT App.B") & (known["method"] == "SD-DiT")
    alike = (known["metric"] == "FID-50K") & (known["series"] == "w/o CFG") & (known["batch_size"] == batch)
    return _where((others | beyond) & alike & known["model"].str.endswith("XL/2"))


def _in_context(row: Row) -> bool:
    """Whether a FID belongs into `context`, each value once: from its own paper where that is among the files."""
    place, method, series = row["figure_or_table"], row["method"], row["series"]
    if place == "DiT Tab.4":
        return series == "w/o CFG" and str(row["model"]).endswith("/2")
    if place in ("SD-DiT Tab.1", "SD-DiT Tab.2", "SD-DiT App.B", "SD-DiT (not reported)"):
        return method == "SD-DiT" and row["batch_size"] == BUDGET[1] and "mask" not in str(series)
    if place == "MaskDiT README":
        return " 256" in str(row["model"])
    return place in ("anchor", "DiT XL/2 7M", "MDT FID vs steps", "MDT XL/2 final", "MDTv2 XL/2 final")


def _budget_group(row: Row) -> str:
    epochs = _epochs(row)
    if _is_guided(row) or "w/o CFG" not in str(row["series"]) or epochs is None:
        return ""
    if (row["training_steps_k"], row["batch_size"]) == BUDGET:
        return "400k x 256"
    return "80 epochs" if round(epochs) == BUDGET_EPOCHS else ""


def _epochs(row: Row) -> float | None:
    """Passes over ImageNet; None where the source tells neither epochs nor steps and batch."""
    if row["x_unit"] == "epochs":
        return float(row["x"])
    epochs = float(row["training_steps_k"]) * 1000 * float(row["batch_size"]) / IMAGENET
    return None if math.isnan(epochs) else epochs


# Reading --------------------------------------------------------------------------------------------------------------


def _named(name: str) -> pd.DataFrame:
    return _where(_rows()["figure_or_table"] == name)


def _where(chosen: pd.Series) -> pd.DataFrame:
    return _rows()[chosen].reset_index(drop=True)  # a copy


@cache
def _rows() -> pd.DataFrame:
    found = pd.DataFrame([row for name in FILES for row in _read(name)]).rename(columns={"value": "value_text"})
    for column in NUMBERS:
        found[column] = pd.to_numeric(found[column], errors="coerce")
    found.insert(found.columns.get_loc("value_text"), "value", pd.to_numeric(found["value_text"], errors="coerce"))
    return found.assign(protocol=[_protocol(row) for row in found.to_dict("records")])


@cache
def _protocols() -> dict[tuple[str, str, str], dict[str, str]]:
    return {(entry["figure_or_table"], entry["method"], entry["series"]): entry for entry in _read("protocols")}


def _read(name: str) -> Iterator[dict[str, str]]:
    text = (files("harness.claims") / "published" / f"{name}.csv").read_text(encoding="utf-8")
    yield from csv.DictReader(text.splitlines())
