"""SD-DiT Fig. 3 as data: training speed against sample quality, published points and measured points apart.

Measured runs share a panel only under equal conditions (see panels.Sample.conditions). The one view that holds all
panels is free of scale: speed and distance relative to DiT's in the same panel.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from string import ascii_lowercase
from typing import Any, Literal

from harness.config import digest
from harness.errors import unknown
from harness.results import panels, published
from harness.results.methods import REFERENCE, look, measured_title, order
from harness.results.panels import FINAL, Sample
from harness.results.store import LeftOut, Run, load_runs
from harness.results.trials import PAPER_METRIC, metric_title, trial_of

FIGURES = ("3",)


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1 in the denominator) over n seeds; with one seed there is no deviation."""

    mean: float
    sd: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Point:
    """One marker: a method as published, or the runs of one method and setting that differ in their seed alone."""

    kind: Literal["published", "measured"]
    method: str
    title: str
    input_patches: str
    variant: str  # set where a panel has two points of a method that would be labelled alike
    speed: Spread  # training steps per second
    distance: Spread
    runs: tuple[Run, ...]
    formulation: str | None
    sampler: str | None
    num_steps: int | None
    nfe: int | None
    source: str
    quality: str
    differences: dict[str, str]  # from the paper's method and conditions; empty: comparable with the paper
    speed_ratio: float | None = None  # to DiT's mean in the same panel; None where the panel has no single DiT
    distance_ratio: float | None = None

    @property
    def label(self) -> str:
        return f"{self.title} {self.input_patches}{self.variant}"


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

    @property
    def metric_title(self) -> str:
        return metric_title(self.metric)


