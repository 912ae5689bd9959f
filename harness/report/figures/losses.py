"""Loss curves: each method's denoising loss beside those of its formulation, and the parts that only one method has.

A loss is a number of its formulation: EDM's and IDDPM's weigh the noise levels differently, so they never share axes.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from harness.records.evidence import Evidence
from harness.records.looks import look, measured_title, order
from harness.records.trials import Setting, Trial
from harness.report.drawing.scales import fit, short
from harness.report.drawing.sheet import DASHES, NOTE_COLOUR, Block, Drawing, Key, Row, compose
from harness.report.figures import measured as shared
from harness.report.figures.figure3 import Spread

NAME = "losses"
TITLE = "Training losses"
SUBHEADING = (
    "Mean over seeds, the band one standard deviation, of runs with the papers' knobs at the budget that most have. "
    "The paper prints no loss."
)

MAX_SETTINGS = 2  # drawn, of up to five blocks each; the others are counted
MAX_POINTS = 150  # of one curve
AXES_HEIGHT = 1.45  # inches
MARKERS = 5  # of a curve


class Part(NamedTuple):
    """A part of a loss as it is logged."""

    quantity: str  # parts of different quantities never share axes
    title: str
    line: str | tuple = "-"


DENOISING, DISCRIMINATIVE = "denoising", "discriminative"
PARTS = {
    "loss/generate": Part(DENOISING, "all patches"),
    "loss/denoise": Part(DENOISING, "the patches it keeps"),
    "loss/full": Part(DENOISING, "whole image"),
    "loss/masked": Part(DENOISING, "masked image", DASHES),
    "loss/cls": Part(DISCRIMINATIVE, "[CLS]"),
    "loss/patches": Part(DISCRIMINATIVE, "patches", DASHES),
    "loss/mae": Part("reconstruction", "patches it hides"),
}
QUANTITIES = {
    DENOISING: "Denoising loss",
    DISCRIMINATIVE: "Discriminative loss: cross-entropy to the teacher, nats",
    "reconstruction": "Reconstruction of hidden patches, before its weight",
}


@dataclass(frozen=True)
class Curve:
    """One part of one method's loss over its seeds."""

    method: str
    title: str
    formulation: str
    name: str  # as it is logged: "loss/cls"
    part: Part
    trials: tuple[Trial, ...]
    steps: tuple[int, ...]
    values: tuple[Spread, ...]
    window: int  # consecutive logged values behind each point

    @property
    def label(self) -> str:
        return self.title if self.name == "loss" else f"{self.title}, {self.part.title}"

    @property
    def axes(self) -> tuple[str, str]:
        """Curves share axes where this is equal: what is measured, and its formulation or, elsewhere, its method."""
        return self.part.quantity, self.formulation if self.part.quantity == DENOISING else self.method


def make(evidence: Evidence) -> Drawing:
    """The losses of each setting's methods with the paper's knobs at its main budget."""
    blocks: list[Block] = []
    rows: list[Row] = []
    drawn, silent, more = 0, 0, 0
    for setting in shared.paper_first(evidence):
        if drawn == MAX_SETTINGS:
            more += 1
            continue
        curves, notes = _curves(setting)
        if curves:
            drawn += 1
            blocks += _blocks(setting, curves, notes)
            rows += [row for curve in curves for row in _rows(setting, curve)]
        else:
            silent += 1
    notes = list(_remarks(evidence, silent, more))
    if not blocks:
        blocks = [Block("No loss is logged yet", lambda grid: None, tuple(notes), rows=0)]
    figure = compose(TITLE, blocks, subheading=SUBHEADING, notes=notes if rows else ())
    told = tuple(dict.fromkeys([*(note for block in blocks for note in block.notes), *notes]))
    return Drawing(NAME, TITLE, _alternative(rows), figure, rows, told)


def _remarks(evidence: Evidence, silent: int, more: int) -> Iterator[str]:
    without = len(evidence.runs) - sum(len(setting.trials) for setting in evidence.settings)
    if not evidence.settings:
        yield "No finished run has an evaluation; `harness demo` or `harness run dit-tiny` trains and logs one."
    if without:
        yield f"{without} finished run{'s have' if without > 1 else ' has'} no distance and no curve here."
    if silent:
        yield f"{silent} further setting{'s' * (silent > 1)} with no loss in metrics.jsonl."
    yield from shared.not_drawn(more)
    if evidence.settings:
        yield "A logged line is the mean over the steps since the line before."
        yield (
            "EDM's and IDDPM's denoising losses are different quantities and stand on different axes. Even within one, "
            "a mean over the kept patches is not one over all."
        )


