"""The published numbers of the SD-DiT paper by figure and table, and what belongs beside them from other papers."""

from typing import Any

import pandas as pd

from harness.papers.published import is_guided, rows, where
from harness.records.looks import from_title
from harness.system.errors import unknown

FIGURES = ("3", "4", "5", "6", "7")  # 1 and 2 are drawings of the method
TABLES = ("1", "2", "3", "4")

IMAGENET = 1_281_167  # training images: one epoch
BUDGET = (400, 256)  # thousands of steps, batch: what later methods are compared at
BUDGET_EPOCHS = 80
ALIKE = 0.995  # 4000k steps of 256 images are 799.3 epochs, and called 800


def figure(number: str) -> pd.DataFrame:
    """The rows of a figure, "3" to "7". Raises UsageError for another.

    Figure 4 has what belongs beside it too, told apart by `figure_or_table` and `source`: the other FIDs of the XL/2
    networks against steps, at its batch and without guidance.
    """
    if number not in FIGURES:
        raise unknown("figure with published numbers", number, FIGURES)
    own = _named(f"SD-DiT Fig.{number}")
    return own if number != "4" else pd.concat([own, _beside_figure4()], ignore_index=True)


def table(number: str) -> pd.DataFrame:
    """The rows of a table, "1" to "4". Raises UsageError for another.

    In Table 4 `metric` is a setting's path in a recipe where it has one, `series` the paper's words for it.
    """
    if number not in TABLES:
        raise unknown("table with published numbers", number, TABLES)
    return _named(f"SD-DiT Tab.{number}")


def settings() -> pd.DataFrame:
    """How the paper trains and samples: Table 4, what its text adds, and (missing) what it does not say."""
    places = rows()["figure_or_table"]
    own = places.isin(["SD-DiT Tab.4", "SD-DiT (not stated)"]) | places.str.fullmatch(r"SD-DiT .* settings")
    return where(own)


def figure3() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Fig. 3, size S/2: the points whose two numbers the text gives, and those that it only draws, with a reason."""
    points, missing = [], []
    for model, group in figure("3").groupby("model", sort=False):
        by_metric = group.set_index("metric")
        shares = by_metric.loc["input_patches_pct", "value_text"].split("+")
        point = {
            "method": from_title(by_metric["method"].iloc[0]),
            "model": model,
            "input_patches": " + ".join(f"{share}%" for share in shares),
        }
        speed, fid = by_metric.loc["steps_per_sec"], by_metric.loc["FID-50K"]
        if "missing" in (speed["quality"], fid["quality"]):
            missing.append({**point, "reason": "drawn only, value not in the paper's text"})
        else:
            values = {"steps_per_sec": float(speed["value"]), "fid50k": float(fid["value"])}
            points.append({**point, **values, "source": fid["source"], "quality": fid["quality"]})
    return points, missing


def context() -> pd.DataFrame:
    """FID-50K of the paper's and of later methods, with one more column, `group`; a row may be in one group only.

    The groups: "400k x 256" (steps x batch, without guidance), "80 epochs" (as long, at another batch or one that the
    source does not give), "longest" and "longest, guided" (of each method, its XL size where it has one).
    """
    found = where((rows()["metric"] == "FID-50K") & _once())
    records = found.to_dict("records")
    guided = pd.Series([is_guided(row) for row in records])
    epochs = found["training_steps_k"] * 1000 * found["batch_size"] / IMAGENET  # NaN where the source does not tell
    in_epochs = found["x_unit"] == "epochs"
    epochs[in_epochs] = found["x"][in_epochs].astype(float)

    group = pd.Series("", index=found.index)
    unguided = found["series"].str.contains("w/o CFG")
    group[unguided & (epochs.round() == BUDGET_EPOCHS)] = f"{BUDGET_EPOCHS} epochs"
    at_budget = (found["training_steps_k"] == BUDGET[0]) & (found["batch_size"] == BUDGET[1])
    group[unguided & at_budget] = f"{BUDGET[0]}k x {BUDGET[1]}"
    for (_, with_guidance), own in found[found["quality"] != "missing"].groupby(["method", guided]):
        extra_large = own[own["model"].str.contains("XL")]
        largest = epochs[(own if extra_large.empty else extra_large).index]
        longest = largest[largest >= ALIKE * largest.max()] if largest.notna().any() else largest
        free = [i for i in longest.index if not group[i]]  # where no length is known, every run may be the longest
        group[free] = "longest, guided" if with_guidance else "longest"
    return found.assign(group=group)[group != ""].reset_index(drop=True)


def _named(name: str) -> pd.DataFrame:
    return where(rows()["figure_or_table"] == name)


def _beside_figure4() -> pd.DataFrame:
    known = rows()
    others = known["figure_or_table"].isin(["DiT XL/2 FID vs steps", "MDT FID vs steps"])
    beyond = (known["figure_or_table"] == "SD-DiT App.B") & (known["method"] == "SD-DiT")
    alike = (known["metric"] == "FID-50K") & (known["series"] == "w/o CFG") & (known["batch_size"] == BUDGET[1])
    return where((others | beyond) & alike & known["model"].str.endswith("XL/2"))


def _once() -> pd.Series:
    """Which rows belong into `context`, each value once: from its own paper where that is among the files."""
    known = rows()
    place, series, model = known["figure_or_table"], known["series"], known["model"]
    own = place.isin(["SD-DiT Tab.1", "SD-DiT Tab.2", "SD-DiT App.B", "SD-DiT (not reported)"])
    own &= (known["method"] == "SD-DiT") & (known["batch_size"] == BUDGET[1]) & ~series.str.contains("mask")
    dit = (place == "DiT Tab.4") & (series == "w/o CFG") & model.str.endswith("/2")
    maskdit = (place == "MaskDiT README") & model.str.contains(" 256", regex=False)
    whole = place.isin(["anchor", "DiT XL/2 7M", "MDT FID vs steps", "MDT XL/2 final", "MDTv2 XL/2 final"])
    return own | dit | maskdit | whole
