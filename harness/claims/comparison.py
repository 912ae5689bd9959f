"""One ratio of two arms, its interval and what it decides. harness/claims/verdict.py says how verdicts follow."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from harness.claims.intervals import (
    ALPHA,
    POWER,
    Estimate,
    apart,
    geometric_mean,
    independent,
    paired,
    seeds_needed,
    smallest_ratio,
    spread,
    spread_ratio,
)

Verdict = Literal["reproduced", "not reproduced", "inconclusive", "not tested"]
Claimed = Literal["below", "above", "within"]  # where the ratio lies, relative to a bound
REPRODUCED: Verdict = "reproduced"
NOT_REPRODUCED: Verdict = "not reproduced"
INCONCLUSIVE: Verdict = "inconclusive"
NOT_TESTED: Verdict = "not tested"
DECIDED = (REPRODUCED, NOT_REPRODUCED)
VERDICTS = (REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE, NOT_TESTED)

FEWEST_RUNS = 3  # of each arm, behind a verdict

Values = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Comparison:
    """What one part of a claim compares: `subject` over `other`."""

    subject: str  # "SD-DiT"
    other: str  # "MDT"
    quantity: str  # "FID-50K", "steps/s"
    values: Values  # positive, of the two arms: of each run, or of each process of a bench
    claimed: Claimed  # on which side of `bound` the claim says the ratio lies
    bound: float = 1.0  # within: between 1 / bound and bound
    published: float | None = None  # the ratio of the paper's numbers
    unit: Literal["run", "network", "process"] = "run"  # those of one network or process were measured together
    names: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())  # of the runs behind the values
    seeds: tuple[int, ...] = ()
    among: int = 1  # it was chosen as the most adverse of that many
    exact: bool = False  # it repeats to within `margin`, so that one measurement decides
    margin: float = 0.0  # relative
    differences: tuple[str, ...] = ()  # from the paper's conditions
    notes: tuple[str, ...] = ()
    void: str = ""  # what is not measured and without which it decides nothing, whatever its interval

    @property
    def runs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for arm in self.names for name in arm))

    @property
    def n(self) -> int:
        """How many runs the smaller arm has, or how many processes of a bench there are."""
        return min(map(len, self.values))

    @property
    def mean(self) -> float:
        """The ratio of the geometric means."""
        a, b = self.values
        return geometric_mean(a) / geometric_mean(b)

    @cached_property
    def estimate(self) -> Estimate | None:
        return (independent if self.unit == "run" else paired)(*self.values)

    @property
    def repeated(self) -> bool:
        """Whether an arm has several values that are equal to the last digit: they are no repetitions."""
        return not self.exact and self.n > 1 and self.estimate is None

    @property
    def enough(self) -> bool:
        """Whether there are runs enough for a verdict."""
        return not self.void and (self.exact or self.n >= FEWEST_RUNS)

    def interval(self, confidence: float = 1 - ALPHA) -> tuple[float, float] | None:
        """The interval of the ratio, None without a spread; an exact quantity has its lowest and highest ratio."""
        if self.exact:
            a, b = self.values
            return min(a) / max(b), max(a) / min(b)
        return self.estimate.interval(confidence) if self.estimate else None

    @cached_property
    def jumped(self) -> tuple[int, int] | None:
        """Arm and place of a run that lies apart from the others of its arm; the farther of two."""
        if self.exact or self.unit != "run":
            return None
        found = [(arm, place) for arm, values in enumerate(self.values) if (place := apart(values)) is not None]
        return max(found, key=lambda at: self._distance(*at), default=None)

    def _distance(self, arm: int, place: int) -> float:
        values = self.values[arm]
        others = values[:place] + values[place + 1 :]
        return abs(math.log(values[place] / geometric_mean(others)))

    @cached_property
    def without_jump(self) -> "Comparison | None":
        """The same comparison without the run that lies apart; None where there is none."""
        if self.jumped is None:
            return None
        arm, place = self.jumped
        values = list(self.values)
        values[arm] = values[arm][:place] + values[arm][place + 1 :]
        return replace(self, values=(values[0], values[1]))

    def supported(self) -> bool:
        """Whether the whole 95% interval lies on the claimed side."""
        return self._sides(1 - ALPHA)[0]

    def refuted(self, confidence: float = 1 - ALPHA) -> bool:
        """Whether the whole interval lies on the other side."""
        return self._sides(confidence)[1]

    def _sides(self, confidence: float) -> tuple[bool, bool]:
        """Whether the whole interval lies on the claimed side, and whether on the other."""
        interval = self.interval(confidence)
        if interval is None or not self.enough:
            return False, False
        low, high = interval
        if self.claimed == "within":
            return 1 / self.bound <= low and high <= self.bound, low > self.bound or high < 1 / self.bound
        above, below = low > self.bound * (1 + self.margin), high < self.bound / (1 + self.margin)
        return (above, below) if self.claimed == "above" else (below, above)

    def verdict(self, confidence: float = 1 - ALPHA) -> Verdict:
        """The verdict on this comparison alone; a failure is judged at `confidence`."""
        if self.void:
            return NOT_TESTED
        if self.refuted(confidence):
            return NOT_REPRODUCED
        return REPRODUCED if self.supported() else INCONCLUSIVE

    def probabilities(self) -> tuple[float, float]:
        """Two-sided p-values of the claimed side and of the other; of a count 0 or 1."""
        if self.exact or self.estimate is None:
            return (0.0 if self.supported() else 1.0), (0.0 if self.refuted() else 1.0)
        above = self.estimate.tail(self.bound)
        if self.claimed == "within":
            low = self.estimate.tail(1 / self.bound)  # small where the ratio is above the lower bound
            ours, theirs = max(low, 1 - above), min(above, 1 - low)
        else:
            ours, theirs = (above, 1 - above) if self.claimed == "above" else (1 - above, above)
        return min(1.0, 2 * ours), min(1.0, 2 * theirs)

    @property
    def detectable(self) -> float | None:
        """The smallest ratio above 1 that so many runs see with 80% power; None without spreads."""
        if self.exact or self.unit != "run" or self.estimate is None:
            return None
        return smallest_ratio(*map(spread, self.values), self.n)

    @property
    def as_large(self) -> bool | None:
        """Whether the paper's ratio lies in the interval; None where there is no interval or no such ratio."""
        interval = self.interval()
        if self.published is None or self.exact or interval is None:
            return None
        return interval[0] <= self.published <= interval[1]

    @property
    def adverse(self) -> float:
        """How far the mean lies towards, and beyond, the unclaimed side of the bound: the largest decides."""
        if self.claimed == "within":
            return abs(math.log(self.mean)) - math.log(self.bound)
        return (math.log(self.mean) - math.log(self.bound)) * (-1 if self.claimed == "above" else 1)

    @property
    def text(self) -> str:
        """ "SD-DiT 0.831 x MDT (0.710 to 0.970, n = 3), paper 0.905"."""
        interval = None if self.exact and self.n == 1 else self.interval()
        range_ = f"{number(interval[0])} to {number(interval[1])}, " if interval else ""
        a, b = map(len, self.values)
        count = f"{a} processes" if self.unit == "process" and a > 1 else f"{a}" if a == b else f"{a} and {b}"
        how = "counted" if self.exact and not self.margin else f"{range_}n = {count}"
        published = f", paper {number(self.published)}" if self.published is not None else ""
        return f"{self.subject} {number(self.mean)} x {self.other} ({how}){published}"

    def as_json(self, confidence: float = 1 - ALPHA) -> dict[str, Any]:
        return {
            "subject": self.subject,
            "other": self.other,
            "quantity": self.quantity,
            "claimed": self.claimed,
            "bound": self.bound,
            "ratio": self.mean,
            "interval": list(self.interval() or ()) or None,
            "n": self.n,
            "unit": self.unit,
            "seeds": list(self.seeds),
            "values": [list(values) for values in self.values],
            "published_ratio": self.published,
            "detectable": self.detectable,
            "verdict": self.verdict(confidence),
        }

    def statistical_notes(self) -> Iterator[str]:
        """What a reader of the interval has to know."""
        pair = f"{self.subject} / {self.other}"
        if self.repeated:
            yield (
                f"{pair}: the values of an arm are equal to the last digit, so they are not independent repetitions "
                "and nothing is concluded from their spread."
            )
        if self.jumped and self.without_jump:
            arm, place = self.jumped
            values, label = self.values[arm], (self.subject, self.other)[arm]
            name = self.names[arm][place] if self.names[arm] else f"its run {place + 1}"
            times = values[place] / geometric_mean(values[:place] + values[place + 1 :])
            yield (
                f"{label}: {name} lies apart, at {number(times)} times the mean of the others of its arm. It is "
                f"counted. Without it: {self.without_jump.text}."
            )
        ratio = spread_ratio(*self.values) if self.unit == "run" and self.n >= FEWEST_RUNS else None
        if ratio and not ratio[1] <= 1 <= ratio[2]:
            yield (
                f"{pair}: the spread over runs differs too, {number(ratio[0])} times "
                f"({number(ratio[1])} to {number(ratio[2])}). A verdict compares means alone."
            )
        seen = self.detectable
        if seen is None:
            return
        needs = ""
        if self.published not in (None, 1):
            seeds = seeds_needed(self.published, *map(spread, self.values))
            needs = f"; the paper's ratio of {number(self.published)} needs {seeds or 'more than a thousand'} of each"
        yield f"{pair}: n = {self.n} of each sees a difference of {seen - 1:.2g} with {POWER:.0%} power{needs}."


def number(value: float) -> str:
    """Three digits, zeros kept: 1.00."""
    return f"{value:#.3g}".rstrip(".")
