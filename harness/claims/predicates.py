"""What a claim may ask of the distances of a setting: the few predicates from which a paper's claims are made.

A predicate looks at one place, a setting read after some number of steps at one batch. It returns the comparisons that
it found there and what it lacks.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from harness.claims.comparison import Arm, Pairs, Published, Side, distance_at, guided_at, paired, worded
from harness.claims.machines import LATENTS, SPEED, Measured, Pipelines, Versus
from harness.claims.places import Place
from harness.claims.verdict import Comparison, Found
from harness.records.trials import Trial

CUSTOMARY_GUIDANCE = 1.5  # DiT's and MaskDiT's
LATER = 1.1  # the paper's 7000k are 1.08 times five times 1300k


# Two arms -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OfTwo:
    """A predicate about two arms, with the paper's distances of them where it prints both."""

    a: Arm
    b: Arm
    published: Published | None = None

    @property
    def arms(self) -> tuple[Arm, ...]:
        return self.a, self.b


class Lower(OfTwo):
    """The distance of `a` is lower than that of `b`, at equal seeds, steps and batch."""

    def __call__(self, place: Place) -> Found:
        pairs = place.pairs(self.a, self.b)
        if pairs is None:
            return Found(lacking=(place.no_pair(self.a, self.b),))
        return Found((pairs.comparison(place.quantity, "below", self.published),))


@dataclass(frozen=True)
class Comparable(OfTwo):
    """The two distances differ by at most `within` of one another."""

    within: float = field(kw_only=True)

    def __call__(self, place: Place) -> Found:
        pairs = place.pairs(self.a, self.b)
        if pairs is None:
            return Found(lacking=(place.no_pair(self.a, self.b, "after the steps that the paper compares"),))
        return Found((replace(pairs.comparison(place.quantity, "within", self.published), bound=1 + self.within),))


@dataclass(frozen=True)
class Ahead(OfTwo):
    """The distance of `a` after N steps is lower than that of `b` after any number of steps up to `factor` times N.

    N is the paper's where it was measured, else the largest for which `b` was evaluated at factor x N, or up to a
    tenth later. `b` is read there. If it was lower before, its lowest distance is compared too, so that the claim does
    not hold only because the distance of `b` rose late.
    """

    factor: float = field(kw_only=True)

    def __call__(self, place: Place) -> Found:
        a, b = self.a.label(), self.b.label()
        found = self._pairs(place)
        if found is None:
            return Found(lacking=(f"no {b} evaluated after {self.factor:g} times the steps of {a}, at equal seeds",))
        early, late, pairs = found
        a, b = pairs.labels
        comparison = pairs.comparison(place.quantity, "below", self.published)
        comparisons = [replace(comparison, subject=f"{a} after {early} steps", other=f"{b} after {late} steps")]
        curves = [_curve(trial) for _, trial in pairs.trials]
        between = sorted(step for step in set.intersection(*map(set, curves)) if early <= step <= late)
        means = {step: statistics.fmean(curve[step] for curve in curves) for step in between}
        lowest = min(between, key=lambda step: (means[step], -step), default=late)
        if lowest != late:
            lengths = early, pairs.trials[0][1].steps
            earlier = place.pairs(self.a, self.b, steps=(early, lowest), lengths=lengths)
            assert earlier is not None, "its runs were read at these steps"
            other = f"{b} after {lowest} steps, its lowest"
            comparison = earlier.comparison(place.quantity, "below")
            comparisons.append(replace(comparison, subject=comparisons[0].subject, other=other, among=len(between)))
        return Found(tuple(comparisons), remarks=(_longer(pairs, early),))

    def _pairs(self, place: Place) -> tuple[int, int, Pairs] | None:
        theirs = sorted(place.steps_of(self.b.method))
        papers = place.steps if place.setting.scale == "paper" else None
        for early in sorted(place.steps_of(self.a.method), key=lambda step: (step == papers, step), reverse=True):
            reach = self.factor * early
            late = next((step for step in theirs if reach <= step <= LATER * reach), None)
            pairs = place.pairs(self.a, self.b, steps=(early, late)) if late else None
            if late and pairs:
                return early, late, pairs
        return None


