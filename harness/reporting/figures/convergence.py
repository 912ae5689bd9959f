"""SD-DiT Fig. 4: how the distance falls with steps, images, hours and device-hours of training."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from harness.claims.arms import mdt_lite
from harness.papers.sddit import numbers as published
from harness.records import looks
from harness.records.evidence import Evidence
from harness.records.looks import Scalar, from_title, look
from harness.records.trials import PAPER_METRIC, VARIED, Setting, Spread, Trial, metric_title
from harness.reporting.drawing.scales import fit, unit_of_time
from harness.reporting.drawing.sheet import Drawing, Panel, drawing
from harness.reporting.figures import measured as shared
from harness.reporting.tables.table import count

MOST_ARMS = 8  # lines of one panel
MOST_MARKERS = 15  # points of a line; where it has more, a band replaces markers and bars
TIMES = ("hours", "hours_sd", "device_hours", "device_hours_sd")

Arms = Mapping[str, Sequence[Trial]]  # a line's label: its runs, which differ in their seed alone
Spec = Mapping[str, Any]  # the figure's entry of figures.yaml


def make(evidence: Evidence, spec: Spec) -> Drawing:
    """What is printed, then four axes for each setting whose runs were evaluated on their way."""
    found = [(setting, arms) for setting in shared.paper_first(evidence) if (arms := _arms(setting))]
    measured = [_measured(f"{shared.letter(i)} Measured", *each, spec) for i, each in enumerate(found, start=1)]
    panels = [_published(spec), *measured]
    notes = [spec["note"]]
    if not found:
        notes.append(shared.how_to_measure(spec["sweep"], "no run was evaluated at several of its steps", evidence))
    return drawing(spec["name"], spec["title"], spec["alternative"] + shared.kinds(panels), panels, notes=notes)


# Published -------------------------------------------------------------------------------------------------------


def _published(spec: Spec) -> Panel:
    """What is printed without guidance of the figure's size at its batch, each method and length of training once."""
    said, batch, table = spec["published"], spec["batch"], published.figure(spec["number"])
    printed = table[table["quality"].isin(("table", "text"))].drop_duplicates(["method", "training_steps_k"])
    rows = [
        {
            "panel": "published",
            "panel_title": f"Published: {spec['model']}, batch {batch}",
            "kind": "published",
            "method": from_title(point.method),
            "label": point.method,
            "series": point.figure_or_table,
            "total_steps": None,
            "batch_size": batch,
            "step": int(point.training_steps_k * 1000),
            "images": int(point.training_steps_k * 1000) * batch,
            **dict.fromkeys(TIMES),
            "metric": PAPER_METRIC,
            **shared.of_paper(point),
        }
        for point in printed.sort_values(["figure_or_table", "method", "training_steps_k"], kind="stable").itertuples()
    ]
    absent = "; ".join(f"{row.model}, {row.x}" for row in table[table["quality"] == "missing"].itertuples())
    notes = (*said["notes"], f"Drawn in the paper but printed nowhere: {absent}.")
    return Panel(f"(a) {said['title']}", rows, partial(_draw_published, spec=spec), notes)


def _draw_published(frame: pd.DataFrame, axes: Axes, *, spec: Spec) -> None:
    axes.set(xlabel="Training steps", ylabel="FID-50K (lower is better)")
    fit(axes, "x", frame["step"], log=True)
    fit(axes, "y", frame["value"], log=True)
    named = set()
    for (source, title), group in frame.groupby(["series", "label"], sort=False):
        method = group["method"].iloc[0]
        style = look(method)
        axes.plot(
            group["step"],
            group["value"],
            color=style.colour,
            linestyle="-" if source in spec["one_run"] else "none",
            linewidth=0.9,
            marker=style.marker,
            markersize=6,
            markerfacecolor="none",  # where two markers coincide, the reader sees both
            label="_" if title in named else title,
            gid=f"published/{title}/{source}",
        )
        named.add(title)
        below = method in spec["label_below"]
        offset, ha, va = ((-5, -5), "right", "top") if below else ((5, 4), "left", "bottom")
        for step, value in zip(group["step"], group["value"], strict=True):
            axes.annotate(
                f"{value:.2f}", (step, value), offset, textcoords="offset points", ha=ha, va=va, color=style.colour
            )


# Measured --------------------------------------------------------------------------------------------------------


def _arms(setting: Setting) -> Arms:
    """The setting's lines, first that of each method at the setting's budget; none where no run has two points."""
    steps_of_most, batch_size = setting.budget()[0], setting.batch_size
    leading: dict[str, Sequence[Trial]] = {}
    others: dict[str, Sequence[Trial]] = {}
    for method in setting.methods:
        own = [trial for trial in setting.trials if trial.method == method and trial.batch_size == batch_size]
        lengths = sorted({trial.steps for trial in own}, key=lambda steps: (abs(steps - steps_of_most), steps))
        groups = [setting.select(method, steps=steps, batch_size=batch_size) for steps in lengths]
        variant = ""
        if own and not any(groups):  # nothing of it has the paper's knobs
            knobs = _most_common_knobs(own)
            groups = [setting.select(method, steps=steps, batch_size=batch_size, **knobs) for steps in lengths]
            variant = looks.describe(knobs, list(knobs))
        named = {f"{shared.title_of_runs(g)}{variant}, {g[0].steps} steps": g for g in groups if g}
        named = {label: group for label, group in named.items() if _steps(group)}
        leading |= dict(list(named.items())[:1])
        others |= dict(list(named.items())[1:])
    arms = leading | others
    return arms if any(len(_steps(group)) > 1 for group in arms.values()) else {}


