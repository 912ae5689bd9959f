"""How many seeds a comparison needs, from the spread that runs have: the power of Welch's test on logarithms."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.claims import Claim, judge
from harness.claims.arms import Arm
from harness.claims.comparison import Comparison
from harness.claims.intervals import ALPHA, FEWEST_SEEDS, MOST_SEEDS, POWER, seeds_needed, smallest_ratio, spread
from harness.claims.machines import Index
from harness.claims.places import Place
from harness.claims.predicates import Lower
from harness.claims.verdict import Found
from harness.recipes.config import plain_values
from harness.records.evidence import Evidence
from harness.system.errors import DataError, UsageError, unknown

SIZES = (3, 5, 8)  # seeds of each arm


@dataclass(frozen=True)
class Power:
    """What a comparison of two arms can see."""

    comparison: Comparison
    setting: str
    spreads: tuple[float, float]  # standard deviation of the logarithm, of each arm
    effect: float  # the ratio that should be seen
    effect_is: str  # whose it is
    seeds: int | None  # of each arm, for 80% power; None: more than a thousand

    def as_json(self) -> dict[str, Any]:
        found = self.comparison
        return {
            "subject": found.subject,
            "other": found.other,
            "quantity": found.quantity,
            "setting": self.setting,
            "n": found.n,
            "seeds": list(found.seeds),
            "measured_ratio": found.mean,
            "interval": found.interval(),
            "spreads": list(self.spreads),
            "effect": self.effect,
            "effect_is": self.effect_is,
            "power": POWER,
            "seeds_needed": self.seeds,
            "smallest_ratio_seen": {str(seeds): smallest_ratio(*self.spreads, seeds) for seeds in SIZES},
        }


def claim_of(what: str, claims: Iterable[Claim]) -> Claim:
    """The claim with the id `what`, or that the first of two arms is better, written "dit,sddit:discriminate=false".

    Raises UsageError for what is neither.
    """
    known = {claim.id: claim for claim in claims}
    if what in known:
        return known[what]
    parts = re.split(r",(?![^\[]*\])", what)  # a list has commas of its own
    if len(parts) != 2:
        raise unknown("claim", what, known, see="Or name two arms, like dit,sddit or sddit,sddit:discriminate=false")
    a, b = map(_arm, parts)

    def test(index: Index) -> Iterator[Found]:
        for setting in index.evidence.settings:
            steps, batch = setting.budget([a.method, b.method])
            title = f"{setting.title}, {steps} steps, batch {batch}"
            found = Lower(a, b)(Place(index, setting, steps, batch))
            yield replace(found, title=title, name=setting.name, scale=setting.scale)

    to_test = f"harness run {a.method}-SIZE --seed N, and {b.method}-SIZE"
    return Claim(what, "", f"{a.label()} is better than {b.label()}", "", test, to_test)


def _arm(text: str) -> Arm:
    """ "sddit:discriminate=false:mask_ratio=0.5" as an arm."""
    method, *settings = text.strip().split(":")
    knobs = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"{setting!r} in the arm {text!r} has no '='; write it like sddit:mask_ratio=0.5.")
        knobs[name] = plain_values(value)
    return Arm(method, knobs)


def power_of(claim: Claim, evidence: Evidence, *, effect: float | None = None) -> list[Power]:
    """One for each comparison of distances that the claim makes, wherever the evidence has runs for it.

    The effect is `effect` where it is given, else the paper's ratio, else the measured one. Raises DataError where no
    comparison has two seeds in each arm: without a spread, the number of seeds would be a guess.
    """
    found = [
        _power(comparison, judgement.setting, effect)
        for judgement in judge([claim], evidence)
        for comparison in judgement.comparisons
        if comparison.n >= FEWEST_SEEDS and not comparison.exact and comparison.unit == "run"
    ]
    if not found:
        raise DataError(
            f"there are no runs with two seeds of both arms of {claim.id}, so their spread is not known, and how many "
            f"seeds it needs would be a guess. Run two seeds of each first: {claim.to_test}"
        )
    return found


def _power(comparison: Comparison, setting: str, effect: float | None) -> Power:
    spreads = spread(comparison.values[0]), spread(comparison.values[1])
    if effect is not None:
        ratio, whose = effect, "asked for"
    elif comparison.published not in (None, 1):
        ratio, whose = comparison.published, "the paper's"
    else:
        ratio, whose = comparison.mean, "measured"
    return Power(comparison, setting, spreads, ratio, whose, seeds_needed(ratio, *spreads))


def lines(found: Sequence[dict[str, Any]]) -> list[str]:
    """The answer as text: what was measured, what it needs, what can be seen."""
    said: list[str] = []
    for each in found:
        needed = each["seeds_needed"]
        seen = ", ".join(f"{ratio - 1:.1%} at n = {n}" for n, ratio in each["smallest_ratio_seen"].items())
        said += [
            f"{each['subject']} / {each['other']}, {each['quantity']}: {each['setting']}",
            f"  measured {each['measured_ratio']:.4g}{_interval(each['interval'])}, n = {each['n']}",
            f"  spread over seeds {each['spreads'][0]:.1%} and {each['spreads'][1]:.1%}",
            f"  a ratio of {each['effect']:.4g} ({each['effect_is']}) needs "
            + (f"{needed} seeds of each" if needed else f"more than {MOST_SEEDS:,} seeds of each"),
            f"  smallest difference seen: {seen}",
        ]
    fewest = min(each["n"] for each in found)
    return [*said, f"For {POWER:.0%} power at {ALPHA:.0%}. {_doubt(fewest)}"]


def _interval(bounds: Sequence[float] | None) -> str:
    return "" if bounds is None else f" ({bounds[0]:.4g} to {bounds[1]:.4g}, 95%)"


def _doubt(seeds: int) -> str:
    """How far off a standard deviation of so many values may be: Pearson's chi-squared."""
    from scipy.stats import chi2

    low, high = (math.sqrt((seeds - 1) / chi2.ppf(q, seeds - 1)) for q in (0.975, 0.025))
    return f"A spread of {seeds} seeds is itself uncertain: the true one may be {low:.2g} to {high:.2g} times as large."
