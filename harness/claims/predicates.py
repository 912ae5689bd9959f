"""What a claim may ask of the distances of a setting: the few predicates from which a paper's claims are made.

A predicate looks at one place, a setting read after some number of steps at one batch. It returns the comparisons that
it found there and what it lacks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from harness.claims.arms import Arm, Published, Side, TwoArms, distance_at, guided_at, two_arms, worded
from harness.claims.comparison import Comparison
from harness.claims.intervals import geometric_mean
from harness.claims.machines import LATENTS, SPEED, Measured, Pipelines, Versus
from harness.claims.places import Place
from harness.claims.target import curve_of, sooner
from harness.claims.verdict import Found

CUSTOMARY_GUIDANCE = 1.5  # DiT's and MaskDiT's
LATER = 1.1  # the paper's 7000k are 1.08 times five times 1300k
# A baseline whose distance falls faster than steps ** -0.4 is not on its plateau. DiT-XL/2's falls as steps ** -0.10
# from 2352k to 7000k (10.67 to 9.62), and as steps ** -0.34 from 400k (19.47) to 2352k.
PLATEAU = 0.4


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
    """The distance of `a` is lower than that of `b`, at equal steps and batch."""

    def __call__(self, place: Place) -> Found:
        arms = place.runs_of(self.a, self.b)
        if arms is None:
            return Found(lacking=(place.no_runs(self.a, self.b),))
        return Found((arms.comparison(place.quantity, "below", self.published),))


@dataclass(frozen=True)
class Comparable(OfTwo):
    """The two distances differ by at most `within` of one another."""

    within: float = field(kw_only=True)

    def __call__(self, place: Place) -> Found:
        arms = place.runs_of(self.a, self.b)
        if arms is None:
            return Found(lacking=(place.no_runs(self.a, self.b, "after the steps that the paper compares"),))
        return Found((replace(arms.comparison(place.quantity, "within", self.published), bound=1 + self.within),))


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
        found = self._arms(place)
        if found is None:
            return Found(lacking=(f"no {b} evaluated after {self.factor:g} times the steps of {a}",))
        early, late, arms = found
        a, b = arms.labels
        comparison = arms.comparison(place.quantity, "below", self.published)
        comparisons = [replace(comparison, subject=f"{a} after {early} steps", other=f"{b} after {late} steps")]
        curves = [curve_of(trial) for trial in arms.trials[1]]
        between = sorted(step for step in set.intersection(*map(set, curves)) if early <= step <= late)
        means = {step: geometric_mean([curve[step] for curve in curves]) for step in between}
        lowest = min(between, key=lambda step: (means[step], -step), default=late)
        if lowest != late:
            lengths = early, arms.trials[1][0].steps
            earlier = place.runs_of(self.a, self.b, steps=(early, lowest), lengths=lengths)
            assert earlier is not None, "its runs were read at these steps"
            other = f"{b} after {lowest} steps, its lowest"
            comparison = earlier.comparison(place.quantity, "below")
            comparisons.append(replace(comparison, subject=comparisons[0].subject, other=other, among=len(between)))
        void = _still_falling(b, means, early, late)
        return Found(tuple(replace(each, void=void) for each in comparisons), remarks=tuple(sooner(arms, early, late)))

    def _arms(self, place: Place) -> tuple[int, int, TwoArms] | None:
        theirs = sorted(place.steps_of(self.b.method))
        papers = place.steps if place.setting.scale == "paper" else None
        for early in sorted(place.steps_of(self.a.method), key=lambda step: (step == papers, step), reverse=True):
            reach = self.factor * early
            late = next((step for step in theirs if reach <= step <= LATER * reach), None)
            arms = place.runs_of(self.a, self.b, steps=(early, late)) if late else None
            if late and arms:
                return early, late, arms
        return None


def _still_falling(label: str, means: Mapping[int, float], early: int, late: int) -> str:
    """Why nothing is decided where the longer run is far from the plateau that the paper's was on."""
    if not {early, late} <= means.keys():
        return ""
    gain = means[early] / means[late]
    if gain <= (late / early) ** PLATEAU:
        return ""
    return (
        f"{label} on a plateau, as the paper's was: here its distance falls {gain:.3g} times from {early} to {late} "
        f"steps, where {(late / early) ** PLATEAU:.3g} times is the most that counts as one"
    )


class Guided(OfTwo):
    """With guidance `a` has a lower distance than `b`: than itself without guidance, or than another method with it.

    The scale is the customary one where both were measured at it, else the one with most arms.
    """

    def __call__(self, place: Place) -> Found:
        methods = {self.a.method, self.b.method}
        scales = sorted({s for trial in place.setting.trials if trial.method in methods for s in trial.guided})
        found = {scale: arms for scale in scales if (arms := self._arms(place, scale))}
        if not found:
            whom = f"{self.a.label()} and {self.b.label()}" if self.b.guided else self.a.label()
            return Found(lacking=(f"no run of {whom} sampled with guidance after {place.steps} steps",))
        scale = max(found, key=lambda scale: (scale == CUSTOMARY_GUIDANCE, len(found[scale].trials[0]), -scale))
        comparison = found[scale].comparison(place.quantity, "below", self.published)
        note = "The paper states no guidance scale; another one than this may say otherwise."
        subject = f"{comparison.subject} at scale {scale:g}"
        other = f"{comparison.other} at scale {scale:g}" if self.b.guided else comparison.other
        return Found((replace(comparison, subject=subject, other=other, notes=(note, *comparison.notes)),))

    def _arms(self, place: Place, scale: float) -> TwoArms | None:
        with_guidance, without = guided_at(place.steps, scale), distance_at(place.steps)
        a = Side(self.a, place.setting.trials, with_guidance)
        b = Side(self.b, place.setting.trials, with_guidance if self.b.guided else without)
        return two_arms(a, b, batch_size=place.batch_size, one_length=True)


class SameCost(OfTwo):
    """The network that is sampled has as many parameters and multiply-accumulates in `a` as in `b`: a plain count."""

    def __call__(self, place: Place) -> Found:
        comparisons = []
        for quantity, value in (
            ("parameters", lambda trial: trial.run.result.params),
            ("multiply-accumulates", lambda trial: trial.run.result.gmacs_forward),
        ):
            arms = two_arms(Side(self.a, place.setting.trials, value), Side(self.b, place.setting.trials, value))
            if arms is None:
                return Found(lacking=(place.no_runs(self.a, self.b, "at any steps"),))
            comparisons.append(replace(arms.comparison(quantity, "within"), exact=True))
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
        arms = place.runs_of(self.arm.but(self.knob, low), self.arm.but(self.knob, high))
        both = self.published.get(low), self.published.get(high)
        printed = (both[0], both[1]) if both[0] is not None and both[1] is not None else None
        return None if arms is None else arms.comparison(place.quantity, "below", printed)


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
            lacking += [] if found else [place.no_runs(self.arm, self.arm.but(self.knob, value))]
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
                arms = place.runs_of(self.a, other, steps=(step, step), lengths=(place.steps, place.steps))
                if arms is not None:
                    subject, against = (f"{label} after {step} steps" for label in arms.labels)
                    lower = arms.comparison(place.quantity, "below", self.published.get((other.method, step)))
                    found[step] = replace(lower, subject=subject, other=against)
            comparisons += found.values()
            if len(found) < 2:
                lacking.append(place.no_runs(self.a, other, "after at least two equal numbers of steps"))
        return Found(tuple(comparisons), tuple(lacking))
