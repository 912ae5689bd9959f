"""SD-DiT Fig. 3 as data: training speed against trial quality, published points and measured points apart.

Measured runs share a panel only under equal conditions (see trials.Trial.conditions). The last view shows all panels
without a scale: speed and distance relative to DiT's in the same panel. The figure draws each method as its paper has
it. Points of the ablations, and panels of another budget, are in the CSV and are not drawn.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import PurePath
from typing import Any, Literal

from harness.papers.sddit import numbers as published
from harness.papers.sddit.numbers import MissingPoint
from harness.recipes.naming import digest
from harness.records import panels
from harness.records.looks import REFERENCE, look, measured_title, order
from harness.records.panels import LONGEST_NAME, Scalar
from harness.records.store import LeftOut, Run
from harness.records.trials import PAPER_METRIC, Spread, Trial, has_knobs, metric_title, trial_of
from harness.reporting.figures import measured as shared

BUDGET = ("protocol.steps", "protocol.batch_size")
PIPELINES = {"cached": "no VAE in the step (cached)", "online-vae": "VAE in the step (online-vae)"}
WITHOUT_SPEED = "no steps per second: all its steps were warm-up, so train for more steps"
NOT_IN_THE_CSV = ("title", "runs", "differences", "speed_ratio", "distance_ratio")
MOST_PANELS, MOST_POINTS = 4, 12  # that a reader can take in, measured panels and points of one


@dataclass(frozen=True)
class Point:
    """One marker and line of the CSV: a method as published, or its runs in one setting that differ in the seed alone.

    A deviation (sd) and a count of seeds (n) are None where they are not known. The ratios are to DiT's mean in the
    same panel, and None where the panel has no single DiT.
    """

    kind: Literal["published", "measured"]
    method: str
    title: str
    label: str  # unique within the panel
    input_patches: str
    steps_per_sec: float
    steps_per_sec_sd: float | None
    value: float  # the distance
    value_sd: float | None
    n: int | None
    source: str
    quality: str
    runs: tuple[Run, ...] = ()
    speed_ratio: float | None = None
    distance_ratio: float | None = None
    formulation: str | None = None
    sampler: str | None = None
    num_steps: int | None = None
    nfe: int | None = None
    differences: Mapping[str, str] = field(default_factory=dict)  # from the paper; empty: comparable with it
    drawn: bool = True


@dataclass(frozen=True)
class Panel:
    """Points that may be compared by their absolute values."""

    name: str
    kind: Literal["published", "measured"]
    title: str
    metric: str
    points: tuple[Point, ...]
    notes: tuple[str, ...]
    differences: dict[str, str]  # the part of its points' differences that all of them share
    drawn: bool = True

    @property
    def drawn_points(self) -> tuple[Point, ...]:
        return tuple(point for point in self.points if point.drawn)

    @property
    def metric_title(self) -> str:
        return metric_title(self.metric)


@dataclass(frozen=True)
class Figure3:
    published: Panel
    measured: tuple[Panel, ...]
    missing: tuple[MissingPoint, ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        return (self.published, *self.measured)

    def drawn(self) -> list[tuple[str, Panel]]:
        """The panels of the figure, with their letters: they come first."""
        return [(letter, panel) for letter, panel in self.lettered() if panel.drawn]

    def lettered(self) -> list[tuple[str, Panel]]:
        """The panels with the letters by which figure and report call them."""
        return [(shared.letter(i), panel) for i, panel in enumerate(self.panels)]

    def rows(self) -> list[dict[str, Any]]:
        """Every point, one flat row each, whether it is drawn or not: the CSV. Missing points have no row."""
        return [row_of(panel, point) for panel in self.panels for point in panel.points]


def figure3(runs: Iterable[Run]) -> tuple[Figure3, list[LeftOut]]:
    """Fig. 3 of these runs beside the published one, and the runs without a speed or a distance, each with why."""
    trials, left_out = trials_of(runs)
    points, missing = published.figure3()
    return Figure3(_published_panel(points), _measured_panels(trials), tuple(missing)), left_out


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


# Measured points -------------------------------------------------------------------------------------------------


def _measured_panels(trials: Iterable[Trial]) -> tuple[Panel, ...]:
    groups: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        groups[digest(trial.conditions)].append(trial)
    found = list(groups.items())
    titles = _titles([members[0] for _, members in found])
    made = [_measured_panel(name, title, members) for (name, members), title in zip(found, titles, strict=True)]
    aside = _other_budgets([members for _, members in found])
    made = [replace(panel, drawn=i not in aside) for i, panel in enumerate(made)]
    # The panel with most methods first, as it says most.
    made.sort(key=lambda panel: (not panel.drawn, -len({p.method for p in panel.points}), panel.title, panel.name))
    return tuple(replace(panel, drawn=panel.drawn and i < MOST_PANELS) for i, panel in enumerate(made))


def _other_budgets(groups: Sequence[Sequence[Trial]]) -> set[int]:
    """Which of these panels differ from another one in steps or batch alone and add no method to it.

    The other is the one with most methods, then most runs, then the smaller budget.
    """
    alike: dict[str, list[int]] = defaultdict(list)
    for i, members in enumerate(groups):
        rest = {key: value for key, value in members[0].conditions.items() if key not in BUDGET}
        alike[digest(rest)].append(i)
    methods = [{trial.run.result.method for trial in members} for members in groups]
    aside: set[int] = set()
    for siblings in alike.values():
        budgets = {i: tuple(groups[i][0].conditions[name] for name in BUDGET) for i in siblings}
        main = min(siblings, key=lambda i: (-len(methods[i]), -len(groups[i]), budgets[i]))
        aside |= {i for i in siblings if i != main and methods[i] <= methods[main]}
    return aside


def _titles(trials: Sequence[Trial]) -> list[str]:
    """A title for each panel, given one trial of it; what else differs is added where two would be alike."""
    conditions, plain = [trial.conditions for trial in trials], [_plain_title(trial) for trial in trials]
    alike: dict[str, list[dict[str, Scalar]]] = defaultdict(list)
    for own, title in zip(conditions, plain, strict=True):
        alike[title].append(own)
    keys = {title: panels.differing(others) for title, others in alike.items()}
    return [title + panels.describe(own, keys[title]) for own, title in zip(conditions, plain, strict=True)]


def _plain_title(trial: Trial) -> str:
    protocol, manifest, result = trial.run.config["protocol"], trial.run.manifest, trial.run.result
    data = PurePath(manifest.data.name).name[:LONGEST_NAME]  # a folder of images is named by its last part
    parts = [data, result.size, f"{protocol.get('steps')} steps", f"batch {protocol.get('batch_size')}"]
    parts += [str(protocol["precision"])] if "precision" in protocol else []
    pipeline = str(protocol.get("pipeline", ""))
    parts += [PIPELINES.get(pipeline, pipeline)] if pipeline else []
    processes = f", {result.world_size} processes" if result.world_size > 1 else ""
    return f"Measured: {', '.join(parts)} — {panels.device_title(result.device)}{processes}"


def _measured_panel(name: str, title: str, trials: Sequence[Trial]) -> Panel:
    by_point: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        by_point[digest({"method": trial.run.result.method, **trial.settings})].append(trial)
    groups = list(by_point.values())
    chosen = _as_published(groups)
    points = [_measured_point(members, chosen) for members in chosen]
    points += [
        replace(_measured_point(members, groups), drawn=False)
        for members in groups
        if not any(members is group for group in chosen)
    ]
    points = _relative(sorted(points, key=lambda point: (not point.drawn, order(point.method), point.label)))
    return Panel(
        name=f"measured-{name[: panels.SHORT_HASH]}",
        kind="measured",
        title=title,
        metric=trials[0].metric,
        points=tuple(points),
        notes=tuple(_notes(points, trials)),
        differences=trials[0].differences_from_paper(),
    )


def _as_published(groups: Sequence[list[Trial]]) -> list[list[Trial]]:
    """Of each method the points with the paper's values of what its ablations vary; all of them where none has those.

    Of too many, those with most seeds, every method in turn.
    """
    ranked = []
    for method in {group[0].run.result.method for group in groups}:
        own = [group for group in groups if group[0].run.result.method == method]
        own = [group for group in own if has_knobs(method, group[0].run.config["knobs"])] or own
        own.sort(key=lambda group: (-len(group), group[0].run.name))
        ranked += [(rank, order(method), group) for rank, group in enumerate(own)]
    return [group for *_, group in sorted(ranked, key=lambda item: item[:2])[:MOST_POINTS]]


def _measured_point(members: Sequence[Trial], among: Sequence[Sequence[Trial]]) -> Point:
    """The point of runs that differ in their seed alone. Its label differs from those of the others `among` them."""
    result, protocol = members[0].run.result, members[0].evaluation.protocol
    named = (result.method, result.input_patches)
    alike = [
        others[0].settings
        for others in among
        if (others[0].run.result.method, others[0].run.result.input_patches) == named
    ]
    members = sorted(members, key=lambda trial: trial.seed)
    title = measured_title(result.method, members[0].knobs)
    variant = panels.describe(members[0].settings, panels.differing(alike))
    speed = Spread.of([trial.speed or math.nan for trial in members])
    distance = Spread.of([trial.distance for trial in members])
    return Point(
        kind="measured",
        method=result.method,
        title=title,
        label=f"{title} {result.input_patches}{variant}",
        input_patches=result.input_patches,
        steps_per_sec=speed.mean,
        steps_per_sec_sd=speed.sd,
        value=distance.mean,
        value_sd=distance.sd,
        n=distance.n,
        source="measured",
        quality="measured",
        runs=tuple(trial.run for trial in members),
        formulation=protocol.formulation,
        sampler=protocol.sampler,
        num_steps=protocol.num_steps,
        nfe=protocol.nfe,
        differences=members[0].differences_from_paper() | members[0].own_differences_from_paper(),
    )


def _notes(points: Sequence[Point], trials: Sequence[Trial]) -> Iterable[str]:
    metric, protocol = trials[0].metric, trials[0].evaluation.protocol
    if metric != PAPER_METRIC:
        yield f"{metric}: Fréchet distance of {protocol.num_images} images, {protocol.features} features; not FID-50K."
    shown, num_aside = [point for point in points if point.drawn], sum(not point.drawn for point in points)
    yield shared.counted({point.label: point.n or 1 for point in shown})
    if num_aside:
        what = f"{num_aside} more points of these methods, with other knobs (Fig. 5, 6, Table 3)"
        yield f"Not drawn but in the CSV: {what}."
    by_sampling: dict[str, list[str]] = defaultdict(list)
    for point in shown:
        how = f"{point.formulation}, {point.sampler} in {point.num_steps} steps ({point.nfe} network evaluations)"
        by_sampling[how].append(point.title)
    if len(by_sampling) > 1:
        each = "; ".join(f"{', '.join(dict.fromkeys(titles))}: {how}" for how, titles in by_sampling.items())
        yield f"Formulation and sampler differ, each method has its own. {each}."
    if any(point.title == "MDT-lite" for point in shown):
        yield shared.MDT_LITE
    if not all(trial.run.manifest.data.real for trial in trials):
        yield "The data is synthetic: the speeds mean something, the distances do not."
    commits = {(trial.run.manifest.git_commit, trial.run.manifest.git_diff_sha256) for trial in trials}
    torches = {trial.run.manifest.packages.get("torch") for trial in trials}
    for what, versions in (("the code", commits), ("torch", torches)):
        if len(versions) > 1:
            yield f"The runs come from {len(versions)} versions of {what}."


# Published points and relative values ----------------------------------------------------------------------------


def _published_panel(points: Iterable[published.PublishedPoint]) -> Panel:
    made = [
        Point(
            kind="published",
            method=point.method,
            title=look(point.method).title,
            label=f"{look(point.method).title} {point.input_patches}",
            input_patches=point.input_patches,
            steps_per_sec=point.steps_per_sec,
            steps_per_sec_sd=None,
            value=point.fid50k,
            value_sd=None,
            n=None,
            source=point.source,
            quality=point.quality,
        )
        for point in sorted(points, key=lambda point: order(point.method))
    ]
    title = "Published (8 x A100, ImageNet 256, FID-50K)"
    notes = ("Size S/2, 400k steps, batch 256. Seeds and spread are not stated.",)
    return Panel("published", "published", title, PAPER_METRIC, tuple(_relative(made)), notes, {})


def _relative(points: Sequence[Point]) -> list[Point]:
    """The points with their ratios to the panel's DiT. Without exactly one DiT to divide by they have none."""
    reference = [point for point in points if point.method == REFERENCE and point.drawn]
    if len(reference) != 1 or reference[0].value <= 0:
        return list(points)
    speed, distance = reference[0].steps_per_sec, reference[0].value
    return [
        replace(point, speed_ratio=point.steps_per_sec / speed, distance_ratio=point.value / distance)
        for point in points
    ]


def row_of(panel: Panel, point: Point) -> dict[str, Any]:
    """One line of the CSV."""
    own = {each.name: getattr(point, each.name) for each in fields(point) if each.name not in NOT_IN_THE_CSV}
    return {
        "panel": panel.name,
        "panel_title": panel.title,
        "metric": panel.metric,
        **own,
        "speed_relative_to_dit": point.speed_ratio,
        "value_relative_to_dit": point.distance_ratio,
        "drawn": "yes" if panel.drawn and point.drawn else "no",
        "comparable_with_paper": "no" if point.differences else "yes",
        "seeds": " ".join(str(run.result.seed) for run in point.runs),
        "runs": " ".join(run.name for run in point.runs),
    }
