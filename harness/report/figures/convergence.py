"""SD-DiT Fig. 4: how the distance falls with steps, images, hours and device-hours of training."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
from matplotlib.axes import Axes

from harness.papers.sddit import numbers as published
from harness.records import panels
from harness.records.evidence import Evidence
from harness.records.looks import from_title, look, measured_title, order
from harness.records.panels import Scalar
from harness.records.trials import PAPER_METRIC, VARIED, Setting, Trial, metric_title
from harness.report.drawing.labels import Anchor, along, place, renderer_of
from harness.report.drawing.scales import fit, unit_of_time
from harness.report.drawing.sheet import Block, Drawing, Key, Row, compose
from harness.report.figures import measured as shared
from harness.report.figures.figure3 import Spread

NAME = "figure4"
TITLE = "SD-DiT Fig. 4: convergence"
SUBHEADING = "Lower is better. Hollow: published. Filled: measured, mean over seeds."
ALTERNATIVE = "Distance against training steps, images, hours and device-hours: "
SWEEP = "convergence"
PRINTED = ("table", "text")
SERIES = ("SD-DiT Fig.4", "DiT XL/2 FID vs steps")  # points of one run; between those of other tables there is no line
MODEL, BATCH = "XL/2", 256
MOST_ARMS = 8  # lines of one panel
MOST_MARKERS = 15  # points of a line; of more, a band replaces markers and bars
SMALL = 1.25  # inches, height of one of four axes


@dataclass(frozen=True)
class Arm:
    """One line: a method's runs of one length and batch that differ in their seed alone."""

    label: str
    method: str
    trials: tuple[Trial, ...]
    timed: tuple[Trial, ...]  # of these, those on the machine whose times are drawn
    steps: tuple[int, ...]  # at which all of its runs were evaluated
    leading: bool  # its method's line at the budget of the panel

    @property
    def distances(self) -> list[Spread]:
        return [Spread.of([trial.curve[step] for trial in self.trials]) for step in self.steps]

    @property
    def batch_size(self) -> int:
        return self.trials[0].batch_size

    def hours(self, step: int, *, per_device: bool = False) -> Spread:
        """Training time until `step`, or that of all devices together. Of an arm with timed runs."""
        taken = ((trial.seconds_at(step), trial.num_devices if per_device else 1) for trial in self.timed)
        times = [seconds * devices / 3600 for seconds, devices in taken if seconds is not None]
        return Spread.of(times)


def make(evidence: Evidence) -> Drawing:
    """Fig. 4: what is printed, then one block of four axes for each setting whose runs were evaluated on their way."""
    blocks, rows = [_published_block()], _published_rows()
    found = [(setting, arms) for setting in shared.paper_first(evidence) if (arms := _arms(setting))]
    for setting, arms in found[: shared.MOST_SETTINGS]:
        block, name = _measured_block(setting, arms, f"({'abcdefgh'[len(blocks)]})"), f"measured-{setting.name}"
        blocks.append(block)
        rows += [row for arm in arms[:MOST_ARMS] for row in _rows(name, block.title, setting, arm)]
    notes = shared.not_drawn(len(found) - shared.MOST_SETTINGS)
    if not found:
        notes.append(shared.how_to_measure(SWEEP, "no run was evaluated at several of its steps", evidence))
    told = tuple(dict.fromkeys([*(note for block in blocks for note in block.notes), *notes]))
    figure = compose(TITLE, blocks, subheading=SUBHEADING, notes=notes)
    return Drawing(NAME, TITLE, ALTERNATIVE + shared.kinds(rows), figure, rows, told)


# Published -------------------------------------------------------------------------------------------------------


def points() -> pd.DataFrame:
    """What is printed of size XL/2 at batch 256 without guidance, each method and length of training once."""
    table = published.figure("4")
    table = table[table["quality"].isin(PRINTED)].drop_duplicates(["method", "training_steps_k"])
    return table.sort_values(["figure_or_table", "method", "training_steps_k"], kind="stable")


def _published_rows() -> list[Row]:
    return [
        {
            "panel": "published",
            "panel_title": f"Published: XL/2, batch {BATCH}",
            "kind": "published",
            "method": from_title(point.method),
            "label": point.method,
            "series": point.figure_or_table,
            "total_steps": None,
            "batch_size": BATCH,
            "step": int(point.training_steps_k * 1000),
            "images": int(point.training_steps_k * 1000) * BATCH,
            "hours": None,
            "hours_sd": None,
            "device_hours": None,
            "device_hours_sd": None,
            "metric": PAPER_METRIC,
            "value": float(point.value),
            "value_sd": None,
            "n": None,
            "seeds": None,
            "runs": None,
            "source": point.source,
            "quality": point.quality,
            "protocol": point.protocol,
        }
        for point in points().itertuples()
    ]


