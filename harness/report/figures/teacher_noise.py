"""SD-DiT Fig. 6: the distance against the teacher's noise level, with the student's distribution of levels behind."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from harness.papers.sddit import numbers as published
from harness.records.evidence import Evidence
from harness.records.trials import PAPER_METRIC, Setting, metric_title
from harness.report.drawing.scales import fit
from harness.report.drawing.sheet import Drawing, Key, Row
from harness.report.figures import measured as shared
from harness.report.figures.figure3 import Spread
from harness.report.figures.levels import DOTS, Level, Panel, Points, draw_levels, draw_points, drawing

NAME = "figure6"
TITLE = "SD-DiT Fig. 6: the teacher's noise level"
ALTERNATIVE = "Distance of SD-DiT against its teacher's noise level, over the density of the student's levels: "
SWEEP = "teacher-noise"
METHOD, KNOB, STUDENT = "sddit", "teacher_sigma", "student"
X_UNIT = "sigma_T"
SAME = "sigma_T drawn as the student's"
P_MEAN, P_STD = -1.2, 1.2  # of ln sigma: Karras et al. 2022, Table 1; SD-DiT App. A, eq. 14
AREA_COLOUR, AREA_HEIGHT = "#dcdcdc", 0.8  # of the axes
ENDS = (0.001, 12.0)  # of the axis: from below the least level to where the density has vanished


@dataclass(frozen=True)
class NoisePanel(Panel):
    """Fixed levels as points, the level drawn as the student's as a line."""

    mask_ratio: float


def make(evidence: Evidence) -> Drawing:
    """Fig. 6: what is printed, then each setting in which SD-DiT ran with several levels of the teacher."""
    found = [panel for setting in shared.paper_first(evidence) if (panel := _measured(setting))]
    panels = [_published(), *found[: shared.MOST_SETTINGS]]
    area = Key("density of the student's ln sigma", AREA_COLOUR, area=True)
    notes = [
        "Area: ln sigma of the student is normal with mean -1.2 and standard deviation 1.2, most often near sigma 0.3. "
        "Its height has no scale.",
        *shared.not_drawn(len(found) - shared.MOST_SETTINGS),
    ]
    if not found:
        notes.append(shared.how_to_measure(SWEEP, "no setting has SD-DiT at two noise levels of its teacher", evidence))
    return drawing(panels, _draw, _rows, notes, name=NAME, title=TITLE, alternative=ALTERNATIVE, keys=(area,))


def _published() -> NoisePanel:
    table = published.figure("6")
    printed = table[table["quality"].isin(("table", "text"))]
    fixed, drawn = printed[printed["x_unit"] == X_UNIT], printed[printed["x_unit"] != X_UNIT]
    points = Points(
        METHOD,
        "SD-DiT, sigma_T fixed",
        tuple(fixed["x"].astype(float)),
        tuple(Spread.of([value]) for value in fixed["value"]),
        sources=tuple(fixed["source"]),
        qualities=tuple(fixed["quality"]),
        protocols=tuple(fixed["protocol"]),
        joined=False,
    )
    levels = tuple(
        Level(
            METHOD,
            SAME,
            Spread.of([row.value]),
            source=row.source,
            quality=row.quality,
            protocol=row.protocol,
            line=DOTS,
        )
        for row in drawn.itertuples()
    )
    notes = ("Size S/2, 400k steps, batch 256, mask ratio 0.5. Seeds and spread are not stated.", *_missing())
    title = "Published (S/2, ImageNet 256, FID-50K)"
    return NoisePanel("published", title, PAPER_METRIC, points, levels, notes, mask_ratio=0.5)


def _missing() -> Iterator[str]:
    table = published.figure("6")
    for row in table[table["quality"] == "missing"].itertuples():
        what = row.x if row.x.startswith("other") else f"{X_UNIT} {row.x}"
        yield f"Not shown, no value printed: {what} ({row.source})."


def _measured(setting: Setting) -> NoisePanel | None:
    """The setting's panel at the mask ratio and budget of most of its levels; None where fewer than two ran."""
    budget = setting.budget((METHOD,))
    ratio = _mask_ratio(setting, budget)
    if ratio is None:
        return None
    values = setting.values_of(METHOD, KNOB)
    found = {value: shared.measured(setting, METHOD, budget, mask_ratio=ratio, teacher_sigma=value) for value in values}
    fixed = {value: runs for value, runs in found.items() if runs and value != STUDENT}
    if not fixed or sum(runs is not None for runs in found.values()) < 2:
        return None
    points = Points(
        METHOD,
        "SD-DiT, sigma_T fixed",
        tuple(float(value) for value in fixed),
        tuple(runs.distance for runs in fixed.values()),
        tuple(fixed.values()),
    )
    same = found.get(STUDENT)
    levels = (Level(METHOD, SAME, same.distance, same, line=DOTS),) if same else ()
    return NoisePanel(
        name=f"measured-{setting.name}",
        title=f"{shared.title_of(setting, budget)}, mask ratio {ratio:g}",
        metric=setting.metric,
        mask_ratio=ratio,
        points=points,
        levels=levels,
        notes=tuple(_notes(setting, points, levels)),
    )


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


def _notes(setting: Setting, points: Points, levels: Sequence[Level]) -> Iterator[str]:
    named = [(f"{x:g}", spread) for x, spread in zip(points.xs, points.spreads, strict=True)]
    yield shared.counted([*named, *((level.label, level.spread) for level in levels)])
    if not levels:
        yield f"No line for {SAME}: not run."
    yield from shared.conditions(setting)


def _rows(panel: NoisePanel) -> Iterator[Row]:
    place: dict[str, Any] = {
        "panel": panel.name,
        "panel_title": panel.title,
        "metric": panel.metric,
        "mask_ratio": panel.mask_ratio,
    }
    for row in panel.points.rows():
        yield {**place, "teacher_sigma": row.pop("x"), **row}
    for level in panel.levels:
        yield {**place, "teacher_sigma": STUDENT, **level.row()}


def density(sigma: np.ndarray) -> np.ndarray:
    """Of ln sigma, at `sigma`: what a logarithmic axis shows without distortion."""
    standard = (np.log(sigma) - P_MEAN) / P_STD
    return np.exp(-(standard**2) / 2) / (P_STD * math.sqrt(2 * math.pi))


def _draw(grid: Sequence[Axes], *, panel: NoisePanel) -> None:
    (axes,) = grid
    axes.set(xlabel="sigma_T, the teacher's noise level", ylabel=f"{metric_title(panel.metric)} (lower is better)")
    highest = max((ENDS[1], *panel.points.xs))
    fit(axes, "x", [(ENDS[0], None), (highest, None)], log=True, room=0.0)
    spreads = [*panel.points.spreads, *(level.spread for level in panel.levels)]
    fit(axes, "y", [(spread.mean, spread.sd) for spread in spreads])
    sigma = np.geomspace(*axes.get_xlim(), 200)
    heights = density(sigma) / density(np.exp([P_MEAN])) * AREA_HEIGHT
    axes.fill_between(
        sigma, 0, heights, transform=axes.get_xaxis_transform(), color=AREA_COLOUR, linewidth=0, zorder=0.5
    )
    draw_levels(axes, panel.levels, panel.name)
    draw_points(axes, panel.points, panel.name, ring=True)
