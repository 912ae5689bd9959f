"""Which runs the two arms of a comparison have.

Arms of one method differ in nothing but what the comparison names: every other knob is equal in both. Arms of two
methods keep the paper's values of the knobs that its ablations vary. All seeds of both arms are used: runs are
independent, and equal seeds are no pairs (harness/claims/intervals.py).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from harness.claims.comparison import Claimed, Comparison, Values
from harness.records.looks import FINAL, measured_title, versions
from harness.records.trials import VARIED, Trial, has_knobs, knob_differences

MDT_LITE = measured_title("mdt", {})
Value = Callable[[Trial], float | None]
Published = tuple[float, float]  # the paper's values of the two arms
Group = tuple[str, int, int]  # variant but for the arm's knobs, steps, batch: equal for runs that differ in their seed


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

    def read_all(self, trials: Iterable[Trial]) -> tuple[float, ...]:
        return tuple(value for trial in trials if (value := self.read(trial)) is not None)

    def groups(self, batch_size: int | None = None) -> dict[Group, dict[int, Trial]]:
        """The arm's runs that have a value, in groups that differ in their seed alone; of one seed, the first run."""
        found: dict[Group, dict[int, Trial]] = defaultdict(dict)
        for trial in self.trials:
            ours = trial.method == self.arm.method and batch_size in (None, trial.batch_size)
            if ours and has_knobs(trial.method, trial.knobs, self.arm.knobs) and self.read(trial) is not None:
                variant = trial.variant_but(self.arm.knobs)
                found[variant, trial.steps, trial.batch_size].setdefault(trial.seed, trial)
        return dict(sorted(found.items()))


@dataclass(frozen=True)
class TwoArms:
    """The runs of two arms, and the values compared."""

    labels: tuple[str, str]
    trials: tuple[tuple[Trial, ...], tuple[Trial, ...]]
    values: Values

    def comparison(self, quantity: str, claimed: Claimed, published: Published | None = None) -> Comparison:
        """The values of the first arm over those of the second."""
        a, b = self.trials
        return Comparison(
            subject=self.labels[0],
            other=self.labels[1],
            quantity=quantity,
            values=self.values,
            claimed=claimed,
            unit="network" if [trial.run for trial in a] == [trial.run for trial in b] else "run",
            published=published and published[0] / published[1],
            seeds=tuple(sorted({trial.seed for trial in (*a, *b)})),
            names=(tuple(trial.run.name for trial in a), tuple(trial.run.name for trial in b)),
            differences=tuple(
                f"{measured_title(trial.method, trial.knobs)}: {text}"
                for trial in (a[0], b[0])
                for text in own_differences(trial)
            ),
            notes=(*mdt_lite(self.labels), *versions(trial.run.manifest for trial in (*a, *b))),
        )


def two_arms(a: Side, b: Side, *, batch_size: int | None = None, one_length: bool = False) -> TwoArms | None:
    """The two groups of runs of which the smaller has most; None where an arm has none.

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
        published = all(trial.as_published for trial in (*ours.values(), *theirs.values()))
        lengths = (length_a == a.length) + (length_b == b.length)
        sizes = sorted((len(ours), len(theirs)))
        rank = (published, sizes[0], lengths, length_a == length_b, sizes[1])
        if rank > best:
            best, chosen = rank, (ours, theirs)
    if chosen is None:
        return None
    of_a, of_b = (tuple(group[seed] for seed in sorted(group)) for group in chosen)
    labels = (a.arm.label(of_a[0].knobs), b.arm.label(of_b[0].knobs))
    return TwoArms(labels, (of_a, of_b), (a.read_all(of_a), b.read_all(of_b)))


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
