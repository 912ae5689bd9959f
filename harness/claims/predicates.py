"""What a claim may ask of a setting: the few predicates from which claims.py is made.

A predicate looks at one place, a setting read after some number of steps at one batch, and returns the comparisons it
found there and what it lacks.
"""

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.claims.comparisons import Arm, Pairs, distance_at, guided_at, known, paired, steps_to_reach, worded
from harness.claims.contests import LATENTS, Contest, Pipelines
from harness.claims.places import Found, Place, Published
from harness.records.trials import Trial

CUSTOMARY_GUIDANCE = 1.5  # DiT's and MaskDiT's
LATER = 1.1  # the paper's 7000k are 1.08 times five times 1300k


@dataclass(frozen=True)
class Lower:
    """The distance of `a` is lower than that of `b`, at equal seeds, steps and batch."""

    a: Arm
    b: Arm
    published: Published | None = None

    @property
    def arms(self) -> tuple[Arm, ...]:
        return self.a, self.b

    def __call__(self, place: Place) -> Found:
        pairs = place.pairs(self.a, self.b)
        if pairs is None:
            return Found(lacking=(place.no_pair(self.a, self.b),))
        return Found((pairs.comparison(place.quantity, "below", self.published),))


@dataclass(frozen=True)
class Comparable:
    """The two distances differ by at most `within` of one another."""

    a: Arm
    b: Arm
    within: float
    published: Published | None = None

    @property
    def arms(self) -> tuple[Arm, ...]:
        return self.a, self.b

    def __call__(self, place: Place) -> Found:
        pairs = place.pairs(self.a, self.b)
        if pairs is None:
            return Found(lacking=(place.no_pair(self.a, self.b, "after the steps that the paper compares"),))
        return Found((pairs.comparison(place.quantity, "within", self.published, bound=1 + self.within),))


@dataclass(frozen=True)
class Best:
    """Of all measured values of a number knob, `arm`'s has the lowest distance; values on both sides are needed.

    `expected` are the values whose absence is told, and `published` the paper's distances by value.
    """

    arm: Arm
    knob: str
    expected: tuple[float, ...]
    published: Mapping[float, float] = field(default_factory=dict)
    least: bool = False  # the best is the least value there can be: no smaller one is needed

    @property
    def arms(self) -> tuple[Arm, ...]:
        return (self.arm,)

    def __call__(self, place: Place) -> Found:
        best = self.arm.knobs[self.knob]
        measured = [v for v in place.setting.values_of(self.arm.method, self.knob) if not isinstance(v, str)]
        comparisons, values = [], []
        for value in measured:
            other = Arm(self.arm.method, {**self.arm.knobs, self.knob: value})
            pairs = place.pairs(self.arm, other) if value != best else None
            if pairs is not None:
                values.append(value)
                comparisons.append(pairs.comparison(place.quantity, "below", _both(self.published, best, value)))
        sides = {"larger": any(value > best for value in values)}
        if not self.least:
            sides["smaller"] = any(value < best for value in values)
        lacking = [f"no {side} value beside {self.arm.label()}" for side, there in sides.items() if not there]
        missing = [worded(self.knob, value) for value in self.expected if value not in values]
        return Found(tuple(comparisons), tuple(lacking), tuple(missing))


@dataclass(frozen=True)
class WorseThanSmaller:
    """Each of `values` of a knob has a higher distance than every smaller measured value that is not one of them."""

    arm: Arm
    knob: str
    values: tuple[float, ...]
    published: Mapping[float, float] = field(default_factory=dict)

    @property
    def arms(self) -> tuple[Arm, ...]:
        return (self.arm,)

    def __call__(self, place: Place) -> Found:
        measured = [v for v in place.setting.values_of(self.arm.method, self.knob) if not isinstance(v, str)]
        comparisons, lacking = [], []
        for value in self.values:
            worse, found = Arm(self.arm.method, {**self.arm.knobs, self.knob: value}), 0
            for smaller in (v for v in measured if v < min(self.values)):
                pairs = place.pairs(Arm(self.arm.method, {**self.arm.knobs, self.knob: smaller}), worse)
                if pairs is not None:
                    comparisons.append(pairs.comparison(place.quantity, "below", _both(self.published, smaller, value)))
                    found += 1
            if not found:
                lacking.append(place.no_pair(self.arm, worse))
        return Found(tuple(comparisons), tuple(lacking))


