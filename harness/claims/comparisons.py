"""The two arms of a comparison found among trials, and paired by seed.

Arms of one method differ in nothing but what the comparison names: every other knob is equal in both. Arms of two
methods keep the paper's values of the knobs that its ablations vary. A seed without a partner is not used.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import Any

from harness.claims.verdicts import Claimed, Comparison
from harness.records.looks import measured_title
from harness.records.panels import FINAL, PAPER_KNOBS
from harness.records.trials import VARIED, Trial, has_knobs

MDT_LITE = measured_title("mdt", {})
WITHOUT_POSITIONS = f"{MDT_LITE}: MDT without its relative position bias."
Value = Callable[[Trial], float | None]
Published = tuple[float, float]  # the paper's values of the two sides


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


def arm(method: str, *, steps: int | None = None, guided: bool = False, **knobs: Any) -> Arm:
    return Arm(method, knobs, steps, guided)


@dataclass(frozen=True)
class Group:
    """Runs of an arm that differ in their seed alone, by seed."""

    rest: str  # Trial.variant
    length: int  # training steps of the runs; they may be read before their end
    batch_size: int
    trials: dict[int, Trial]


class Pool:
    """Trials from which arms are drawn, each with what else makes it unlike others, taken once."""

    def __init__(self, trials: Iterable[Trial]):
        self._of: dict[str, list[tuple[Trial, str]]] = defaultdict(list)
        for trial in trials:
            self._of[trial.method].append((trial, trial.variant))

    def groups(self, of: Arm, value: Value, *, batch_size: int | None = None, length: int | None = None) -> list[Group]:
        """The arm's runs for which there is a `value`, in groups, one run a seed: the first by name."""
        found: dict[tuple[str, int, int], dict[int, Trial]] = defaultdict(dict)
        for trial, rest in self._of.get(of.method, ()):
            if batch_size not in (None, trial.batch_size) or length not in (None, trial.steps):
                continue
            if not has_knobs(of.method, trial.knobs, of.knobs):
                continue
            number = value(trial)
            if number is not None and math.isfinite(number) and number > 0:
                found[rest, trial.steps, trial.batch_size].setdefault(trial.seed, trial)
        return [Group(*key, dict(sorted(trials.items()))) for key, trials in sorted(found.items())]


@dataclass(frozen=True)
class Pairs:
    """Two arms' runs with equal seeds, and the values compared."""

    a: Arm
    b: Arm
    trials_a: tuple[Trial, ...]
    trials_b: tuple[Trial, ...]
    values_a: tuple[float, ...]
    values_b: tuple[float, ...]
    alone_a: tuple[int, ...]  # seeds without a partner
    alone_b: tuple[int, ...]

    @property
    def n(self) -> int:
        return len(self.trials_a)

    @property
    def labels(self) -> tuple[str, str]:
        return self.a.label(self.trials_a[0].knobs), self.b.label(self.trials_b[0].knobs)

    def notes(self) -> Iterator[str]:
        for label, seeds in zip(self.labels, (self.alone_a, self.alone_b), strict=True):
            if seeds:
                yield f"{label}: seed{_s(seeds)} {', '.join(map(str, seeds))} not used, without a partner."
        if MDT_LITE in self.labels[0] + self.labels[1]:
            yield WITHOUT_POSITIONS
        runs = [trial.run for trial in (*self.trials_a, *self.trials_b)]
        commits = {(run.manifest.git_commit, run.manifest.git_diff_sha256) for run in runs}
        torches = {run.manifest.packages.get("torch") for run in runs}
        for what, found in (("the code", commits), ("torch", torches)):
            if len(found) > 1:
                yield f"The runs come from {len(found)} versions of {what}."

    def comparison(
        self, quantity: str, claimed: Claimed, published: Published | None = None, **more: Any
    ) -> Comparison:
        """As a Comparison; `more` are its other fields, of which notes and differences are added to the pairs' own."""
        subject, other = self.labels
        pairs = [*self.trials_a, *self.trials_b]
        notes, differences = more.pop("notes", ()), more.pop("differences", ())
        return Comparison(
            subject=more.pop("subject", subject),
            other=more.pop("other", other),
            quantity=quantity,
            ratios=tuple(x / y for x, y in zip(self.values_a, self.values_b, strict=True)),
            claimed=claimed,
            published=published and published[0] / published[1],
            seeds=tuple(trial.seed for trial in self.trials_a),
            runs=tuple(dict.fromkeys(trial.run.name for trial in pairs)),
            differences=(*differences, *self._own_differences()),
            notes=(*notes, *self.notes()),
            **more,
        )

    def _own_differences(self) -> Iterator[str]:
        """From the paper's methods: knobs and sampler, those that the arms name left out."""
        for trial in (self.trials_a[0], self.trials_b[0]):
            for text in own_differences(trial):
                yield f"{measured_title(trial.method, trial.knobs)}: {text}"


