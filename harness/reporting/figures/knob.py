"""SD-DiT Fig. 5 and 6: a method's distance against one of its knobs.

A result that has no number for that knob is a horizontal line, and its row has nothing in the column `lowest`. The
paper's figures.yaml names method and knob.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from harness.claims.arms import mdt_lite
from harness.papers.sddit import numbers as published
from harness.records.evidence import Evidence
from harness.records.looks import from_title, look
from harness.records.trials import PAPER_METRIC, Setting, Trial, metric_title
from harness.reporting.drawing.scales import fit
from harness.reporting.drawing.sheet import DASHES, DOTS, TEXT_COLOUR, Drawing, Panel, Row, drawing
from harness.reporting.figures import measured as shared

SUBHEADING = "Lower is better. Hollow: published. Filled: measured. A ring marks the lowest point."
AREA_HEIGHT = 0.8  # height of the density's peak, as a share of the axes

Spec = Mapping[str, Any]  # the figure's entry of figures.yaml


def make(evidence: Evidence, spec: Spec) -> Drawing:
    """What is printed, then each setting in which the method ran with several values of the knob."""
    found = [panel for setting in shared.paper_first(evidence) if (panel := _measured(setting, spec))]
    panels = [_published(spec), *found]
    notes = [SUBHEADING, *([spec["density"]["note"]] if "density" in spec else [])]
    if not found:
        so_far = _so_far(evidence, spec)
        notes.append(shared.how_to_measure(spec["sweep"], spec["lacking"], evidence, so_far))
    alternative = spec["alternative"] + shared.kinds(panels)
    lettered = [replace(panel, title=f"{shared.letter(i)} {panel.title}") for i, panel in enumerate(panels)]
    return drawing(spec["name"], spec["title"], alternative, lettered, notes=notes)


def _so_far(evidence: Evidence, spec: Spec) -> Iterator[str]:
    for setting in shared.paper_first(evidence):
        if values := setting.values_of(spec["method"], spec["knob"]):
            texts = [value if isinstance(value, str) else f"{value:g}" for value in values]
            yield f"{', '.join(texts)} ({setting.title})"


# Published -------------------------------------------------------------------------------------------------------


def _published(spec: Spec) -> Panel:
    said, table = spec["published"], published.figure(spec["number"])
    printed = table[table["quality"].isin(("table", "text"))]
    own = (printed["method"] == look(spec["method"]).title) & (printed["x_unit"] == spec["x_unit"])
    beside = [*printed[~own].itertuples()]
    if "beside" in said:
        other = published.table(said["beside"]["table"])
        beside += other[(other["model"] == said["beside"]["model"]) & (other["metric"] == "FID-50K")].itertuples()
    title = "Published (S/2, ImageNet 256, FID-50K)"
    place = {"panel": "published", "panel_title": title, "metric": PAPER_METRIC, **spec.get("held", {})}
    best = printed[own]["value"].min()
    rows: list[Row] = [
        {**place, spec["knob"]: float(row.x), **_published_row(row, spec["label"], lowest=bool(row.value == best))}
        for row in printed[own].itertuples()
    ]
    for row in beside:
        text, label = next(iter(spec.get("text_values", {}).items()), (None, ""))
        if from_title(row.method) != spec["method"]:
            at = f", {spec['words']} {float(row.x):g}" if row.x_unit == spec["x_unit"] else ""
            text, label = None, f"{row.model}, {row.training_steps_k:g}k steps{at}"
        rows.append({**place, spec["knob"]: text, **_published_row(row, label)})
    return Panel(title, rows, partial(_draw, spec=spec), (*said["notes"], *_unprinted(table, spec)))


def _unprinted(table: pd.DataFrame, spec: Spec) -> Iterator[str]:
    absent, said, unit = table[table["quality"] == "missing"], spec["published"], spec["x_unit"]
    if "missing" in said:
        yield said["missing"].format(", ".join(absent["x"]))
    else:
        for row in absent.itertuples():
            yield said["missing_each"].format(row.x if unit in row.x else f"{unit} {row.x}", row.source)


def _published_row(row: Any, label: str, *, lowest: bool | None = None) -> Row:
    method = from_title(row.method)
    return {"kind": "published", "method": method, "label": label, **shared.of_paper(row), "lowest": lowest}


# Measured --------------------------------------------------------------------------------------------------------


def _measured(setting: Setting, spec: Spec) -> Panel | None:
    """The setting's panel at the budget of most of the method's runs; None where fewer than two values ran."""
    method, knob, texts = spec["method"], spec["knob"], spec.get("text_values", {})
    steps, batch_size = budget = setting.budget((method,))
    held = {name: _most_usual(setting, budget, name, spec) for name in spec.get("held", ())}
    tried = {
        value: setting.select(method, steps=steps, batch_size=batch_size, **{**held, knob: value})
        for value in setting.values_of(method, knob)
    }
    found = {value: trials for value, trials in tried.items() if trials}
    numbers = {float(value): trials for value, trials in found.items() if value not in texts}
    if None in held.values() or not numbers or len(found) < 2:
        return None
    best = _lowest_of(numbers)
    title = f"Measured: {setting.title}, {steps} steps, batch {batch_size}"
    title += "".join(f", {name.replace('_', ' ')} {value:g}" for name, value in held.items())
    place = {"panel": f"measured-{setting.name}", "panel_title": title, "metric": setting.metric, **held}
    rows: list[Row] = [
        {**place, knob: value, **_measured_row(spec["label"], trials, lowest=value == best)}
        for value, trials in numbers.items()
    ]
    rows += [{**place, knob: t, **_measured_row(label, found[t])} for t, label in texts.items() if t in found]
    beside = {other: setting.select(other, steps=steps, batch_size=batch_size) for other in spec.get("beside", ())}
    rows += [
        {**place, knob: None, **_measured_row(f"{shared.title_of_runs(trials)}, the same steps", trials)}
        for trials in beside.values()
        if trials
    ]
    absent = [label for text, label in texts.items() if text not in found]
    others = [look(other).title for other, trials in beside.items() if not trials]
    return Panel(title, rows, partial(_draw, spec=spec), tuple(_notes(setting, rows, absent, others, spec)))


def _most_usual(setting: Setting, budget: tuple[int, int], held: str, spec: Spec) -> Any:
    """The value of the knob `held` with which most values of the figure's knob ran, the least of equals; or None."""
    pairs = {
        (trial.knobs[held], repr(trial.knobs[spec["knob"]]))
        for trial in setting.trials
        if trial.method == spec["method"]
        and (trial.steps, trial.batch_size) == budget
        and {held, spec["knob"]} <= set(trial.knobs)
    }
    counts = Counter(value for value, _ in pairs)
    return min(counts, key=lambda value: (-counts[value], value), default=None)