def _longer(pairs: Pairs, early: int) -> str:
    """How many times the steps, and the time, the second arm takes to come down to the distance of the first."""
    a, b = pairs.labels
    exact: list[tuple[float, float | None]] = []
    bounds: dict[str, list[float]] = {"after": [], "before": []}
    for (ours, theirs), (distance, _) in zip(pairs.trials, pairs.values, strict=True):
        how, steps = steps_to_reach(_curve(theirs), distance)
        if how != "at":
            bounds[how].append(steps / early)
        elif ours.machine == theirs.machine and ours.speed and theirs.speed:
            exact.append((steps / early, ours.speed / theirs.speed * steps / early))
        else:
            exact.append((steps / early, None))
    if not any(bounds.values()):
        times = [time for _, time in exact if time]
        hours = f" and {_mean(times):.2g} x the time" if len(times) == len(exact) else ""
        return f"{b} takes {_mean([s for s, _ in exact]):.3g} x the steps{hours} to come down to {a}'s distance"
    texts = [f"{s:.3g} x the steps" for s, _ in exact]
    texts += [f"more than {s:.3g} x" for s in bounds["after"]] + [f"less than {s:.3g} x" for s in bounds["before"]]
    return f"to come down to {a}'s distance {b} takes, seed by seed, {', '.join(texts)}"


def _curve(trial: Trial) -> dict[int, float]:
    """Distance by training step, the last step included."""
    return {**trial.curve, trial.steps: trial.distance}


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


class Guided(OfTwo):
    """With guidance `a` has a lower distance than `b`: than itself without guidance, or than another method with it.

    The scale is the customary one where both were measured at it, else the one with most pairs.
    """

    def __call__(self, place: Place) -> Found:
        methods = {self.a.method, self.b.method}
        scales = sorted({s for trial in place.setting.trials if trial.method in methods for s in trial.guided})
        found = {scale: pairs for scale in scales if (pairs := self._pairs(place, scale))}
        if not found:
            whom = f"{self.a.label()} and {self.b.label()}" if self.b.guided else self.a.label()
            return Found(lacking=(f"no seed of {whom} sampled with guidance after {place.steps} steps",))
        scale = max(found, key=lambda scale: (scale == CUSTOMARY_GUIDANCE, len(found[scale].trials), -scale))
        comparison = found[scale].comparison(place.quantity, "below", self.published)
        note = "The paper states no guidance scale; another one than this may say otherwise."
        subject = f"{comparison.subject} at scale {scale:g}"
        other = f"{comparison.other} at scale {scale:g}" if self.b.guided else comparison.other
        return Found((replace(comparison, subject=subject, other=other, notes=(note, *comparison.notes)),))

    def _pairs(self, place: Place, scale: float) -> Pairs | None:
        with_guidance, without = guided_at(place.steps, scale), distance_at(place.steps)
        a = Side(self.a, place.setting.trials, with_guidance)
        b = Side(self.b, place.setting.trials, with_guidance if self.b.guided else without)
        return paired(a, b, batch_size=place.batch_size, one_length=True)


class SameCost(OfTwo):
    """The network that is sampled has as many parameters and multiply-accumulates in `a` as in `b`: a plain count."""

    def __call__(self, place: Place) -> Found:
        comparisons = []
        for quantity, value in (
            ("parameters", lambda trial: trial.run.result.params),
            ("multiply-accumulates", lambda trial: trial.run.result.gmacs_forward),
        ):
            pairs = paired(Side(self.a, place.setting.trials, value), Side(self.b, place.setting.trials, value))
            if pairs is None:
                return Found(lacking=(place.no_pair(self.a, self.b, "at any steps"),))
            comparisons.append(replace(pairs.comparison(quantity, "within"), exact=True))
        return Found(tuple(comparisons))


