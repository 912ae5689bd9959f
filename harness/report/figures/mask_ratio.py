"""SD-DiT Fig. 5: the distance against the share of patches that the student does not see."""

from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes

from harness.papers.sddit import numbers as published
from harness.records.evidence import Evidence
from harness.records.looks import from_title, look
from harness.records.trials import PAPER_METRIC, Setting, metric_title
from harness.report.drawing.scales import fit
from harness.report.drawing.sheet import Drawing, Row
from harness.report.figures import measured as shared
from harness.report.figures.figure3 import Spread
from harness.report.figures.levels import Level, Panel, Points, draw_levels, draw_points, drawing

NAME = "figure5"
TITLE = "SD-DiT Fig. 5: mask ratio"
ALTERNATIVE = "Distance of SD-DiT against its mask ratio, with DiT and MDT as lines: "
SWEEP = "mask-ratio"
METHOD, KNOB = "sddit", "mask_ratio"
DIT = "DiT-S/2"


def make(evidence: Evidence) -> Drawing:
    """Fig. 5: what is printed, then each setting in which SD-DiT ran with several ratios."""
    found = [panel for setting in shared.paper_first(evidence) if (panel := _measured(setting))]
    panels = [_published(), *found[: shared.MOST_SETTINGS]]
    notes = shared.not_drawn(len(found) - shared.MOST_SETTINGS)
    if not found:
        notes.append(
            shared.how_to_measure(SWEEP, "no setting has SD-DiT at two mask ratios", evidence, _so_far(evidence))
        )
    return drawing(panels, _draw, _rows, notes, name=NAME, title=TITLE, alternative=ALTERNATIVE)


def _so_far(evidence: Evidence) -> Iterator[str]:
    for setting in shared.paper_first(evidence)[: shared.MOST_SETTINGS]:
        ratios = setting.values_of(METHOD, KNOB)
        if ratios:
            yield f"{', '.join(f'{ratio:g}' for ratio in ratios)} ({setting.title})"


def _published() -> Panel:
    table = published.figure("5")
    printed = table[table["quality"].isin(("table", "text"))]
    series = printed[printed["method"] == look(METHOD).title].assign(ratio=lambda t: t["x"].astype(float))
    points = Points(
        METHOD,
        look(METHOD).title,
        tuple(series["ratio"]),
        tuple(Spread.of([value]) for value in series["value"]),
        sources=tuple(series["source"]),
        qualities=tuple(series["quality"]),
        protocols=tuple(series["protocol"]),
        joined=False,
    )
    dit = published.table("1")
    others = [*printed[printed["method"] != look(METHOD).title].itertuples()]
    others += [*dit[(dit["model"] == DIT) & (dit["metric"] == "FID-50K")].itertuples()]
    levels = tuple(
        Level(
            from_title(row.method),
            f"{row.model}, {row.training_steps_k:g}k steps"
            + (f", mask ratio {float(row.x):g}" if row.x_unit == KNOB else ""),
            Spread.of([row.value]),
            source=row.source,
            quality=row.quality,
            protocol=row.protocol,
        )
        for row in others
    )
    absent = table[table["quality"] == "missing"]["x"]
    notes = (
        "Size S/2, 400k steps unless told otherwise, batch 256. Seeds and spread are not stated.",
        f"Not shown, as the paper prints no value and so nothing is joined: {', '.join(absent)}.",
    )
    return Panel("published", "Published (S/2, ImageNet 256, FID-50K)", PAPER_METRIC, points, levels, notes)


def _measured(setting: Setting) -> Panel | None:
    """The setting's panel at the budget of most of its SD-DiT runs; None where fewer than two ratios ran."""
    budget = setting.budget((METHOD,))
    ratios = setting.values_of(METHOD, KNOB)
    tried = ((ratio, shared.measured(setting, METHOD, budget, mask_ratio=ratio)) for ratio in ratios)
    found = {ratio: value for ratio, value in tried if value}
    if len(found) < 2:
        return None
    points = Points(
        METHOD,
        look(METHOD).title,
        tuple(found),
        tuple(value.distance for value in found.values()),
        tuple(found.values()),
    )
    beside = [(method, shared.measured(setting, method, budget)) for method in ("dit", "mdt")]
    levels = tuple(
        Level(method, f"{value.title}, the same steps", value.distance, value) for method, value in beside if value
    )
    return Panel(
        name=f"measured-{setting.name}",
        title=shared.title_of(setting, budget),
        metric=setting.metric,
        points=points,
        levels=levels,
        notes=tuple(_notes(setting, points, levels, [look(method).title for method, value in beside if not value])),
    )


def _notes(setting: Setting, points: Points, levels: Sequence[Level], absent: Sequence[str]) -> Iterator[str]:
    named = [(f"{x:g}", spread) for x, spread in zip(points.xs, points.spreads, strict=True)]
    yield shared.counted([*named, *((level.label, level.spread) for level in levels)])
    best = points.lowest
    if best is None:
        yield "The mask ratios have no seed in common, so none is called the lowest."
        return
    lowest = points.spreads[best]
    yield f"Lowest{' mean' if lowest.n > 1 else ''}: {lowest.mean:.4g} at mask ratio {points.xs[best]:g}."
    if absent:
        yield f"No line for {' and '.join(absent)}: not run at these steps and this batch."
    yield from shared.conditions(setting)
    if any("MDT-lite" in level.label for level in levels):
        yield shared.MDT_LITE


def _rows(panel: Panel) -> Iterator[Row]:
    place = {"panel": panel.name, "panel_title": panel.title, "metric": panel.metric}
    for row in panel.points.rows():
        yield {**place, "mask_ratio": row.pop("x"), **row}
    for level in panel.levels:
        yield {**place, "mask_ratio": None, **level.row()}


def _draw(grid: Sequence[Axes], *, panel: Panel) -> None:
    (axes,) = grid
    axes.set(xlabel="Mask ratio", ylabel=f"{metric_title(panel.metric)} (lower is better)")
    axes.set_xlim(-0.04, 1.0)
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    spreads = [*panel.points.spreads, *(level.spread for level in panel.levels)]
    fit(axes, "y", [(spread.mean, spread.sd) for spread in spreads])
    draw_levels(axes, panel.levels, panel.name)
    draw_points(axes, panel.points, panel.name, ring=True)