def _steps(trials: Sequence[Trial]) -> list[int]:
    """The steps at which all of the runs were evaluated."""
    return sorted(set.intersection(*(set(trial.curve) for trial in trials)))


def _most_common_knobs(trials: Sequence[Trial]) -> dict[str, Scalar]:
    found: Counter[tuple[tuple[str, Scalar], ...]] = Counter(
        tuple((name, trial.knobs[name]) for name in VARIED if name in trial.knobs) for trial in trials
    )
    return dict(min(found.items(), key=lambda item: (-item[1], repr(item[0])))[0])


def _timed(arms: Arms) -> dict[str, list[Trial]]:
    """The runs of each line whose times are drawn: those with a speed on the machine that made most runs."""
    machine, _ = Counter(trial.machine for trials in arms.values() for trial in trials).most_common(1)[0]
    return {
        label: [trial for trial in trials if trial.speed and trial.machine == machine] for label, trials in arms.items()
    }


def _measured(title: str, setting: Setting, arms: Arms, spec: Spec) -> Panel:
    title = f"{title}: {setting.title}, batch {setting.batch_size}"
    timed = _timed(arms)
    rows = [
        {
            "panel": f"measured-{setting.name}",
            "panel_title": title,
            "kind": "measured",
            "method": trials[0].method,
            "label": label,
            "series": None,
            "total_steps": trials[0].steps,
            "batch_size": trials[0].batch_size,
            "step": step,
            "images": step * trials[0].batch_size,
            **_hours(timed[label], step),
            "metric": setting.metric,
            **shared.of_runs(trials, [trial.curve[step] for trial in trials]),
        }
        for label, trials in list(arms.items())[:MOST_ARMS]
        for step in _steps(trials)
    ]
    return Panel(
        title, rows, _draw_measured, tuple(_notes(setting, arms, timed, spec["model"])), grid=(2, 2), height=1.25
    )


def _hours(trials: Sequence[Trial], step: int) -> dict[str, float | None]:
    """Training time until `step`, and that of all devices together."""
    if not trials:
        return dict.fromkeys(TIMES)
    hours = [step / trial.speed / 3600 for trial in trials if trial.speed]  # each of them has one
    alone = Spread.of(hours)
    together = Spread.of([t * trial.run.result.device.num_devices for t, trial in zip(hours, trials, strict=True)])
    return dict(zip(TIMES, (alone.mean, alone.sd, together.mean, together.sd), strict=True))


def _notes(setting: Setting, arms: Arms, timed: Arms, model: str) -> Iterator[str]:
    shown = list(arms)[:MOST_ARMS]
    yield shared.counted({label: len(arms[label]) for label in shown})
    if len({trials[0].method for trials in arms.values()}) < len(arms):
        yield "Runs of another length are lines of their own, thinner; nothing joins them."
    yield from shared.conditions(setting, model)
    with_times, drawn = sum(map(len, timed.values())), sum(map(len, arms.values()))
    machine = next((trial.run.result.device for trials in timed.values() for trial in trials), None)
    if machine is None:
        yield "No run has a speed, so no times are drawn."
    else:
        yield f"Times: at a run's mean speed, warm-up and evaluation left out, on {looks.device_title(machine)}."
        if with_times < drawn:
            yield f"Without times: {count(drawn - with_times, 'run')} of another machine or without a speed."
    number = sum(trial.batch_size != setting.batch_size for trial in setting.trials)
    if number:
        yield f"Not drawn: {count(number, 'run')} of another batch."
    if len(arms) > MOST_ARMS:
        yield f"Not drawn: {count(len(arms) - MOST_ARMS, 'more line')}, of further lengths."
    yield from mdt_lite(arms)


def _draw_measured(frame: pd.DataFrame, *grid: Axes) -> None:
    hours = frame["device_hours"].dropna()
    unit, per_hour = unit_of_time(hours.max() if len(hours) else 1.0)
    xs = {
        "step": ("Training steps", 1),
        "images": ("Training images", 1),
        "hours": (f"Training time, {unit}", per_hour),
        "device_hours": (f"Device-{unit}", per_hour),
    }
    for i, (axes, (column, (label, factor))) in enumerate(zip(grid, xs.items(), strict=True)):
        axes.set(xlabel=label, ylabel="" if i % 2 else metric_title(frame["metric"].iloc[0]))
        fit(axes, "y", frame["value"], frame["value_sd"])
        drawn = frame[frame[column].notna()]
        if drawn.empty:
            axes.text(0.5, 0.5, "no speeds", transform=axes.transAxes, ha="center")
            continue
        fit(axes, "x", drawn[column] * factor, log=True, most=4)
        methods = set()
        for name, line in drawn.groupby("label", sort=False):
            method = line["method"].iloc[0]
            _draw_line(axes, line, line[column] * factor, f"{line['panel'].iloc[0]}/{name}/{column}", method in methods)
            methods.add(method)


def _draw_line(axes: Axes, line: pd.DataFrame, x: pd.Series, gid: str, thin: bool) -> None:
    method, y, sd = line["method"].iloc[0], line["value"], line["value_sd"]
    dense, colour = len(x) > MOST_MARKERS, look(method).colour
    if dense:
        shared.band(axes, x, y, sd, colour)
    elif sd.notna().all():
        axes.errorbar(x, y, list(sd), fmt="none", ecolor=colour, elinewidth=0.8, capsize=1.5)
    form: dict[str, Any] = {"linewidth": 0.7, "markersize": 2.6} if thin else {"linewidth": 1.4, "markersize": 4.0}
    form |= {"marker": None} if dense else {}
    shared.marks(axes, x, y, method, markeredgewidth=0.8, label=line["label"].iloc[0], gid=gid, **form)