def paired(
    pool_a: Pool,
    a: Arm,
    pool_b: Pool,
    b: Arm,
    value_a: Value,
    value_b: Value,
    *,
    batch_size: int | None = None,
    length_a: int | None = None,
    length_b: int | None = None,
    one_length: bool = False,
) -> Pairs | None:
    """The two groups of runs with most seeds in common; None where there is no common seed.

    Those of the methods' own formulations, sampled without guidance, come first. Of equals, those whose runs have the
    lengths asked for. `one_length` asks for equal lengths in both arms.
    """
    best: tuple[int, ...] = ()
    chosen: tuple[Group, Group] | None = None
    groups_b = pool_b.groups(b, value_b, batch_size=batch_size)
    for ours, theirs in product(pool_a.groups(a, value_a, batch_size=batch_size), groups_b):
        if a.method == b.method and ours.rest != theirs.rest:
            continue
        if ours.batch_size != theirs.batch_size or (one_length and ours.length != theirs.length):
            continue
        common = ours.trials.keys() & theirs.trials.keys()
        published = all(trial.as_published for seed in common for trial in (ours.trials[seed], theirs.trials[seed]))
        rank = (
            published,
            len(common),
            (ours.length == length_a) + (theirs.length == length_b),
            ours.length == theirs.length,
        )
        if common and rank > best:
            best, chosen = rank, (ours, theirs)
    if chosen is None:
        return None
    ours, theirs = chosen
    seeds = sorted(ours.trials.keys() & theirs.trials.keys())
    trials_a, trials_b = tuple(ours.trials[s] for s in seeds), tuple(theirs.trials[s] for s in seeds)
    return Pairs(
        a,
        b,
        trials_a,
        trials_b,
        tuple(known(value_a(trial)) for trial in trials_a),
        tuple(known(value_b(trial)) for trial in trials_b),
        tuple(sorted(ours.trials.keys() - set(seeds))),
        tuple(sorted(theirs.trials.keys() - set(seeds))),
    )


def known(value: float | None) -> float:
    """A value of a trial that was taken into a group because it has one."""
    assert value is not None, "a group holds trials that have the value alone"
    return float(value)


def distance_at(step: int | None) -> Value:
    """A trial's distance after that many steps: of its last evaluation, or of a milestone of a longer run."""
    return lambda trial: trial.distance if trial.steps == step else trial.curve.get(step or 0)


def guided_at(step: int, scale: float) -> Value:
    """The same with guidance of that scale, which is measured after the last step only."""
    return lambda trial: trial.guided.get(scale) if trial.steps == step else None


def own_differences(trial: Trial) -> list[str]:
    """How a trial's method differs from the paper's: its sampler, and its knobs but for those that arms choose."""
    knobs = knob_differences(trial.method, trial.knobs)
    if FINAL not in trial.run.result.evaluations:
        return knobs
    return knobs + [text for word, text in trial.own_differences_from_paper().items() if word not in trial.knobs]


def knob_differences(method: str, knobs: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} {knobs[name]} instead of {printed}"
        for name, printed in PAPER_KNOBS.get(method, {}).items()
        if name not in VARIED and name in knobs and knobs[name] != printed
    ]


def steps_to_reach(curve: Mapping[int, float], distance: float) -> tuple[str, float]:
    """After how many steps a curve first comes down to `distance`: ("at", steps), ("before", first), ("after", last).

    Between two evaluated steps, the logarithm of the distance is taken as linear in the logarithm of the step.
    """
    steps = sorted(curve)
    if curve[steps[0]] <= distance:
        return "before", float(steps[0])
    for before, after in pairwise(steps):
        high, low = curve[before], curve[after]
        if low <= distance:
            share = math.log(high / distance) / math.log(high / low)
            return "at", before * (after / before) ** share
    return "after", float(steps[-1])


def worded(name: str, value: Any) -> str:
    """A knob of the ablations and its value, as the paper calls them."""
    if name == "discriminate":
        return "with L_D" if value else "without L_D"
    if name == "teacher_sigma":
        return "teacher noise as the student's" if value == "student" else f"teacher noise {value:g}"
    return f"{name.replace('_', ' ')} {value}"


def _s(items: Iterable[Any]) -> str:
    return "s" if len(tuple(items)) != 1 else ""