@dataclass(frozen=True)
class FasterHere(OfTwo):
    """`a` takes more training steps a second than `b`: by a bench of the same size, else by the setting's own runs."""

    pipelines: Pipelines = LATENTS

    def __call__(self, place: Place) -> Found:
        setting = place.setting
        own = {id(trial.run) for trial in setting.trials if trial.batch_size == place.batch_size}

        def belongs(found: Measured) -> bool:
            alike = setting.scale != "other" and (found.scale, found.size) == (setting.scale, setting.size)
            return alike or of_this(found)

        def of_this(found: Measured) -> bool:
            return bool(found.runs) and all(id(run) in own for run in found.runs)

        versus = Versus(SPEED, self.a, self.b, self.published, self.pipelines)
        found = [measured for measured in place.index.measured(versus) if belongs(measured)]
        if not found:
            words = "both on latents" if self.pipelines == LATENTS else "one on latents, the other encoding its images"
            return Found(lacking=(f"no speeds of {self.a.label()} and {self.b.label()} on one machine, {words}",))
        # The contenders of a bench take turns, so a bench is preferred to whole runs where it decides.
        chosen = max(
            found, key=lambda each: (not each.comparison.void, not each.runs, of_this(each), each.comparison.n)
        )
        return Found((chosen.comparison,), remarks=(f"speeds on {chosen.title}",))


# A knob, or many steps ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OfKnob:
    """A predicate about the values of a number knob of one arm; `published` has the paper's distances by value."""

    arm: Arm
    knob: str
    values: tuple[float, ...]
    published: Mapping[float, float] = field(default_factory=dict)

    @property
    def arms(self) -> tuple[Arm, ...]:
        return (self.arm,)

    def lower(self, place: Place, low: float, high: float) -> Comparison | None:
        """The distance at the value `low` over that at `high`."""
        pairs = place.pairs(self.arm.but(self.knob, low), self.arm.but(self.knob, high))
        both = self.published.get(low), self.published.get(high)
        printed = (both[0], both[1]) if both[0] is not None and both[1] is not None else None
        return None if pairs is None else pairs.comparison(place.quantity, "below", printed)


@dataclass(frozen=True)
class Best(OfKnob):
    """The arm's value of the knob has the lowest distance of all measured ones; values on both sides are needed.

    `values` are those whose absence is reported.
    """

    least: bool = False  # the best is the least value there can be: no smaller one is needed

    def __call__(self, place: Place) -> Found:
        best = self.arm.knobs[self.knob]
        others = [value for value in place.numbers_of(self.arm.method, self.knob) if value != best]
        found = {value: lower for value in others if (lower := self.lower(place, best, value))}
        sides = {"larger": any(value > best for value in found)}
        if not self.least:
            sides["smaller"] = any(value < best for value in found)
        lacking = [f"no {side} value beside {self.arm.label()}" for side, there in sides.items() if not there]
        missing = [worded(self.knob, value) for value in self.values if value not in found]
        return Found(tuple(found.values()), tuple(lacking), tuple(missing))


class WorseThanSmaller(OfKnob):
    """Each of `values` has a higher distance than every smaller measured value that is not one of them."""

    def __call__(self, place: Place) -> Found:
        smaller = [v for v in place.numbers_of(self.arm.method, self.knob) if v < min(self.values)]
        comparisons: list[Comparison] = []
        lacking = []
        for value in self.values:
            found = [lower for low in smaller if (lower := self.lower(place, low, value))]
            comparisons += found
            lacking += [] if found else [place.no_pair(self.arm, self.arm.but(self.knob, value))]
        return Found(tuple(comparisons), tuple(lacking))


@dataclass(frozen=True)
class AtEveryStep:
    """The distance of `a` is lower than that of each other arm after every number of steps at which both were read."""

    a: Arm
    others: tuple[Arm, ...]
    published: Mapping[tuple[str, int], Published] = field(default_factory=dict)  # keys: method and step

    @property
    def arms(self) -> tuple[Arm, ...]:
        return (self.a, *self.others)

    def __call__(self, place: Place) -> Found:
        comparisons: list[Comparison] = []
        lacking = []
        for other in self.others:
            found: dict[int, Comparison] = {}
            for step in sorted(place.steps_of(self.a.method) & place.steps_of(other.method)):
                pairs = place.pairs(self.a, other, steps=(step, step), lengths=(place.steps, place.steps))
                if pairs is not None:
                    subject, against = (f"{label} after {step} steps" for label in pairs.labels)
                    lower = pairs.comparison(place.quantity, "below", self.published.get((other.method, step)))
                    found[step] = replace(lower, subject=subject, other=against)
            comparisons += found.values()
            if len(found) < 2:
                lacking.append(place.no_pair(self.a, other, "after at least two equal numbers of steps"))
        return Found(tuple(comparisons), tuple(lacking))


def _mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(math.log(value) for value in values))