@dataclass(frozen=True)
class Figure3:
    published: Panel
    measured: tuple[Panel, ...]
    missing: tuple[published.MissingPoint, ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        return (self.published, *self.measured)

    def letter_of(self, run: Run) -> str | None:
        """The letter of the panel that shows `run`, or None where it is left out."""
        holding = (letter for letter, panel in self.lettered() for point in panel.points if run in point.runs)
        return next(holding, None)

    def lettered(self) -> list[tuple[str, Panel]]:
        """The panels with the letters figure and report call them by: (a), (b), ... and (27), (28) after (z)."""
        letters = [f"({letter})" for letter in ascii_lowercase]
        letters += [f"({i + 1})" for i in range(len(letters), len(self.panels))]
        return list(zip(letters, self.panels, strict=False))

    def rows(self) -> list[dict[str, str | int | float | None]]:
        """Every point that is drawn, one flat row each: the CSV behind the figure. Missing points have no row."""
        return [_row(panel, point) for panel in self.panels for point in panel.points]


@dataclass(frozen=True)
class Comparison:
    figures: dict[str, Figure3]
    left_out: tuple[LeftOut, ...]

    def as_json(self) -> dict[str, Any]:
        """The comparison as one JSON document: plain numbers, texts and lists, no NaN."""
        figures = {
            name: {
                "panels": [_panel_as_json(panel) for panel in figure.panels],
                "missing": [asdict(point) for point in figure.missing],
            }
            for name, figure in self.figures.items()
        }
        left_out = [{"path": str(item.path), "reason": item.reason} for item in self.left_out]
        return {"schema_version": 1, "figures": figures, "left_out": left_out}


def compare(roots: list[Path], figures: str) -> Comparison:
    """The published and the measured points of `figures` ("3", or "all" for every figure there is)."""
    if figures not in (*FIGURES, "all"):
        raise unknown("figure", figures, FIGURES)
    return compare_runs(*load_runs(roots))


def compare_runs(runs: Iterable[Run], left_out: Iterable[LeftOut]) -> Comparison:
    """The comparison of runs already loaded; those without a speed or a distance join the ones left out."""
    samples, left_out = [], list(left_out)
    for run in runs:
        found = _sample(run)
        if isinstance(found, Sample):
            samples.append(found)
        else:
            left_out.append(LeftOut(run.path, found))
    points, missing = published.figure3()
    figure = Figure3(_published_panel(points), _measured_panels(samples), tuple(missing))
    return Comparison({"3": figure}, tuple(left_out))


# Measured points -------------------------------------------------------------------------------------------------


def _sample(run: Run) -> Sample | str:
    """The run's point, or why it has none."""
    speed = run.result.steps_per_sec
    if speed is None or not (math.isfinite(speed) and speed > 0):
        return "no steps per second: all its steps were warm-up, so train for more steps"
    trial = trial_of(run)
    if isinstance(trial, str):
        return trial
    return Sample(run, run.result.evaluations[FINAL], trial.metric, speed, trial.distance)


def _measured_panels(samples: Iterable[Sample]) -> tuple[Panel, ...]:
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[digest(sample.conditions)].append(sample)
    found = list(groups.items())
    titles = panels.titles([members for _, members in found])
    made = [_measured_panel(name, title, members) for (name, members), title in zip(found, titles, strict=True)]
    # The panel with most methods first, as it says most.
    return tuple(sorted(made, key=lambda panel: (-len({p.method for p in panel.points}), panel.title)))


def _measured_panel(name: str, title: str, samples: Sequence[Sample]) -> Panel:
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[digest({"method": sample.run.result.method, **sample.settings})].append(sample)
    points = [_measured_point(members, samples) for members in groups.values()]
    points = _relative(sorted(points, key=lambda point: (order(point.method), point.label)))
    return Panel(
        name=f"measured-{name[: panels.SHORT_HASH]}",
        kind="measured",
        title=title,
        metric=samples[0].metric,
        points=tuple(points),
        notes=tuple(_notes(points, samples)),
        differences=panels.differences_from_paper(samples[0]),
    )


def _measured_point(members: Sequence[Sample], panel: Sequence[Sample]) -> Point:
    result, protocol = members[0].run.result, members[0].evaluation.protocol
    alike = [
        other.settings
        for other in panel
        if (other.run.result.method, other.run.result.input_patches) == (result.method, result.input_patches)
    ]
    members = sorted(members, key=lambda sample: sample.run.result.seed)
    return Point(
        kind="measured",
        method=result.method,
        title=measured_title(result.method, members[0].run.config["knobs"]),
        input_patches=result.input_patches,
        variant=panels.describe(members[0].settings, panels.differing(alike)),
        speed=Spread.of([sample.speed for sample in members]),
        distance=Spread.of([sample.distance for sample in members]),
        runs=tuple(sample.run for sample in members),
        formulation=protocol.formulation,
        sampler=protocol.sampler,
        num_steps=protocol.num_steps,
        nfe=protocol.nfe,
        source="measured",
        quality="measured",
        differences=panels.differences_from_paper(members[0]) | panels.own_differences_from_paper(members[0]),
    )


def _notes(points: Sequence[Point], samples: Sequence[Sample]) -> Iterable[str]:
    metric, protocol = samples[0].metric, samples[0].evaluation.protocol
    if metric != PAPER_METRIC:
        yield f"{metric}: Fréchet distance of {protocol.num_images} images, {protocol.features} features; not FID-50K."
    if all(point.speed.n == 1 for point in points):
        yield "n = 1: one seed per point, so no spread is known."
    else:
        counts = ", ".join(f"{point.label} n = {point.speed.n}" for point in points)
        yield f"Mean and standard deviation over n seeds: {counts}."
    by_sampling: dict[str, list[str]] = defaultdict(list)
    for point in points:
        how = f"{point.formulation}, {point.sampler} in {point.num_steps} steps ({point.nfe} network evaluations)"
        by_sampling[how].append(point.title)
    if len(by_sampling) > 1:
        each = "; ".join(f"{', '.join(dict.fromkeys(titles))}: {how}" for how, titles in by_sampling.items())
        yield f"Formulation and sampler differ, each method has its own. {each}."
    if any(point.title == "MDT-lite" for point in points):
        yield "MDT-lite: MDT without its relative position bias."
    if not all(sample.run.manifest.data.real for sample in samples):
        yield "The data is synthetic: the speeds mean something, the distances do not."
    for what, versions in (
        (
            "versions of the code",
            {(sample.run.manifest.git_commit, sample.run.manifest.git_diff_sha256) for sample in samples},
        ),
        ("versions of torch", {sample.run.manifest.packages.get("torch") for sample in samples}),
    ):
        if len(versions) > 1:
            yield f"The runs come from {len(versions)} {what}."


# Published points and relative values ----------------------------------------------------------------------------


def _published_panel(points: Iterable[published.PublishedPoint]) -> Panel:
    made = [
        Point(
            kind="published",
            method=point.method,
            title=look(point.method).title,
            input_patches=point.input_patches,
            variant="",
            speed=Spread.of([point.steps_per_sec]),
            distance=Spread.of([point.fid50k]),
            runs=(),
            formulation=None,
            sampler=None,
            num_steps=None,
            nfe=None,
            source=point.source,
            quality=point.quality,
            differences={},
        )
        for point in sorted(points, key=lambda point: order(point.method))
    ]
    title = "Published (8 x A100, ImageNet 256, FID-50K)"
    notes = ("Size S/2, 400k steps, batch 256. Seeds and spread are not stated.",)
    return Panel("published", "published", title, PAPER_METRIC, tuple(_relative(made)), notes, {})


def _relative(points: Sequence[Point]) -> list[Point]:
    """The points with their ratios to the panel's DiT. Without exactly one DiT to divide by they have none."""
    reference = [point for point in points if point.method == REFERENCE]
    if len(reference) != 1 or reference[0].distance.mean <= 0:
        return list(points)
    speed, distance = reference[0].speed.mean, reference[0].distance.mean
    return [
        replace(point, speed_ratio=point.speed.mean / speed, distance_ratio=point.distance.mean / distance)
        for point in points
    ]


def _row(panel: Panel, point: Point) -> dict[str, str | int | float | None]:
    return {
        "panel": panel.name,
        "panel_title": panel.title,
        "kind": point.kind,
        "method": point.method,
        "label": point.label,
        "input_patches": point.input_patches,
        "steps_per_sec": point.speed.mean,
        "steps_per_sec_sd": point.speed.sd,
        "metric": panel.metric,
        "value": point.distance.mean,
        "value_sd": point.distance.sd,
        "n": point.speed.n if point.kind == "measured" else None,
        "seeds": " ".join(str(run.result.seed) for run in point.runs),
        "speed_relative_to_dit": point.speed_ratio,
        "value_relative_to_dit": point.distance_ratio,
        "formulation": point.formulation,
        "sampler": point.sampler,
        "num_steps": point.num_steps,
        "nfe": point.nfe,
        "comparable_with_paper": "no" if point.differences else "yes",
        "source": point.source,
        "quality": point.quality,
        "runs": " ".join(run.name for run in point.runs),
    }


def _panel_as_json(panel: Panel) -> dict[str, Any]:
    document = {
        "name": panel.name,
        "kind": panel.kind,
        "title": panel.title,
        "metric": panel.metric,
        "notes": list(panel.notes),
    }
    shared = {"panel", "panel_title", "kind", "metric"}
    points = [
        {key: value for key, value in _row(panel, point).items() if key not in shared}
        | {
            "seeds": [run.result.seed for run in point.runs],
            "runs": [str(run.path) for run in point.runs],
            "comparable_with_paper": not point.differences,
            "differences_from_paper": list(point.differences.values()),
        }
        for point in panel.points
    ]
    return document | {"points": points}