# Curves ----------------------------------------------------------------------------------------------------------


def _curves(setting: Setting) -> tuple[list[Curve], list[str]]:
    steps, batch_size = setting.budget()
    curves, notes = [], []
    for method in sorted({trial.method for trial in setting.trials}, key=order):
        trials = setting.select(method, steps=steps, batch_size=batch_size)
        if not trials:
            notes.append(f"{look(method).title}: no run with the paper's knobs at {steps} steps of batch {batch_size}.")
            continue
        formulations = Counter(str(trial.run.config["formulation"]) for trial in trials)
        formulation = formulations.most_common(1)[0][0]
        alike = [trial for trial in trials if trial.run.config["formulation"] == formulation]
        if len(alike) < len(trials):
            notes.append(f"{look(method).title}: {len(trials) - len(alike)} runs of another formulation are left out.")
        found = list(_of_method(alike, formulation))
        if not found:
            notes.append(f"{look(method).title}: no loss in metrics.jsonl.")
        curves += found
        damaged = sum(trial.run.damaged_lines for trial in alike)
        if damaged:
            notes.append(f"{look(method).title}: {damaged} damaged lines of metrics.jsonl are left out.")
    return curves, notes


def _of_method(trials: Sequence[Trial], formulation: str) -> Iterator[Curve]:
    """One curve for each known part that is logged; of a method without a known denoising part, the loss itself."""
    logged = {name for trial in trials for line in trial.run.metrics for name in line}
    names = [name for name in PARTS if name in logged]
    if not any(PARTS[name].quantity == DENOISING for name in names):
        names = ["loss", *names]
    for name in names:
        by_trial = {trial.run.name: _logged(trial, name) for trial in trials}
        holding = [trial for trial in trials if by_trial[trial.run.name]]
        if not holding:
            continue
        shared = set.intersection(*(set(by_trial[trial.run.name]) for trial in holding))
        windows = _windows(sorted(shared))
        if not windows:
            continue
        yield Curve(
            method=trials[0].method,
            title=measured_title(trials[0].method, trials[0].knobs),
            formulation=formulation,
            name=name,
            part=PARTS.get(name, Part(DENOISING, "")),
            trials=tuple(holding),
            steps=tuple(steps[-1] for steps in windows),
            values=tuple(
                Spread.of(
                    [math.fsum(by_trial[trial.run.name][step] for step in steps) / len(steps) for trial in holding]
                )
                for steps in windows
            ),
            window=len(windows[0]),
        )


def _logged(trial: Trial, name: str) -> dict[int, float]:
    """The part's finite values by step."""
    found: dict[int, float] = {}
    for line in trial.run.metrics:
        step, value = line.get("step"), line.get(name)
        if type(step) is int and type(value) in (int, float) and value is not None and abs(value) < 1e300:  # no nan
            found[step] = float(value)
    return found