def _published_block() -> Block:
    table = points()
    methods = sorted({from_title(name) for name in table["method"]}, key=order)
    keys = tuple(Key(look(m).title, look(m).colour, look(m).marker, filled=False) for m in methods)
    absent = published.figure("4")
    absent = absent[absent["quality"] == "missing"]
    notes = (
        "Steps of batch 256; 1M steps are 256M images. A line joins what one source prints of one run. Hours, seeds "
        "and spread are not stated.",
        "DiT's points are from the DiT paper; the curve that SD-DiT draws for it is MaskDiT's, whose values "
        "are printed nowhere. MDT's are as SD-DiT quotes them; its figure has no MDT.",
        f"Drawn in the paper but printed nowhere: {'; '.join(f'{row.model}, {row.x}' for row in absent.itertuples())}.",
    )
    title = "(a) Published (XL/2, ImageNet 256, FID-50K)"
    return Block(title, partial(_draw_published, table=table), notes, keys)


def _draw_published(grid: Sequence[Axes], *, table: pd.DataFrame) -> None:
    (axes,) = grid
    axes.set(xlabel="Training steps", ylabel="FID-50K (lower is better)")
    fit(axes, "x", [(1000 * steps, None) for steps in table["training_steps_k"]], log=True)
    fit(axes, "y", [(value, None) for value in table["value"]], log=True)
    anchors, lines = [], []
    for (source, title), group in table.groupby(["figure_or_table", "method"], sort=False):
        style = look(from_title(title))
        x, y = 1000 * group["training_steps_k"].to_numpy(), group["value"].to_numpy()
        axes.plot(
            x,
            y,
            color=style.colour,
            linestyle="-" if source in SERIES else "none",
            linewidth=0.9,
            marker=style.marker,
            markersize=6,
            markerfacecolor="none",  # two markers lie one on the other, and both are to be seen
            gid=f"published/{title}/{source}",
        )
        anchors += [Anchor(*where, f"{where[1]:.2f}", style.colour) for where in zip(x, y, strict=True)]
        lines += along(axes, x, y) if source in SERIES else []
    place(axes, renderer_of(axes), anchors=anchors, lines=lines)


# Measured --------------------------------------------------------------------------------------------------------


def _arms(setting: Setting) -> list[Arm]:
    """The setting's lines, the leading ones first; none where no run has a curve of two points."""
    budget = setting.budget()
    batch_size = setting.batch_size
    chosen: list[tuple[str, str, tuple[Trial, ...], bool]] = []
    for method in sorted({trial.method for trial in setting.trials}, key=order):
        own = [trial for trial in setting.trials if trial.method == method and trial.batch_size == batch_size]
        lengths = sorted({trial.steps for trial in own}, key=lambda steps: (abs(steps - budget[0]), steps))
        groups = [setting.select(method, steps=steps, batch_size=batch_size) for steps in lengths]
        variant = ""
        if own and not any(groups):  # nothing of it has the paper's knobs
            knobs = _most_common_knobs(own)
            groups = [setting.select(method, steps=steps, batch_size=batch_size, **knobs) for steps in lengths]
            variant = panels.describe(knobs, list(knobs))
        chosen += [(method, variant, group, i == 0) for i, group in enumerate(filter(None, groups))]
    machine = Counter(trial.machine for *_, group, _ in chosen for trial in group).most_common(1)
    arms = []
    for method, variant, group, leading in sorted(chosen, key=lambda item: not item[-1]):
        common = set.intersection(*(set(trial.curve) for trial in group))
        timed = tuple(trial for trial in group if trial.speed and trial.machine == machine[0][0])
        title = measured_title(method, group[0].knobs)
        label = f"{title}{variant}, {group[0].steps} steps"
        if common:
            arms.append(Arm(label, method, group, timed, tuple(sorted(common)), leading))
    return arms if any(len(arm.steps) > 1 for arm in arms) else []


def _most_common_knobs(trials: Sequence[Trial]) -> dict[str, Scalar]:
    found: Counter[tuple[tuple[str, Scalar], ...]] = Counter(
        tuple((name, trial.knobs[name]) for name in VARIED if name in trial.knobs) for trial in trials
    )
    return dict(min(found.items(), key=lambda item: (-item[1], repr(item[0])))[0])


def _rows(panel: str, title: str, setting: Setting, arm: Arm) -> Iterator[Row]:
    for step, distance in zip(arm.steps, arm.distances, strict=True):
        hours = arm.hours(step) if arm.timed else None
        device_hours = arm.hours(step, per_device=True) if arm.timed else None
        yield {
            "panel": panel,
            "panel_title": title,
            "kind": "measured",
            "method": arm.method,
            "label": arm.label,
            "series": None,
            "total_steps": arm.trials[0].steps,
            "batch_size": arm.batch_size,
            "step": step,
            "images": step * arm.batch_size,
            "hours": hours.mean if hours else None,
            "hours_sd": hours.sd if hours else None,
            "device_hours": device_hours.mean if device_hours else None,
            "device_hours_sd": device_hours.sd if device_hours else None,
            "metric": setting.metric,
            "value": distance.mean,
            "value_sd": distance.sd,
            "n": distance.n,
            "seeds": " ".join(str(trial.seed) for trial in arm.trials),
            "runs": " ".join(trial.run.name for trial in arm.trials),
            "source": "measured",
            "quality": "measured",
            "protocol": None,
        }


