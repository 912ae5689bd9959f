"""SD-DiT Fig. 6: the distance against the teacher's noise level, with the student's distribution of levels behind."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from harness.papers.sddit import numbers as published
from harness.records.evidence import Evidence
from harness.records.trials import PAPER_METRIC, Setting
from harness.reporting.drawing.scales import fit
from harness.reporting.drawing.sheet import DOTS, Drawing, Panel, Row, drawing
from harness.reporting.figures import levels
from harness.reporting.figures import measured as shared

NAME = "figure6"
TITLE = "SD-DiT Fig. 6: the teacher's noise level"
ALTERNATIVE = "Distance of SD-DiT against its teacher's noise level, over the density of the student's levels: "
SWEEP = "teacher-noise"
METHOD, KNOB, STUDENT = "sddit", "teacher_sigma", "student"
X_UNIT = "sigma_T"
FIXED, SAME = "SD-DiT, sigma_T fixed", "sigma_T drawn as the student's"
P_MEAN, P_STD = -1.2, 1.2  # of ln sigma: Karras et al. 2022, Table 1; SD-DiT App. A, eq. 14
AREA_HEIGHT = 0.8  # of the axes
ENDS = (0.001, 12.0)  # of the axis: from below the least level to where the density has vanished
NOTE = (
    "Area: ln sigma of the student is normal with mean -1.2 and standard deviation 1.2, most often near sigma 0.3. "
    "Its height has no scale."
)


def make(evidence: Evidence) -> Drawing:
    """Fig. 6: what is printed, then each setting in which SD-DiT ran with several levels of the teacher."""
    found = [panel for setting in shared.paper_first(evidence) if (panel := _measured(setting))]
    panels = [_published(), *found]
    notes = [levels.SUBHEADING, NOTE]
    if not found:
        notes.append(shared.how_to_measure(SWEEP, "no setting has SD-DiT at two noise levels of its teacher", evidence))
    return drawing(NAME, TITLE, ALTERNATIVE + shared.kinds(panels), shared.lettered(panels), notes=notes)


def _published() -> Panel:
    table = published.figure("6")
    printed = table[table["quality"].isin(("table", "text"))]
    fixed = printed["x_unit"] == X_UNIT
    best = printed[fixed]["value"].min()
    title = "Published (S/2, ImageNet 256, FID-50K)"
    place = {"panel": "published", "panel_title": title, "metric": PAPER_METRIC, "mask_ratio": 0.5}
    rows: list[Row] = [
        {**place, KNOB: float(row.x), **levels.published_point(METHOD, FIXED, row, lowest=bool(row.value == best))}
        for row in printed[fixed].itertuples()
    ]
    rows += [
        {**place, KNOB: STUDENT, **levels.published_point(METHOD, SAME, row)} for row in printed[~fixed].itertuples()
    ]
    notes = ["Size S/2, 400k steps, batch 256, mask ratio 0.5. Seeds and spread are not stated."]
    for row in table[table["quality"] == "missing"].itertuples():
        what = row.x if row.x.startswith("other") else f"{X_UNIT} {row.x}"
        notes.append(f"Not shown, no value printed: {what} ({row.source}).")
    return Panel(title, rows, _draw, tuple(notes))


def _measured(setting: Setting) -> Panel | None:
    """The setting's panel at the mask ratio and budget of most of its levels; None where fewer than two ran."""
    budget = setting.budget((METHOD,))
    ratio = _mask_ratio(setting, budget)
    if ratio is None:
        return None
    steps, batch_size = budget
    tried = {
        value: setting.select(METHOD, steps=steps, batch_size=batch_size, mask_ratio=ratio, teacher_sigma=value)
        for value in setting.values_of(METHOD, KNOB)
    }
    found = {value: trials for value, trials in tried.items() if trials}
    fixed = {float(value): trials for value, trials in found.items() if value != STUDENT}
    if not fixed or len(found) < 2:
        return None
    best = levels.lowest_of(fixed)
    title = f"{shared.title_of(setting, budget)}, mask ratio {ratio:g}"
    place = {"panel": f"measured-{setting.name}", "panel_title": title, "metric": setting.metric, "mask_ratio": ratio}
    rows: list[Row] = [
        {**place, KNOB: value, **levels.measured_point(FIXED, trials, lowest=value == best)}
        for value, trials in fixed.items()
    ]
    if STUDENT in found:
        rows.append({**place, KNOB: STUDENT, **levels.measured_point(SAME, found[STUDENT])})
    return Panel(title, rows, _draw, tuple(_notes(setting, rows)))


def _mask_ratio(setting: Setting, budget: tuple[int, int]) -> float | None:
    """The ratio at which most levels of the teacher ran."""
    pairs = {
        (trial.knobs["mask_ratio"], repr(trial.knobs[KNOB]))
        for trial in setting.trials
        if trial.method == METHOD
        and (trial.steps, trial.batch_size) == budget
        and {"mask_ratio", KNOB} <= set(trial.knobs)
    }
    counts = Counter(ratio for ratio, _ in pairs)
    return min(counts, key=lambda ratio: (-counts[ratio], ratio)) if counts else None


def _notes(setting: Setting, rows: Sequence[Row]) -> Iterator[str]:
    yield levels.counted(rows, KNOB)
    if not any(row[KNOB] == STUDENT for row in rows):
        yield f"No line for {SAME}: not run."
    yield from shared.conditions(setting)


def density(sigma: np.ndarray) -> np.ndarray:
    """Of ln sigma, at `sigma`: what a logarithmic axis shows without distortion."""
    standard = (np.log(sigma) - P_MEAN) / P_STD
    return np.exp(-(standard**2) / 2) / (P_STD * math.sqrt(2 * math.pi))


def _draw(grid: Sequence[Axes], frame: pd.DataFrame) -> None:
    (axes,) = grid
    axes.set(xlabel="sigma_T, the teacher's noise level")
    fixed = [value for value in frame[KNOB] if value != STUDENT]
    fit(axes, "x", [(ENDS[0], None), (max(ENDS[1], *fixed), None)], log=True, room=0.02)
    levels.draw(axes, frame, KNOB, line=DOTS)
    sigma = np.geomspace(*axes.get_xlim(), 200)
    heights = density(sigma) / density(np.exp([P_MEAN])) * AREA_HEIGHT
    label, place = "density of the student's ln sigma", axes.get_xaxis_transform()
    axes.fill_between(sigma, 0, heights, transform=place, color="#dcdcdc", linewidth=0, zorder=0.5, label=label)
