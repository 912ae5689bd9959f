"""SD-DiT Fig. 5: the distance against the share of patches that the student does not see."""

from collections.abc import Iterator, Sequence

import pandas as pd
from matplotlib.axes import Axes

from harness.papers.sddit import numbers as published
from harness.records.evidence import Evidence
from harness.records.looks import from_title, look
from harness.records.trials import PAPER_METRIC, Setting
from harness.reporting.drawing.sheet import Drawing, Panel, Row, drawing
from harness.reporting.figures import levels
from harness.reporting.figures import measured as shared

NAME = "figure5"
TITLE = "SD-DiT Fig. 5: mask ratio"
ALTERNATIVE = "Distance of SD-DiT against its mask ratio, with DiT and MDT as lines: "
SWEEP = "mask-ratio"
METHOD, KNOB = "sddit", "mask_ratio"
DIT = "DiT-S/2"


def make(evidence: Evidence) -> Drawing:
    """Fig. 5: what is printed, then each setting in which SD-DiT ran with several ratios."""
    found = [panel for setting in shared.paper_first(evidence) if (panel := _measured(setting))]
    panels = [_published(), *found]
    notes = [levels.SUBHEADING]
    if not found:
        missing = "no setting has SD-DiT at two mask ratios"
        notes.append(shared.how_to_measure(SWEEP, missing, evidence, _so_far(evidence)))
    return drawing(NAME, TITLE, ALTERNATIVE + shared.kinds(panels), shared.lettered(panels), notes=notes)


def _so_far(evidence: Evidence) -> Iterator[str]:
    for setting in shared.paper_first(evidence):
        ratios = setting.values_of(METHOD, KNOB)
        if ratios:
            yield f"{', '.join(f'{ratio:g}' for ratio in ratios)} ({setting.title})"


def _published() -> Panel:
    table = published.figure("5")
    printed = table[table["quality"].isin(("table", "text"))]
    own = printed["method"] == look(METHOD).title
    title = "Published (S/2, ImageNet 256, FID-50K)"
    place = {"panel": "published", "panel_title": title, "metric": PAPER_METRIC}
    best = printed[own]["value"].min()
    rows: list[Row] = [
        {**place, KNOB: float(row.x)}
        | levels.published_point(METHOD, look(METHOD).title, row, lowest=bool(row.value == best))
        for row in printed[own].itertuples()
    ]
    dit = published.table("1")
    dit = dit[(dit["model"] == DIT) & (dit["metric"] == "FID-50K")]
    for row in [*printed[~own].itertuples(), *dit.itertuples()]:
        ratio = f", mask ratio {float(row.x):g}" if row.x_unit == KNOB else ""
        label = f"{row.model}, {row.training_steps_k:g}k steps{ratio}"
        rows.append({**place, KNOB: None, **levels.published_point(from_title(row.method), label, row)})
    absent = table[table["quality"] == "missing"]["x"]
    notes = (
        "Size S/2, 400k steps unless another number is given, batch 256. Seeds and spread are not stated.",
        f"Not shown, as the paper prints no value and so nothing is joined: {', '.join(absent)}.",
    )
    return Panel(title, rows, _draw, notes)


def _measured(setting: Setting) -> Panel | None:
    """The setting's panel at the budget of most of its SD-DiT runs; None where fewer than two ratios ran."""
    budget = setting.budget((METHOD,))
    steps, batch_size = budget
    ratios = setting.values_of(METHOD, KNOB)
    tried = {ratio: setting.select(METHOD, steps=steps, batch_size=batch_size, mask_ratio=ratio) for ratio in ratios}
    found = {ratio: trials for ratio, trials in tried.items() if trials}
    if len(found) < 2:
        return None
    best = levels.lowest_of(found)
    title = shared.title_of(setting, budget)
    place = {"panel": f"measured-{setting.name}", "panel_title": title, "metric": setting.metric}
    rows: list[Row] = [
        {**place, KNOB: ratio, **levels.measured_point(look(METHOD).title, trials, lowest=ratio == best)}
        for ratio, trials in found.items()
    ]
    beside = {method: setting.select(method, steps=steps, batch_size=batch_size) for method in ("dit", "mdt")}
    for trials in filter(None, beside.values()):
        label = f"{shared.title_of_runs(trials)}, the same steps"
        rows.append({**place, KNOB: None, **levels.measured_point(label, trials)})
    absent = [look(method).title for method, trials in beside.items() if not trials]
    return Panel(title, rows, _draw, tuple(_notes(setting, rows, absent)))


def _notes(setting: Setting, rows: Sequence[Row], absent: Sequence[str]) -> Iterator[str]:
    yield levels.counted(rows, KNOB)
    best = next((row for row in rows if row["lowest"]), None)
    if best is None:
        yield "The mask ratios have no seed in common, so none is called the lowest."
        return
    yield f"Lowest{' mean' if best['n'] > 1 else ''}: {best['value']:.4g} at mask ratio {best[KNOB]:g}."
    if absent:
        yield f"No line for {' and '.join(absent)}: not run at these steps and this batch."
    yield from shared.conditions(setting)
    if any("MDT-lite" in row["label"] for row in rows):
        yield shared.MDT_LITE


def _draw(grid: Sequence[Axes], frame: pd.DataFrame) -> None:
    (axes,) = grid
    axes.set(xlabel="Mask ratio", xlim=(-0.04, 1.04))
    levels.draw(axes, frame, KNOB)
