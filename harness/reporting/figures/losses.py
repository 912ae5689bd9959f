"""Loss curves: each method's denoising loss beside those of its formulation, and the parts that only one method has.

A loss is a number of its formulation: EDM's and IDDPM's weigh the noise levels differently, so they never share axes.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from harness.recipes.about import LossPart
from harness.recipes.reading import about
from harness.records.evidence import Evidence
from harness.records.information import DISCRIMINATIVE, ln_k
from harness.records.looks import formulation_title, look
from harness.records.trials import Setting, Spread, Trial
from harness.reporting.drawing.scales import fit, short
from harness.reporting.drawing.sheet import DASHES, DOTS, NOTE_COLOUR, Drawing, Panel, Row, drawing
from harness.reporting.figures import measured as shared

NAME = "losses"
TITLE = "Training losses"
SUBHEADING = (
    "Mean over seeds, the band one standard deviation, of runs with the papers' knobs at the budget that most have. "
    "The paper prints no loss."
)

MAX_POINTS = 150  # a curve with more is smoothed
MARKERS = 5  # about as many on a curve


DENOISING = "denoising"
WHOLE = LossPart(quantity=DENOISING, title="")  # the loss of a method without a known denoising part
QUANTITIES = {
    DENOISING: "Denoising loss",
    DISCRIMINATIVE: "Discriminative loss: cross-entropy to the teacher, nats",
    "reconstruction": "Reconstruction of hidden patches, before its weight",
}


def _part(method: str, name: str) -> LossPart:
    """The part of the method's loss that is logged as `name`: "loss/cls"."""
    return about(method).losses.get(name.removeprefix("loss/"), WHOLE)


def make(evidence: Evidence) -> Drawing:
    """The losses of each setting's methods with the paper's knobs at its main budget."""
    made = [_panels(setting) for setting in shared.paper_first(evidence)]
    panels = [panel for found in made for panel in found]
    notes = [*([SUBHEADING] if panels else []), *_remarks(evidence, sum(not found for found in made))]
    methods = dict.fromkeys(look(row["method"]).title for panel in panels for row in panel.rows)
    alternative = f"Training losses against steps for {', '.join(methods)}, each formulation on its own axes"
    return drawing(NAME, TITLE, alternative, panels, notes=notes)


def _remarks(evidence: Evidence, silent: int) -> Iterator[str]:
    without = len(evidence.runs) - sum(len(setting.trials) for setting in evidence.settings)
    if not evidence.settings:
        yield "No finished run has an evaluation; `harness demo` or `harness run dit-tiny` trains and logs one."
    if without:
        yield f"{without} finished run{'s have' if without > 1 else ' has'} no distance and no curve here."
    if silent:
        yield f"{silent} further setting{'s' * (silent > 1)} with no loss in metrics.jsonl."
    if evidence.settings:
        yield "A logged line is the mean over the steps since the line before."
        yield (
            "EDM's and IDDPM's denoising losses are different quantities, so they have axes of their own. "
            "Even within one, a mean over the kept patches is not one over all."
        )


# Rows ------------------------------------------------------------------------------------------------------------


def _panels(setting: Setting) -> list[Panel]:
    """A panel for each quantity and its formulation or, elsewhere, its method; none where no run has a loss."""
    steps, batch_size = setting.budget()
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    notes = []
    for method, trials in setting.at_its_budget().items():
        title = look(method).title
        if not trials:
            notes.append(f"{title}: no run with the paper's knobs at {steps} steps of batch {batch_size}.")
            continue
        formulations = Counter(formulation_title(trial.run.config) for trial in trials)
        formulation = formulations.most_common(1)[0][0]
        alike = [trial for trial in trials if formulation_title(trial.run.config) == formulation]
        if len(alike) < len(trials):
            notes.append(f"{title}: {len(trials) - len(alike)} runs of another formulation are left out.")
        rows = list(_rows(setting, alike, formulation))
        for row in rows:
            quantity = row["quantity"]
            groups[quantity, formulation if quantity == DENOISING else method].append(row)
        if not rows:
            notes.append(f"{title}: no loss in metrics.jsonl.")
        damaged = sum(trial.run.damaged_lines for trial in alike)
        if damaged:
            notes.append(f"{title}: {damaged} damaged lines of metrics.jsonl are left out.")
    ordered = sorted(groups.items(), key=lambda item: (_place(item[0][0]), item[0][1]))
    panels = [_panel(setting, quantity, owner, rows) for (quantity, owner), rows in ordered]
    return [*panels[:-1], *(replace(panel, notes=(*panel.notes, *notes)) for panel in panels[-1:])]


