"""Pairs of runs: which runs the two arms of a comparison have, and how they are paired by seed.

Arms of one method differ in nothing but what the comparison names: every other knob is equal in both. Arms of two
methods keep the paper's values of the knobs that its ablations vary. A seed without a partner is not used.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from harness.claims.verdict import Claimed, Comparison
from harness.records.looks import FINAL, measured_title, versions
from harness.records.trials import VARIED, Trial, has_knobs, knob_differences

MDT_LITE = measured_title("mdt", {})
Value = Callable[[Trial], float | None]
Published = tuple[float, float]  # the paper's values of the two arms
Group = tuple[str, int, int]  # Trial.variant, training steps, batch: equal for runs that differ in their seed alone


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: a method, the knobs that make it this arm, and where its distance is read."""

    method: str
    knobs: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None  # the paper's, where the two arms differ in them
    guided: bool = False

    def label(self, knobs: Mapping[str, Any] | None = None) -> str:
        """ "SD-DiT (mask ratio 0.5, without L_D)"; `knobs` are those of its runs."""
        title = measured_title(self.method, {"relative_position": True} if knobs is None else knobs)
        words = [worded(name, value) for name, value in self.knobs.items()]
        words += [f"{self.steps} steps"] if self.steps else []
        return title + (f" ({', '.join(words)})" if words else "")

    def but(self, knob: str, value: Any) -> "Arm":
        """The same arm with another value of a knob."""
        return replace(self, knobs={**self.knobs, knob: value})


def arm(method: str, *, steps: int | None = None, guided: bool = False, **knobs: Any) -> Arm:
    return Arm(method, knobs, steps, guided)


@dataclass(frozen=True)
class Side:
    """The runs from which one arm is drawn, and what is read from each of them."""

    arm: Arm
    trials: Sequence[Trial]
    value: Value
    length: int | None = (
        None  # runs of that many training steps are preferred: longer ones may be read before their end
    )

    def read(self, trial: Trial) -> float | None:
        """The trial's value where it is a positive number."""
        value = self.value(trial)
        return float(value) if value is not None and math.isfinite(value) and value > 0 else None

    def groups(self, batch_size: int | None = None) -> dict[Group, dict[int, Trial]]:
        """The arm's runs that have a value, in groups that differ in their seed alone; of one seed, the first run."""
        found: dict[Group, dict[int, Trial]] = defaultdict(dict)
        for trial in self.trials:
            ours = trial.method == self.arm.method and batch_size in (None, trial.batch_size)
            if ours and has_knobs(trial.method, trial.knobs, self.arm.knobs) and self.read(trial) is not None:
                found[trial.variant, trial.steps, trial.batch_size].setdefault(trial.seed, trial)
        return dict(sorted(found.items()))


@dataclass(frozen=True)
class Pairs:
    """Two arms' runs with equal seeds, and the values compared."""

    labels: tuple[str, str]
    trials: tuple[tuple[Trial, Trial], ...]
    values: tuple[tuple[float, float], ...]
    alone: tuple[list[int], list[int]]  # seeds of each arm without a partner

    def comparison(self, quantity: str, claimed: Claimed, published: Published | None = None) -> Comparison:
        """The values of the first arm over those of the second."""
        runs = [trial.run.name for side in zip(*self.trials, strict=True) for trial in side]
        return Comparison(
            subject=self.labels[0],
            other=self.labels[1],
            quantity=quantity,
            ratios=tuple(a / b for a, b in self.values),
            values=self.values,
            claimed=claimed,
            published=published and published[0] / published[1],
            seeds=tuple(trial.seed for trial, _ in self.trials),
            runs=tuple(dict.fromkeys(runs)),
            differences=tuple(
                f"{measured_title(trial.method, trial.knobs)}: {text}"
                for trial in self.trials[0]
                for text in own_differences(trial)
            ),
            notes=tuple(self._notes()),
        )

    def _notes(self) -> Iterator[str]:
        for label, seeds in zip(self.labels, self.alone, strict=True):
            if seeds:
                yield f"{label}: seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))} not used, without a partner."
        yield from mdt_lite(self.labels)
        yield from versions(trial.run.manifest for pair in self.trials for trial in pair)


def paired(a: Side, b: Side, *, batch_size: int | None = None, one_length: bool = False) -> Pairs | None:
    """The two groups of runs with most seeds in common; None where there is no common seed.

    Runs of the methods' own formulations, sampled without guidance, come first. Of equals, those that have the lengths
    asked for. `one_length` asks for equal lengths in both arms.
    """
    best: tuple[int, ...] = ()
    chosen: tuple[dict[int, Trial], dict[int, Trial]] | None = None
    groups_a, groups_b = a.groups(batch_size), b.groups(batch_size)
    for (key_a, ours), (key_b, theirs) in product(groups_a.items(), groups_b.items()):
        (variant_a, length_a, batch_a), (variant_b, length_b, batch_b) = key_a, key_b
        if batch_a != batch_b or (a.arm.method == b.arm.method and variant_a != variant_b):
            continue
        if one_length and length_a != length_b:
            continue
        common = ours.keys() & theirs.keys()
        published = all(trial.as_published for seed in common for trial in (ours[seed], theirs[seed]))
        rank = (published, len(common), (length_a == a.length) + (length_b == b.length), length_a == length_b)
        if common and rank > best:
            best, chosen = rank, (ours, theirs)
    if chosen is None:
        return None
    ours, theirs = chosen
    seeds = sorted(ours.keys() & theirs.keys())
    trials = tuple((ours[seed], theirs[seed]) for seed in seeds)
    values = [(a.read(first), b.read(second)) for first, second in trials]
    return Pairs(
        labels=(a.arm.label(trials[0][0].knobs), b.arm.label(trials[0][1].knobs)),
        trials=trials,
        values=tuple((x, y) for x, y in values if x is not None and y is not None),  # every run of a group has a value
        alone=(sorted(ours.keys() - set(seeds)), sorted(theirs.keys() - set(seeds))),
    )


def distance_at(step: int) -> Value:
    """A trial's distance after that many steps: of its last evaluation, or of a milestone of a longer run."""
    return lambda trial: trial.distance if trial.steps == step else trial.curve.get(step)


def guided_at(step: int, scale: float) -> Value:
    """The same with guidance of that scale, which is measured after the last step only."""
    return lambda trial: trial.guided.get(scale) if trial.steps == step else None


def own_differences(trial: Trial) -> list[str]:
    """How a trial's method differs from the paper's: its knobs but for those that arms choose, and its sampling."""
    if FINAL not in trial.run.result.evaluations:
        return unchosen_differences(trial.method, trial.knobs)
    return [text for word, text in trial.own_differences_from_paper().items() if word not in VARIED]


def unchosen_differences(method: str, knobs: Mapping[str, Any]) -> list[str]:
    """The knobs that differ from the paper's, but for those that arms choose."""
    return [text for name, text in knob_differences(method, knobs).items() if name not in VARIED]


def mdt_lite(labels: Iterable[str]) -> Iterator[str]:
    """The note on MDT-lite, where one of the `labels` names it."""
    if any(MDT_LITE in label for label in labels):
        yield f"{MDT_LITE}: MDT without its relative position bias."


def worded(name: str, value: Any) -> str:
    """A knob of the ablations and its value, as the paper calls them."""
    if name == "discriminate":
        return "with L_D" if value else "without L_D"
    if name == "teacher_sigma":
        return "teacher noise as the student's" if value == "student" else f"teacher noise {value:g}"
    return f"{name.replace('_', ' ')} {value}"