@dataclass(frozen=True)
class AtEveryStep:
    """The distance of `a` is lower than that of each other arm after every number of steps at which both were read."""

    a: Arm
    others: tuple[Arm, ...]
    published: Mapping[tuple[str, int], Published] = field(default_factory=dict)  # by method and step

    @property
    def arms(self) -> tuple[Arm, ...]:
        return (self.a, *self.others)

    def __call__(self, place: Place) -> Found:
        comparisons, lacking, read = [], [], set()
        for other in self.others:
            steps = _steps(place.setting.trials, self.a.method) & _steps(place.setting.trials, other.method)
            found = 0
            for step in sorted(steps):
                pairs = place.pairs(self.a, other, steps=(step, step), length_a=place.steps, length_b=place.steps)
                if pairs is not None:
                    labels = [f"{label} after {step} steps" for label in pairs.labels]
                    told = {"subject": labels[0], "other": labels[1]}
                    published = self.published.get((other.method, step))
                    comparisons.append(pairs.comparison(place.quantity, "below", published, **told))
                    read.add(step)
                    found += 1
            if found < 2:
                lacking.append(place.no_pair(self.a, other, "after at least two equal numbers of steps"))
        return Found(tuple(comparisons), tuple(lacking), steps=max(read, default=None))


@dataclass(frozen=True)
class Ahead:
    """The distance of `a` after N steps is lower than that of `b` after any number of steps up to `factor` times N.

    N is the paper's where it was measured, else the largest for which `b` was evaluated at factor x N, or up to a
    tenth later. `b` is read there, and at its lowest before, if that is lower: a late rise is no merit of `a`.
    """

    a: Arm
    b: Arm
    factor: float
    published: Published | None = None

    @property
    def arms(self) -> tuple[Arm, ...]:
        return self.a, self.b

    def __call__(self, place: Place) -> Found:
        steps = self._steps(place)
        if steps is None:
            what = (
                f"{self.b.label()} evaluated after {self.factor:g} times the steps of {self.a.label()}, at equal seeds"
            )
            return Found(lacking=(f"no {what}",))
        early, late = steps
        pairs = place.pairs(self.a, self.b, steps=(early, late))
        assert pairs is not None, "_steps returns what has pairs"
        told: dict[str, Any] = {
            "subject": f"{pairs.labels[0]} after {early} steps",
            "other": f"{pairs.labels[1]} after {late} steps",
        }
        comparisons = [pairs.comparison(place.quantity, "below", self.published, **told)]
        between = _common_steps(pairs.trials_b, early, late)
        means = {
            step: statistics.fmean(known(distance_at(step)(trial)) for trial in pairs.trials_b) for step in between
        }
        lowest = min(between, key=lambda step: (means[step], -step), default=late)
        if lowest != late:
            earlier = place.pairs(self.a, self.b, steps=(early, lowest), length_b=pairs.trials_b[0].steps)
            assert earlier is not None, "its trials were read at these steps"
            told["other"] = f"{pairs.labels[1]} after {lowest} steps, its lowest"
            comparisons.append(earlier.comparison(place.quantity, "below", among=len(between), **told))
        return Found(tuple(comparisons), remarks=tuple(self._remarks(pairs, early)), steps=early)

    def _steps(self, place: Place) -> tuple[int, int] | None:
        ours = _steps(place.setting.trials, self.a.method)
        theirs = sorted(_steps(place.setting.trials, self.b.method))
        preferred = {place.steps} if place.setting.scale == "paper" else set()
        for early in sorted(ours, key=lambda step: (step in preferred, step), reverse=True):
            reach = self.factor * early
            late = next((step for step in theirs if reach <= step <= LATER * reach), None)
            if late is not None and place.pairs(self.a, self.b, steps=(early, late)) is not None:
                return early, late
        return None

    def _remarks(self, pairs: Pairs, early: int) -> Iterator[str]:
        """How many times the steps, and the time, the other one takes to come down to the same distance."""
        a, b = pairs.labels
        exact: list[tuple[float, float | None]] = []
        bounds: dict[str, list[float]] = {"before": [], "after": []}
        for ours, theirs, distance in zip(pairs.trials_a, pairs.trials_b, pairs.values_a, strict=True):
            curve = {**theirs.curve, theirs.steps: theirs.distance}
            how, steps = steps_to_reach(curve, distance)
            if how == "at":
                speed = _relative_speed(ours, theirs)
                exact.append((steps / early, speed and speed * steps / early))
            else:
                bounds[how].append(steps / early)
        if exact and not any(bounds.values()):
            times = [time for _, time in exact if time]
            hours = f" and {_mean(times):.2g} x the time" if len(times) == len(exact) else ""
            yield f"{b} takes {_mean([s for s, _ in exact]):.3g} x the steps{hours} to come down to {a}'s distance"
        elif any(bounds.values()):
            texts = [f"{s:.3g} x the steps" for s, _ in exact]
            texts += [f"more than {s:.3g} x" for s in bounds["after"]] + [
                f"less than {s:.3g} x" for s in bounds["before"]
            ]
            yield f"to come down to {a}'s distance {b} takes, seed by seed, {', '.join(texts)}"