def _place(quantity: str) -> int:
    return list(QUANTITIES).index(quantity) if quantity in QUANTITIES else len(QUANTITIES)


def _rows(setting: Setting, trials: Sequence[Trial], formulation: str) -> Iterator[dict[str, Any]]:
    """The points of each known part that is logged; of a method without a known denoising part, the loss itself."""
    logged = {name for trial in trials for line in trial.run.metrics for name in line}
    method = trials[0].method
    names = [name for part in about(method).losses if (name := f"loss/{part}") in logged]
    if not any(_part(method, name).quantity == DENOISING for name in names):
        names = ["loss", *names]
    title = shared.title_of_runs(trials)
    for name in names:
        part = _part(method, name)
        found = [(trial, curve) for trial in trials if (curve := shared.logged(trial, name))]
        if not found:
            continue
        logged_by_all = pd.DataFrame({trial.seed: curve for trial, curve in found}).dropna().sort_index()
        size = -(-len(logged_by_all) // MAX_POINTS) or 1
        whole = logged_by_all[: len(logged_by_all) // size * size]  # a last window that is not full is left out
        windows = whole.groupby(np.arange(len(whole)) // size).mean()
        for last, values in zip(whole.index[size - 1 :: size], windows.to_numpy().tolist(), strict=True):
            value = Spread.of(values)
            yield {
                "setting": setting.name,
                "setting_title": setting.title,
                "quantity": part.quantity,
                "formulation": formulation,
                "method": method,
                "label": f"{title}, {part.title}" if part.title else title,
                "part": name,
                "step": last,
                "mean": value.mean,
                "sd": value.sd,
                "n": value.n,
                "seeds": " ".join(str(trial.seed) for trial, _ in found),
                "log_lines_averaged": size,
                "batch_size": trials[0].batch_size,
                "uniform_guess": ln_k(trials[0].knobs) if part.quantity == DISCRIMINATIVE else None,
                "runs": " ".join(trial.run.name for trial, _ in found),
            }


# Panels ----------------------------------------------------------------------------------------------------------


def _panel(setting: Setting, quantity: str, owner: str, rows: Sequence[Row]) -> Panel:
    whose = owner.upper() if quantity == DENOISING else look(owner).title
    title = f"{QUANTITIES.get(quantity, quantity)}, {whose}: {setting.title}, batch {rows[0]['batch_size']}"
    return Panel(title, rows, _draw, tuple(_notes(rows)), height=1.45)


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    first = {row["method"]: row for row in reversed(rows)}
    counted = (
        f"{row['label'].partition(',')[0]} n = {row['n']} (seeds {row['seeds'].replace(' ', ', ')})"
        for row in reversed(first.values())
    )
    yield f"{', '.join(counted)}."
    window = max(row["log_lines_averaged"] for row in rows)
    if window > 1:
        yield f"Smoothed: a point is the mean of {window} logged lines in a row."
    guess = rows[0]["uniform_guess"]
    if guess is not None:
        last = {row["part"]: row["mean"] for row in rows}
        method = rows[0]["method"]
        ends = ", ".join(f"{_part(method, part).title} {mean / guess:.1%}" for part, mean in last.items())
        yield f"Dotted: ln K = {guess:.3f}, a uniform guess among K prototypes. Last points, of it: {ends}."


def _draw(frame: pd.DataFrame, axes: Axes) -> None:
    curves = frame.groupby(["method", "part"], sort=False)
    for number, ((method, part), curve) in enumerate(curves):
        every = max(1, len(curve) // MARKERS)
        apart = (number * every // len(curves), every)  # where curves coincide, the markers of both are seen
        dashed = {"linestyle": DASHES, "marker": None} if _part(method, part).dashed else {}
        shared.curve(axes, curve["step"], curve, markevery=apart, gid=f"{method}/{part}", **dashed)
    axes.set(xlabel="Training steps", ylabel="loss", xlim=(0, frame["step"].max()))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: short(step)))
    fit(axes, "y", frame["mean"], frame["sd"], room=0.05)
    if axes.get_yscale() == "log":
        axes.set_ylabel("loss, log scale")
    else:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # 5.0025 is not 5.003
    guess = frame["uniform_guess"].iloc[0]
    if guess is not None:
        label = f"ln {math.exp(guess):.0f}"
        axes.axhline(guess, color=NOTE_COLOUR, linestyle=DOTS, linewidth=1, zorder=1, label=label)