def _measured_block(setting: Setting, arms: Sequence[Arm], letter: str) -> Block:
    shown = arms[:MOST_ARMS]
    keys = tuple(
        Key(arm.label, look(arm.method).colour, look(arm.method).marker, line="-", thin=not arm.leading)
        for arm in shown
    )
    return Block(
        title=f"{letter} Measured: {setting.title}, batch {setting.batch_size}",
        draw=partial(_draw_measured, setting=setting, arms=shown),
        notes=tuple(_notes(setting, arms)),
        keys=keys,
        columns=2,
        rows=2,
        axes_height=SMALL,
    )


def _notes(setting: Setting, arms: Sequence[Arm]) -> Iterator[str]:
    yield shared.counted((arm.label, arm.distances[-1]) for arm in arms[:MOST_ARMS])
    if not all(arm.leading for arm in arms):
        yield "Runs of another length are lines of their own, thinner; nothing joins them."
    yield from shared.conditions(setting, MODEL)
    timed, drawn = sum(len(arm.timed) for arm in arms), sum(len(arm.trials) for arm in arms)
    machine = next((trial.run.result.device for arm in arms for trial in arm.timed), None)
    if machine is None:
        yield "No run has a speed, so no times are drawn."
    else:
        yield f"Times: at a run's mean speed, warm-up and evaluation left out, on {panels.device_title(machine)}."
        if timed < drawn:
            yield f"Without times: {shared.count(drawn - timed, 'run')} of another machine or without a speed."
    others = len({trial.batch_size for trial in setting.trials}) - 1
    if others:
        number = sum(trial.batch_size != setting.batch_size for trial in setting.trials)
        yield f"Not drawn: {shared.count(number, 'run')} of another batch."
    if len(arms) > MOST_ARMS:
        yield f"Not drawn: {shared.count(len(arms) - MOST_ARMS, 'more line')}, of further lengths."
    if any("MDT-lite" in arm.label for arm in arms):
        yield shared.MDT_LITE


def _draw_measured(grid: Sequence[Axes], *, setting: Setting, arms: Sequence[Arm]) -> None:
    timed = [arm for arm in arms if arm.timed]
    longest = max((arm.hours(arm.steps[-1], per_device=True).mean for arm in timed), default=1.0)
    unit, per_hour = unit_of_time(longest)

    def times(arm: Arm, per_device: bool) -> list[float]:
        return [arm.hours(step, per_device=per_device).mean * per_hour for step in arm.steps]

    xs: Sequence[tuple[str, str, Mapping[str, Sequence[float]]]] = (
        ("step", "Training steps", {arm.label: arm.steps for arm in arms}),
        ("images", "Training images", {arm.label: [step * arm.batch_size for step in arm.steps] for arm in arms}),
        ("hours", f"Training time, {unit}", {arm.label: times(arm, False) for arm in timed}),
        ("device_hours", f"Device-{unit}", {arm.label: times(arm, True) for arm in timed}),
    )
    spreads = [(spread.mean, spread.sd) for arm in arms for spread in arm.distances]
    for i, (axes, (name, label, by_arm)) in enumerate(zip(grid, xs, strict=True)):
        axes.set_xlabel(label)
        if i % 2 == 0:
            axes.set_ylabel(metric_title(setting.metric))
        fit(axes, "y", spreads)
        values = [(x, None) for x_of_arm in by_arm.values() for x in x_of_arm]
        if not values:
            axes.text(0.5, 0.5, "no speeds", transform=axes.transAxes, ha="center")
            continue
        fit(axes, "x", values, log=True, most=4)
        for arm in arms:
            if arm.label in by_arm:
                _draw_arm(axes, arm, by_arm[arm.label], f"measured-{setting.name}/{arm.label}/{name}")


def _draw_arm(axes: Axes, arm: Arm, x: Sequence[float], gid: str) -> None:
    style, spreads = look(arm.method), arm.distances
    y, sd = [spread.mean for spread in spreads], [spread.sd or 0 for spread in spreads]
    dense, has_spread = len(x) > MOST_MARKERS, spreads[0].sd is not None if spreads else False
    width, size = (1.4, 4.0) if arm.leading else (0.7, 2.6)
    if has_spread and dense:
        low, high = [v - s for v, s in zip(y, sd, strict=True)], [v + s for v, s in zip(y, sd, strict=True)]
        axes.fill_between(x, low, high, color=style.colour, alpha=0.2, linewidth=0)
    elif has_spread:
        axes.errorbar(x, y, sd, fmt="none", ecolor=style.colour, elinewidth=0.8, capsize=1.5)
    axes.plot(
        x,
        y,
        color=style.colour,
        linewidth=width,
        marker=None if dense else style.marker,
        markersize=size,
        markeredgewidth=0.8,
        gid=gid,
        clip_on=False,
    )