def _lowest_of(found: Mapping[float, Sequence[Trial]]) -> float | None:
    """The place of the lowest mean over the seeds that all places have; None where they have none in common."""
    values = {x: {trial.seed: trial.distance for trial in trials} for x, trials in found.items()}
    seeds = set.intersection(*map(set, values.values()))
    return min(values, key=lambda x: sum(values[x][seed] for seed in seeds)) if seeds else None


def _measured_row(label: str, trials: Sequence[Trial], *, lowest: bool | None = None) -> Row:
    values = shared.of_runs(trials, [trial.distance for trial in trials])
    return {"kind": "measured", "method": trials[0].method, "label": label, **values, "lowest": lowest}


def _notes(
    setting: Setting, rows: Sequence[Row], absent: Sequence[str], others: Sequence[str], spec: Spec
) -> Iterator[str]:
    knob, words = spec["knob"], spec.get("words")
    yield shared.counted({row["label"] if row["lowest"] is None else f"{row[knob]:g}": row["n"] for row in rows})
    best = next((row for row in rows if row["lowest"]), None)
    if words and best is None:
        yield f"The {words}s have no seed in common, so none is called the lowest."
    elif words and best is not None:
        yield f"Lowest{' mean' if best['n'] > 1 else ''}: {best['value']:.4g} at {words} {best[knob]:g}."
    if others:
        yield f"No line for {' and '.join(others)}: not run at these steps and this batch."
    for label in absent:
        yield f"No line for {label}: not run."
    yield from shared.conditions(setting)
    yield from mdt_lite(row["label"] for row in rows)


