"""SD-DiT Fig. 3: training speed against sample quality, published, measured, and all relative to DiT.

Measured runs share a panel only under equal conditions (see trials.Trial.conditions). The last view shows all panels
without a scale: speed and distance relative to DiT's in the same panel. The figure draws each method as its paper has
it. Points of the ablations, and panels of another budget, are in the CSV and are not drawn.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from harness.claims.arms import mdt_lite
from harness.papers.sddit import numbers as published
from harness.recipes.naming import digest
from harness.records import looks
from harness.records.evidence import Evidence
from harness.records.looks import REFERENCE, look, order
from harness.records.store import LeftOut, Run
from harness.records.trials import PAPER_METRIC, Spread, Trial, has_knobs, metric_title, trial_of
from harness.reporting.drawing import sheet
from harness.reporting.drawing.scales import fit
from harness.reporting.drawing.sheet import DASHES, NOTE_COLOUR, RULE_COLOUR, Drawing, Row
from harness.reporting.figures import measured as shared
from harness.system.groups import grouped

BUDGET = ("protocol.steps", "protocol.batch_size")
PIPELINES = {"cached": "no VAE in the step (cached)", "online-vae": "VAE in the step (online-vae)"}
WITHOUT_SPEED = "no steps per second: all its steps were warm-up, so train for more steps"
NOT_IN_THE_CSV = ("title", "trials", "differences")
SAMPLING = ("formulation", "sampler", "num_steps", "nfe")
MOST_PANELS, MOST_POINTS = 4, 12  # measured panels, and points of one, that a reader can take in


@dataclass(frozen=True)
class Group:
    """Points that may be compared by their absolute values: a panel, whether it is drawn or not.

    A point is a row of the CSV and three columns more: its method's `title`, its `trials`, and its `differences` from
    the paper, a word and a phrase for each. Its two ratios are to DiT's mean in the same group, and None where the
    group has no single DiT.
    """

    name: str
    letter: str  # figure and report call the group by it
    title: str
    metric: str
    points: Sequence[Row]
    notes: tuple[str, ...]
    differences: Mapping[str, str]  # the part of its points' differences that all of them share
    drawn: bool = True

    @property
    def measured(self) -> bool:
        return bool(self.points) and self.points[0]["kind"] == "measured"

    @property
    def drawn_points(self) -> list[Row]:
        return [point for point in self.points if point["drawn"]]

    def rows(self) -> list[Row]:
        """A line of the CSV for each point, whether it is drawn or not."""
        place = {"panel": self.name, "panel_title": self.title, "metric": self.metric}
        return [
            {**place, **point, "drawn": "yes" if self.drawn and point["drawn"] else "no"}
            | {"comparable_with_paper": "no" if point["differences"] else "yes"}
            for point in self.points
        ]


def groups(runs: Iterable[Run], spec: Mapping[str, Any]) -> list[Group]:
    """The published points, then those of the runs that have a speed and a distance; those that are drawn first."""
    found = [_published(spec["published"]), *_measured(trials_of(runs)[0], spec)]
    return [replace(group, letter=shared.letter(i)) for i, group in enumerate(found)]


def trials_of(runs: Iterable[Run]) -> tuple[list[Trial], list[LeftOut]]:
    """The runs that have a point in Fig. 3, and the others, each with why."""
    trials, left_out = [], []
    for run in runs:
        trial = trial_of(run)
        if isinstance(trial, str):
            left_out.append(LeftOut(run.path, trial))
        elif trial.speed is None:
            left_out.append(LeftOut(run.path, WITHOUT_SPEED))
        else:
            trials.append(trial)
    return trials, left_out


def make(evidence: Evidence, spec: Mapping[str, Any]) -> Drawing:
    """Published on top, then each group of measured runs under its own conditions, then all relative to DiT."""
    found, missing = groups(evidence.runs, spec), published.figure3()[1]
    shown = [group for group in found if group.drawn]
    not_shown = [f"Not shown: {point['model']}: {point['reason']}." for point in missing]
    drawn = [
        sheet.Panel(
            f"{group.letter} {group.title}",
            [row for row in group.rows() if row["drawn"] == "yes"],
            partial(_draw, y_label=f"{metric_title(group.metric)} (lower is better)"),
            (*group.notes, *([] if group.measured else not_shown)),
        )
        for group in shown
    ]
    aside = len(found) - len(shown)
    what = f"{aside} more panel{'s' if aside > 1 else ''}"
    why = f"the same methods at other steps or another batch ({spec['other_steps']} has the steps)"
    notes = [spec["note"], *([] if len(found) > 1 else [spec["not_measured"]])]
    notes += [f"Not drawn but in the CSV: {what}: {why}, or beyond the first {MOST_PANELS}."] if aside else []
    rows = [row for group in found for row in group.rows()]
    return sheet.drawing(
        spec["name"],
        spec["title"],
        spec["alternative"],
        [*drawn, _relative(shown)],
        notes=notes,
        details={"panels": [_as_json(group) for group in found], "missing": missing},
        rows=[{key: value for key, value in row.items() if key not in NOT_IN_THE_CSV} for row in rows],
    )


def _relative(shown: Sequence[Group]) -> sheet.Panel:
    """All panels on one pair of axes without a scale. Nothing joins points of different panels."""
    rows = [
        row
        for group in shown
        for row in group.rows()
        if row["drawn"] == "yes" and row["speed_relative_to_dit"] is not None
    ]
    notes = ["Hollow: published. Filled: measured. Letters: the panel; each is divided by its own DiT."]
    absent = [group.letter for group in shown if group.name not in {row["panel"] for row in rows}]
    if absent:
        notes.append(f"Without {', '.join(absent)}: no single DiT run there to divide by.")
    draw = partial(_draw_relative, letters={group.name: group.letter for group in shown})
    return sheet.Panel("All panels, relative to the DiT of the same panel", rows, draw, notes)


def _as_json(group: Group) -> dict[str, Any]:
    aside = {"panel", "panel_title", "kind", "metric", *NOT_IN_THE_CSV}
    return {
        "name": group.name,
        "kind": "measured" if group.measured else "published",
        "title": group.title,
        "metric": group.metric,
        "drawn": group.drawn,
        "notes": list(group.notes),
        "points": [
            {key: value for key, value in row.items() if key not in aside}
            | {
                "seeds": [trial.seed for trial in row["trials"]],
                "runs": [str(trial.run.path) for trial in row["trials"]],
                "drawn": row["drawn"] == "yes",
                "comparable_with_paper": not row["differences"],
                "differences_from_paper": list(row["differences"].values()),
            }
            for row in group.rows()
        ],
    }


# Points ----------------------------------------------------------------------------------------------------------


def _published(said: Mapping[str, str]) -> Group:
    made = [
        {
            "kind": "published",
            "method": point["method"],
            "title": look(point["method"]).title,
            "label": f"{look(point['method']).title} {point['input_patches']}",
            "input_patches": point["input_patches"],
            "steps_per_sec": point["steps_per_sec"],
            "steps_per_sec_sd": None,
            "value": point["fid50k"],
            "value_sd": None,
            "n": None,
            "source": point["source"],
            "quality": point["quality"],
            **dict.fromkeys(SAMPLING),
            "differences": {},
            "drawn": True,
            "trials": (),
        }
        for point in sorted(published.figure3()[0], key=lambda point: order(point["method"]))
    ]
    return Group("published", "", said["title"], PAPER_METRIC, _relative_to_dit(made), (said["note"],), {})


def _measured(trials: Iterable[Trial], spec: Mapping[str, Any]) -> list[Group]:
    """A group for each set of equal conditions; first those that are drawn, which are at most MOST_PANELS."""
    found = list(grouped(trials, lambda trial: digest(trial.conditions)).items())
    titles = looks.distinct([(_title(members[0]), members[0].conditions) for _, members in found])
    aside = _other_budgets([members for _, members in found])
    made = [
        replace(_group(name, title, members, spec), drawn=i not in aside)
        for i, ((name, members), title) in enumerate(zip(found, titles, strict=True))
    ]
    # The panel with most methods first, as it says most.
    made.sort(key=lambda group: (not group.drawn, -len({p["method"] for p in group.points}), group.title, group.name))
    return [replace(group, drawn=group.drawn and i < MOST_PANELS) for i, group in enumerate(made)]


def _other_budgets(found: Sequence[Sequence[Trial]]) -> set[int]:
    """Which of these panels differ from another one in steps or batch alone and add no method to it.

    The other is the one with most methods, then most runs, then the smaller budget.
    """

    def but_for_its_budget(i: int) -> str:
        return digest({key: value for key, value in found[i][0].conditions.items() if key not in BUDGET})

    methods = [{trial.method for trial in members} for members in found]
    aside: set[int] = set()
    for siblings in grouped(range(len(found)), but_for_its_budget).values():
        budgets = {i: tuple(found[i][0].conditions[name] for name in BUDGET) for i in siblings}
        main = min(siblings, key=lambda i: (-len(methods[i]), -len(found[i]), budgets[i]))
        aside |= {i for i in siblings if i != main and methods[i] <= methods[main]}
    return aside


def _title(trial: Trial) -> str:
    protocol, result = trial.run.config["protocol"], trial.run.result
    parts = [trial.run.data_title, result.size, f"{protocol.get('steps')} steps", f"batch {protocol.get('batch_size')}"]
    parts += [str(protocol["precision"])] if "precision" in protocol else []
    pipeline = str(protocol.get("pipeline", ""))
    parts += [PIPELINES.get(pipeline, pipeline)] if pipeline else []
    processes = f", {result.world_size} processes" if result.world_size > 1 else ""
    return f"Measured: {', '.join(parts)} — {looks.device_title(result.device)}{processes}"


def _group(name: str, title: str, trials: Sequence[Trial], spec: Mapping[str, Any]) -> Group:
    found = list(grouped(trials, lambda trial: digest({"method": trial.method, **trial.settings})).values())
    chosen = _as_published(found)
    others = [members for members in found if not any(members is each for each in chosen)]
    points = [_point(members, chosen) for members in chosen]
    points += [{**_point(members, found), "drawn": False} for members in others]
    points.sort(key=lambda point: (not point["drawn"], order(point["method"]), point["label"]))
    return Group(
        f"measured-{name[: looks.SHORT_HASH]}",
        "",
        title,
        trials[0].metric,
        _relative_to_dit(points),
        tuple(_notes(points, trials, spec["other_knobs"])),
        trials[0].differences_from_paper(),
    )


def _as_published(found: Sequence[list[Trial]]) -> list[list[Trial]]:
    """Each method's points with the paper's values of what its ablations vary; all its points where none has those.

    Where there are too many points, those with most seeds are taken, every method in turn.
    """
    ranked = []
    for method in {members[0].method for members in found}:
        own = [members for members in found if members[0].method == method]
        own = [members for members in own if has_knobs(method, members[0].knobs)] or own
        own.sort(key=lambda members: (-len(members), members[0].run.name))
        ranked += [(rank, order(method), members) for rank, members in enumerate(own)]
    return [members for *_, members in sorted(ranked, key=lambda item: item[:2])[:MOST_POINTS]]


def _point(members: Sequence[Trial], among: Sequence[Sequence[Trial]]) -> Row:
    """The point of runs that differ in their seed alone. Its label differs from those of the others `among` them."""

    def named(trial: Trial) -> tuple[str, str]:
        return trial.method, trial.run.result.input_patches

    members = sorted(members, key=lambda trial: trial.seed)
    first, protocol = members[0], members[0].evaluation.protocol
    method, patches = named(first)
    title = shared.title_of_runs(members)
    alike = [others[0].settings for others in among if named(others[0]) == (method, patches)]
    speed = Spread.of([trial.speed or 0.0 for trial in members])
    distance = shared.of_runs(members, [trial.distance for trial in members])
    return {
        "kind": "measured",
        "method": method,
        "title": title,
        "label": f"{title} {patches}{looks.describe(first.settings, looks.differing(alike))}",
        "input_patches": patches,
        "steps_per_sec": speed.mean,
        "steps_per_sec_sd": speed.sd,
        **{name: distance[name] for name in ("value", "value_sd", "n", "source", "quality")},
        **{name: getattr(protocol, name) for name in SAMPLING},
        "differences": first.differences_from_paper() | first.own_differences_from_paper(),
        "drawn": True,
        "trials": tuple(members),
    }


def _relative_to_dit(points: Sequence[Row]) -> list[Row]:
    """The points with their ratios to the panel's DiT, which are None without exactly one DiT to divide by."""
    reference = [point for point in points if point["method"] == REFERENCE and point["drawn"]]
    dit = reference[0] if len(reference) == 1 and reference[0]["value"] > 0 else None
    return [
        {
            **point,
            "speed_relative_to_dit": point["steps_per_sec"] / dit["steps_per_sec"] if dit else None,
            "value_relative_to_dit": point["value"] / dit["value"] if dit else None,
            "comparable_with_paper": "",
            **shared.behind(point["trials"]),
        }
        for point in points
    ]