def _windows(steps: Sequence[int]) -> list[Sequence[int]]:
    """The steps in windows of equally many, so few that MAX_POINTS remain; a last one that is not full is left out."""
    size = -(-len(steps) // MAX_POINTS) or 1
    return [steps[first : first + size] for first in range(0, len(steps) - size + 1, size)]


# Drawing ---------------------------------------------------------------------------------------------------------


def _blocks(setting: Setting, curves: Sequence[Curve], notes: Sequence[str]) -> list[Block]:
    groups: dict[tuple[str, str], list[Curve]] = defaultdict(list)
    for curve in curves:
        groups[curve.axes].append(curve)
    ordered = sorted(groups.items(), key=lambda item: (list(QUANTITIES).index(item[0][0]), item[0][1]))
    blocks = [_block(setting, quantity, owner, members) for (quantity, owner), members in ordered]
    last = blocks[-1]
    blocks[-1] = Block(last.title, last.draw, (*last.notes, *notes), last.keys, axes_height=AXES_HEIGHT)
    return blocks


def _block(setting: Setting, quantity: str, owner: str, curves: Sequence[Curve]) -> Block:
    first = curves[0].trials[0]
    owner_title = owner.upper() if quantity == DENOISING else look(owner).title
    title = f"{QUANTITIES[quantity]}, {owner_title}: {setting.title}, batch {first.batch_size}"
    keys = tuple(Key(curve.label, look(curve.method).colour, _marker(curve), line=curve.part.line) for curve in curves)
    guess = _guess(first) if quantity == DISCRIMINATIVE else None
    notes = list(_notes(curves))
    if guess is not None:
        keys += (Key(f"ln {first.knobs['num_prototypes']}", NOTE_COLOUR, line=(0, (1, 1))),)
        ends = ", ".join(f"{curve.part.title} {curve.values[-1].mean / guess:.1%}" for curve in curves)
        notes.append(f"Dotted: ln K = {guess:.3f}, a uniform guess among K prototypes. Last points, of it: {ends}.")
    return Block(title, partial(_draw, curves=curves, guess=guess), tuple(notes), keys, axes_height=AXES_HEIGHT)


def _guess(trial: Trial) -> float | None:
    """The cross-entropy of a uniform guess among the run's K prototypes."""
    count = trial.knobs.get("num_prototypes")
    return math.log(count) if isinstance(count, int) and count > 1 else None


def _notes(curves: Sequence[Curve]) -> Iterator[str]:
    methods: dict[str, Curve] = {}
    for curve in curves:
        methods.setdefault(curve.method, curve)
    counted = ", ".join(f"{curve.title} n = {len(curve.trials)} ({_seeds(curve.trials)})" for curve in methods.values())
    yield f"{counted}."
    window = max(curve.window for curve in curves)
    if window > 1:
        yield f"Smoothed: a point is the mean of {window} logged lines in a row."


def _seeds(trials: Sequence[Trial]) -> str:
    seeds = sorted(trial.seed for trial in trials)
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    gapless = seeds == list(range(seeds[0], seeds[-1] + 1)) and len(seeds) > 2
    return f"seeds {seeds[0]} to {seeds[-1]}" if gapless else f"seeds {', '.join(map(str, seeds))}"


def _draw(grid: Sequence[Axes], *, curves: Sequence[Curve], guess: float | None) -> None:
    (axes,) = grid
    for number, curve in enumerate(curves):
        style = look(curve.method)
        means = [value.mean for value in curve.values]
        every = max(1, len(means) // MARKERS)
        axes.plot(
            curve.steps,
            means,
            color=style.colour,
            linestyle=curve.part.line,
            linewidth=1.2,
            marker=_marker(curve),
            markersize=3.5,
            markeredgewidth=0,
            markevery=(number * every // len(curves), every),  # of curves that coincide, both are seen
            gid=f"{curve.method}/{curve.name}",
            zorder=3,
        )
        if len(curve.trials) > 1:
            low = [value.mean - (value.sd or 0) for value in curve.values]
            high = [value.mean + (value.sd or 0) for value in curve.values]
            axes.fill_between(curve.steps, low, high, color=style.colour, alpha=0.2, linewidth=0, zorder=2)
    axes.set(xlabel="Training steps", ylabel="loss")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: short(step)))
    axes.set_xlim(0, max(step for curve in curves for step in curve.steps))
    fit(axes, "y", [(value.mean, value.sd) for curve in curves for value in curve.values], room=0.05)
    if axes.get_yscale() == "log":
        axes.set_ylabel("loss, log scale")
    else:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # 5.0025 is not 5.003
    if guess is not None:
        axes.axhline(guess, color=NOTE_COLOUR, linestyle=(0, (1, 1)), linewidth=1, zorder=1)


def _marker(curve: Curve) -> str | None:
    """A dashed line is told apart by its dashes."""
    return look(curve.method).marker if curve.part.line == "-" else None


# Words -----------------------------------------------------------------------------------------------------------


def _rows(setting: Setting, curve: Curve) -> Iterator[Row]:
    for step, value in zip(curve.steps, curve.values, strict=True):
        yield {
            "setting": setting.name,
            "setting_title": setting.title,
            "quantity": curve.part.quantity,
            "formulation": curve.formulation,
            "method": curve.method,
            "part": curve.name,
            "step": step,
            "mean": value.mean,
            "sd": value.sd,
            "n": value.n,
            "seeds": " ".join(str(trial.seed) for trial in curve.trials),
            "log_lines_averaged": curve.window,
            "batch_size": curve.trials[0].batch_size,
            "uniform_guess": _guess(curve.trials[0]) if curve.part.quantity == DISCRIMINATIVE else None,
            "runs": " ".join(trial.run.name for trial in curve.trials),
        }


def _alternative(rows: Iterable[Row]) -> str:
    methods = list(dict.fromkeys(look(str(row["method"])).title for row in rows))
    if not methods:
        return "No training losses to show yet"
    return f"Training losses against steps for {', '.join(methods)}, each formulation on its own axes"