@dataclass(frozen=True)
class Guided:
    """With guidance the distance of `a` is lower than that of `b`: of itself without it, or of another with it.

    The scale is the customary one where both were measured at it, else the one with most pairs.
    """

    a: Arm
    b: Arm
    published: Published | None = None

    @property
    def arms(self) -> tuple[Arm, ...]:
        return self.a, self.b

    def __call__(self, place: Place) -> Found:
        methods = {self.a.method, self.b.method}
        scales = sorted({s for t in place.setting.trials if t.method in methods for s in t.guided})
        best: tuple[float, ...] = ()
        chosen: tuple[float, Pairs] | None = None
        for scale in scales:
            value_b = guided_at(place.steps, scale) if self.b.guided else distance_at(place.steps)
            pairs = paired(
                place.pool,
                self.a,
                place.pool,
                self.b,
                guided_at(place.steps, scale),
                value_b,
                batch_size=place.batch_size,
                one_length=True,
            )
            rank = (scale == CUSTOMARY_GUIDANCE, pairs.n if pairs else 0, -scale)
            if pairs and rank > best:
                best, chosen = rank, (scale, pairs)
        if chosen is None:
            whom = f"{self.a.label()} and {self.b.label()}" if self.b.guided else self.a.label()
            return Found(lacking=(f"no seed of {whom} sampled with guidance after {place.steps} steps",))
        scale, pairs = chosen
        a, b = pairs.labels
        told = {"subject": f"{a} at scale {scale:g}", "other": f"{b} at scale {scale:g}" if self.b.guided else b}
        notes = ("The paper states no guidance scale; another one than this may say otherwise.",)
        return Found((pairs.comparison(place.quantity, "below", self.published, notes=notes, **told),))


@dataclass(frozen=True)
class SameCost:
    """The network that is sampled has as many parameters and multiply-accumulates in `a` as in `b`: a plain count."""

    a: Arm
    b: Arm

    @property
    def arms(self) -> tuple[Arm, ...]:
        return self.a, self.b

    def __call__(self, place: Place) -> Found:
        comparisons = []
        for quantity, value in (
            ("parameters", lambda trial: trial.run.result.params),
            ("multiply-accumulates", lambda trial: trial.run.result.gmacs_forward),
        ):
            pairs = paired(place.pool, self.a, place.pool, self.b, value, value)
            if pairs is None:
                return Found(lacking=(place.no_pair(self.a, self.b, "at any steps"),))
            comparisons.append(pairs.comparison(quantity, "within", exact=True))
        return Found(tuple(comparisons))


@dataclass(frozen=True)
class FasterHere:
    """`a` takes more training steps a second than `b`: by a bench of the same size, else by the setting's own runs."""

    a: Arm
    b: Arm
    pipelines: Pipelines = LATENTS
    published: Published | None = None

    @property
    def arms(self) -> tuple[Arm, Arm]:
        return self.a, self.b

    def __call__(self, place: Place) -> Found:
        setting = place.setting
        own = {id(trial.run) for trial in setting.trials if trial.batch_size == place.batch_size}
        best: tuple[int, ...] = ()
        chosen: Contest | None = None
        for contest in place.index.contests("steps/s", self.arms, self.pipelines, self.published):
            of_this = bool(contest.runs) and all(id(run) in own for run in contest.runs)
            alike = setting.scale != "other" and (contest.scale, contest.size) == (setting.scale, setting.size)
            rank = (not contest.runs, of_this, contest.comparison.n)  # a bench's contenders take turns
            if (of_this or alike) and rank > best:
                best, chosen = rank, contest
        if chosen is None:
            words = "both on latents" if self.pipelines == LATENTS else "one on latents, the other encoding its images"
            return Found(lacking=(f"no speeds of {self.a.label()} and {self.b.label()} on one machine, {words}",))
        return Found((chosen.comparison,), remarks=(f"speeds on {chosen.title}",))


def _steps(trials: Iterable[Trial], method: str) -> set[int]:
    """After how many steps a distance of the method was measured."""
    return {step for trial in trials if trial.method == method for step in (*trial.curve, trial.steps)}


def _common_steps(trials: Sequence[Trial], first: int, last: int) -> list[int]:
    """Steps from first to last at which all of the trials were read."""
    read = set.intersection(*({*trial.curve, trial.steps} for trial in trials))
    return sorted(step for step in read if first <= step <= last)


def _relative_speed(ours: Trial, theirs: Trial) -> float | None:
    if ours.machine != theirs.machine or not ours.speed or not theirs.speed:
        return None
    return ours.speed / theirs.speed


def _mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(math.log(value) for value in values))


def _both(published: Mapping[float, float], first: float, second: float) -> Published | None:
    """The paper's distances at two values of a knob; None where it does not print both."""
    return (published[first], published[second]) if first in published and second in published else None