def _notes(points: Sequence[Row], trials: Sequence[Trial], elsewhere: str) -> Iterator[str]:
    metric, protocol = trials[0].metric, trials[0].evaluation.protocol
    if metric != PAPER_METRIC:
        yield f"{metric}: Fréchet distance of {protocol.num_images} images, {protocol.features} features; not FID-50K."
    shown, num_aside = [point for point in points if point["drawn"]], sum(not point["drawn"] for point in points)
    yield shared.counted({point["label"]: point["n"] for point in shown})
    if num_aside:
        what = f"{num_aside} more points of these methods, with other knobs ({elsewhere})"
        yield f"Not drawn but in the CSV: {what}."
    how = "{formulation}, {sampler} in {num_steps} steps ({nfe} network evaluations)"
    by_sampling = grouped(shown, how.format_map)
    if len(by_sampling) > 1:
        titles = {way: ", ".join(dict.fromkeys(point["title"] for point in own)) for way, own in by_sampling.items()}
        each = "; ".join(f"{title}: {way}" for way, title in titles.items())
        yield f"Formulation and sampler differ, each method has its own. {each}."
    yield from mdt_lite(point["title"] for point in shown)
    if not all(trial.run.manifest.data.real for trial in trials):
        yield "The data is synthetic: the speeds mean something, the distances do not."
    yield from looks.versions(trial.run.manifest for trial in trials)