# Drawing ---------------------------------------------------------------------------------------------------------


def density(sigma: np.ndarray, said: Mapping[str, float]) -> np.ndarray:
    """The density of ln sigma, at `sigma`: what a logarithmic axis shows without distortion."""
    standard = (np.log(sigma) - said["mean"]) / said["deviation"]
    return np.exp(-(standard**2) / 2) / (said["deviation"] * math.sqrt(2 * math.pi))


def _draw(frame: pd.DataFrame, axes: Axes, *, spec: Spec) -> None:
    """The points along the knob, joined where all were measured alike, and the lines with a band of one deviation."""
    points, lines = frame[frame["lowest"].notna()], frame[frame["lowest"].isna()]
    axes.set(xlabel=spec["x_label"], ylabel=f"{metric_title(frame['metric'].iloc[0])} (lower is better)")
    if "x_range" in spec:
        axes.set(xlim=spec["x_range"])
    else:
        first, last = spec["x_ends"]
        fit(axes, "x", [first, max(last, *points[spec["knob"]])], log=True, room=0.02)
    fit(axes, "y", frame["value"], frame["value_sd"])
    for row in lines.itertuples():
        style, name = look(row.method), f"{row.panel}/{row.label}"
        if row.value_sd is not None:
            low, high = row.value - row.value_sd, row.value + row.value_sd
            axes.axhspan(low, high, color=style.colour, alpha=0.12, linewidth=0)
        axes.axhline(
            row.value,
            color=style.colour,
            linewidth=1.2,
            linestyle=DOTS if spec["line"] == "dots" else DASHES,
            label=f"{row.label}: {row.value:.4g}",
            gid=name,
        )
    _draw_points(axes, points, points[spec["knob"]])
    if "density" in spec:
        sigma = np.geomspace(*axes.get_xlim(), 200)
        peak = density(np.exp([spec["density"]["mean"]]), spec["density"])
        heights = density(sigma, spec["density"]) / peak * AREA_HEIGHT
        label, place = spec["density"]["label"], axes.get_xaxis_transform()
        axes.fill_between(sigma, 0, heights, transform=place, color="#dcdcdc", linewidth=0, zorder=0.5, label=label)


def _draw_points(axes: Axes, points: pd.DataFrame, x: pd.Series) -> None:
    first = points.iloc[0]
    measured = first["kind"] == "measured"
    if points["value_sd"].notna().any():
        sd, colour = [value or 0 for value in points["value_sd"]], look(first["method"]).colour
        axes.errorbar(x, points["value"], sd, fmt="none", ecolor=colour, elinewidth=1, zorder=3)
    named = {"label": first["label"], "gid": f"{first['panel']}/{first['label']}"}
    sizes = {"linewidth": 1, "markersize": 5.5, "markeredgewidth": 1.2}
    line = "-" if measured else "none"
    shared.marks(
        axes, x, points["value"], first["method"], hollow=not measured, linestyle=line, **sizes, **named, zorder=4
    )
    ringed = points["lowest"] == True  # noqa: E712, the column is of objects
    axes.plot(
        x[ringed],
        points["value"][ringed],
        linestyle="none",
        marker="o",
        markersize=11,
        markerfacecolor="none",
        markeredgecolor=TEXT_COLOUR,
        markeredgewidth=0.8,
        clip_on=False,
        zorder=5,
    )
