"""The arithmetic behind a verdict: two arms of repeated positive measurements, compared by their logarithms.

Runs of two arms are independent: Welch (1947), The generalization of Student's problem, with Satterthwaite's degrees of
freedom. Runs with equal seeds are not paired. Where it was measured, their values were not correlated: -0.04 over nine
seeds of SD-DiT with and without its loss (reports/mini). Measurements made together are paired: two of one network, or
two contenders of one process that take turns. Their interval is Student's t of the logarithms of their ratios.
"""

import math
import statistics
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

ALPHA = 0.05
POWER = 0.8
FEWEST_SEEDS = 2  # of each arm, for a spread
MOST_SEEDS = 1000
LARGEST_LOG = 700.0  # exp of more is no float
ALIKE = 1e-12  # logarithms that differ by no more are one measurement, repeated
JUMP = 2.0  # a run that is so many times its arm's median, or so small a part of it, lies apart
JUMP_ALPHA = 0.01  # or whose distance from the others of its arm is so improbable


@dataclass(frozen=True)
class Estimate:
    """A mean difference of logarithms with its standard error and degrees of freedom."""

    centre: float
    error: float
    degrees: float

    def interval(self, confidence: float) -> tuple[float, float]:
        """The interval of the ratio."""
        reach = student(self.degrees, confidence) * self.error
        return _exp(self.centre - reach), _exp(self.centre + reach)

    def tail(self, bound: float) -> float:
        """The probability of a ratio at least as far above `bound` as the one found, if `bound` were the true one."""
        from scipy.special import stdtr

        return float(stdtr(self.degrees, (math.log(bound) - self.centre) / self.error))


def independent(a: Sequence[float], b: Sequence[float]) -> Estimate | None:
    """Of a over b, whose runs have nothing in common; None where an arm has no spread."""
    logs = [[math.log(value) for value in arm] for arm in (a, b)]
    if any(_no_spread(arm) for arm in logs):
        return None
    parts = [statistics.variance(arm) / len(arm) for arm in logs]
    degrees = sum(parts) ** 2 / sum(part**2 / (len(arm) - 1) for part, arm in zip(parts, logs, strict=True))
    return Estimate(statistics.fmean(logs[0]) - statistics.fmean(logs[1]), math.sqrt(sum(parts)), degrees)


def paired(a: Sequence[float], b: Sequence[float]) -> Estimate | None:
    """Of a over b, where values at equal places were measured together; None where their ratios have no spread."""
    logs = [math.log(x / y) for x, y in zip(a, b, strict=True)]
    if _no_spread(logs):
        return None
    return Estimate(statistics.fmean(logs), statistics.stdev(logs) / math.sqrt(len(logs)), len(logs) - 1)


def _no_spread(logs: Sequence[float]) -> bool:
    return len(logs) < FEWEST_SEEDS or max(logs) - min(logs) <= ALIKE


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(math.log(value) for value in values))


def apart(values: Sequence[float]) -> int | None:
    """The place of the run that lies apart from the others of its arm; None where there is none.

    It lies beyond the 99% prediction interval of the others, corrected for choosing the farthest one (Grubbs 1950), or
    a factor of two from the median. Fewer than three runs cannot tell which one is apart.
    """
    if len(values) < 3:
        return None
    logs = [math.log(value) for value in values]
    middle = statistics.median(logs)
    farthest = max(range(len(logs)), key=lambda place: abs(logs[place] - middle))
    others = logs[:farthest] + logs[farthest + 1 :]
    if abs(logs[farthest] - middle) > math.log(JUMP):
        return farthest
    if len(others) < 3 or _no_spread(others):
        return None
    error = statistics.stdev(others) * math.sqrt(1 + 1 / len(others))
    far = abs(logs[farthest] - statistics.fmean(others)) / error
    return farthest if far > student(len(others) - 1, 1 - JUMP_ALPHA / len(logs)) else None


def spread_ratio(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float] | None:
    """The standard deviation of the logarithms of a over that of b, with its 95% interval (F); None without spreads."""
    from scipy.special import fdtri

    logs = [[math.log(value) for value in arm] for arm in (a, b)]
    if any(_no_spread(arm) for arm in logs):
        return None
    ratio = statistics.variance(logs[0]) / statistics.variance(logs[1])
    degrees = len(a) - 1, len(b) - 1
    low, high = (ratio / float(fdtri(*degrees, q)) for q in (1 - ALPHA / 2, ALPHA / 2))
    return math.sqrt(ratio), math.sqrt(low), math.sqrt(high)


def false_discovery(probabilities: Sequence[float]) -> list[float]:
    """For each probability the least share of false discoveries at which it is one: Benjamini and Hochberg (1995)."""
    order = sorted(range(len(probabilities)), key=probabilities.__getitem__, reverse=True)
    found, least = [1.0] * len(probabilities), 1.0
    for rank, place in zip(range(len(order), 0, -1), order, strict=True):
        least = min(least, probabilities[place] * len(order) / rank)
        found[place] = least
    return found


# Power ----------------------------------------------------------------------------------------------------------------


def spread(values: Sequence[float]) -> float:
    """The standard deviation of the logarithms."""
    return statistics.stdev(math.log(value) for value in values)


def power(ratio: float, a: float, b: float, seeds: int) -> float:
    """The probability that Welch's test of `seeds` runs in each arm sees a true `ratio`; a and b: their spreads.

    The statistic has about a noncentral t distribution with ln r / sqrt((va + vb) / n) as its noncentrality and
    Satterthwaite's degrees of freedom, (n - 1) (va + vb)^2 / (va^2 + vb^2). The test is two-sided at 5%.
    """
    from scipy.stats import nct  # slow to import

    variance = a**2 + b**2
    if variance == 0:
        return 1.0
    degrees = (seeds - 1) * variance**2 / (a**4 + b**4)
    noncentrality = abs(math.log(ratio)) / math.sqrt(variance / seeds)
    critical = student(degrees, 1 - ALPHA)
    missed = nct.cdf(critical, degrees, noncentrality) - nct.cdf(-critical, degrees, noncentrality)
    return 1.0 if math.isnan(missed) else float(1 - missed)  # its series ends where the effect is overwhelming


def seeds_needed(ratio: float, a: float, b: float) -> int | None:
    """The fewest seeds of each arm with 80% power; None: more than a thousand."""
    counts = range(FEWEST_SEEDS, MOST_SEEDS + 1)  # the power grows with the seeds
    place = bisect_left(counts, POWER, key=lambda seeds: power(ratio, a, b, seeds))
    return counts[place] if place < len(counts) else None


@cache
def smallest_ratio(a: float, b: float, seeds: int) -> float:
    """The ratio above 1 that `seeds` runs of each arm see with 80% power."""
    low, high = 0.0, 1.0
    while power(math.exp(high), a, b, seeds) < POWER:
        high *= 2
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if power(math.exp(middle), a, b, seeds) >= POWER else (middle, high)
    return math.exp(high)


@cache
def student(degrees: float, confidence: float) -> float:
    """Half the width of Student's t interval, in standard errors."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + confidence) / 2))


def _exp(value: float) -> float:
    return math.exp(max(min(value, LARGEST_LOG), -LARGEST_LOG))