# Drawing ---------------------------------------------------------------------------------------------------------


def _draw(frame: pd.DataFrame, axes: Axes, *, y_label: str) -> None:
    axes.set(xlabel="Training speed, steps/s (higher is better)", ylabel=y_label)
    fit(axes, "x", frame["steps_per_sec"], frame["steps_per_sec_sd"], log=False)
    fit(axes, "y", frame["value"], frame["value_sd"], log=False)
    for row in frame.itertuples():
        x, y, colour = row.steps_per_sec, row.value, look(row.method).colour
        if row.value_sd is not None:
            axes.errorbar(x, y, row.value_sd, row.steps_per_sec_sd, fmt="none", ecolor=colour, elinewidth=1, zorder=2)
        _mark(axes, x, y, row, f"{row.panel}/{row.label}")


def _draw_relative(frame: pd.DataFrame, axes: Axes, *, letters: dict[str, str]) -> None:
    axes.set(xlabel="Training speed / DiT's (higher is better)", ylabel="FID or FD / DiT's (lower is better)")
    fit(axes, "x", frame["speed_relative_to_dit"], log=False)
    fit(axes, "y", frame["value_relative_to_dit"], log=False)
    axes.axvline(1, color=RULE_COLOUR, linewidth=0.8, linestyle=DASHES, zorder=1)
    axes.axhline(1, color=RULE_COLOUR, linewidth=0.8, linestyle=DASHES, zorder=1)
    measured = set(frame[frame["kind"] == "measured"]["label"])
    for row in frame.itertuples():
        x, y = row.speed_relative_to_dit, row.value_relative_to_dit
        in_key = row.kind == "measured" or row.label not in measured  # filled where any of its points is
        _mark(axes, x, y, row, f"relative/{row.panel}/{row.label}", in_key=in_key)
        if (x, y) != (1, 1):  # every panel's DiT
            axes.annotate(letters[row.panel], (x, y), (5, 3), textcoords="offset points", color=NOTE_COLOUR)


def _mark(axes: Axes, x: float, y: float, row: Any, name: str, *, in_key: bool = True) -> None:
    hollow, label = row.kind == "published", row.label if in_key else None
    shared.marks(axes, [x], [y], row.method, hollow=hollow, linestyle="none", zorder=3, label=label, gid=name)
