"""From repeated measurements to a verdict.

A comparison is one ratio, measured once for each pair: two runs with the same seed, or two contenders in one round of
a bench. The logarithms of the ratios are taken as draws from one normal distribution, so that their mean has Student's
t interval (n - 1 degrees of freedom). A verdict states the geometric mean and that interval, at 95%.

  reproduced      the whole interval lies on the claimed side
  not reproduced  the whole interval lies on the other side
  inconclusive    the interval covers the bound, or there are fewer than three pairs: one pair has no spread, and two
                  may agree by chance
  not tested      something that the claim is about was not measured, or what was measured cannot tell

A claim of several comparisons ("best of six") is reproduced when all of them are. This needs no correction, since each
has to pass by itself. The claim fails when any one comparison fails, and the more there are, the likelier one fails by
chance. A failure is therefore judged at 1 - 0.05 / K for K comparisons (Bonferroni). Each claim is judged on its own:
of twenty true claims about one may look wrong by chance.
"""

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Literal

from harness.records.trials import Scale
from harness.system.groups import grouped

Verdict = Literal["reproduced", "not reproduced", "inconclusive", "not tested"]
Claimed = Literal["below", "above", "within"]  # where the ratio lies, relative to a bound
REPRODUCED: Verdict = "reproduced"
NOT_REPRODUCED: Verdict = "not reproduced"
INCONCLUSIVE: Verdict = "inconclusive"
NOT_TESTED: Verdict = "not tested"
DECIDED = (REPRODUCED, NOT_REPRODUCED)
VERDICTS = (REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE, NOT_TESTED)

IN_JSON = (  # what claims.json has of a judgement
    "claim", "place", "statement", "published", "scale", "setting", "setting_name", "verdict", "effect", "ratio",
    "interval", "n", "seeds", "runs", "published_ratio", "comparisons", "missing", "differences", "notes", "to_test",
)  # fmt: skip

ALPHA = 0.05
FEWEST_PAIRS = 3  # behind a verdict
MOST_SHOWN = 3  # comparisons that an effect spells out; of more, only the decisive one
LARGEST_LOG = 700.0  # exp of more is no float
ALIKE = 1e-12  # logarithms that differ by no more are one measurement, repeated


@dataclass(frozen=True)
class Comparison:
    """What one part of a claim compares: `subject` over `other`, once a pair."""

    subject: str  # "SD-DiT"
    other: str  # "MDT"
    quantity: str  # "FID-50K", "steps/s"
    ratios: tuple[float, ...]  # positive; subject over other
    claimed: Claimed  # on which side of `bound` the claim says the ratio lies
    bound: float = 1.0  # within: between 1 / bound and bound
    published: float | None = None  # the ratio of the paper's numbers
    values: tuple[tuple[float, float], ...] = ()  # of the two arms, a pair each, where they are distances
    pairs: Literal["seed", "round"] = "seed"
    seeds: tuple[int, ...] = ()
    runs: tuple[str, ...] = ()
    among: int = 1  # it was chosen as the most adverse of that many
    exact: bool = False  # it repeats to within `margin`, so that one pair decides
    margin: float = 0.0  # relative
    differences: tuple[str, ...] = ()  # from the paper's conditions
    notes: tuple[str, ...] = ()
    void: str = ""  # what is not measured and without which it decides nothing, whatever its interval

    @property
    def n(self) -> int:
        """How many pairs: of seeds, or of rounds of a bench."""
        return len(self.ratios)

    @property
    def mean(self) -> float:
        """The geometric mean ratio."""
        return math.exp(statistics.fmean(self._logs))

    @property
    def degenerate(self) -> bool:
        """Whether all ratios are equal to the last digit: then they are no repetitions, and have no spread."""
        return self.n > 1 and max(self._logs) - min(self._logs) <= ALIKE

    @property
    def enough(self) -> bool:
        """Whether there are pairs enough for a verdict."""
        return not self.void and (self.exact or self.n >= FEWEST_PAIRS)

    def interval(self, confidence: float = 1 - ALPHA) -> tuple[float, float] | None:
        """The interval of the mean ratio, None without a spread; an exact quantity has its lowest and highest ratio."""
        if self.exact:
            return min(self.ratios), max(self.ratios)
        if self.n < 2 or self.degenerate:
            return None
        centre = statistics.fmean(self._logs)
        reach = student(self.n - 1, confidence) * statistics.stdev(self._logs) / math.sqrt(self.n)
        return _exp(centre - reach), _exp(centre + reach)

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
        spread = f"{_number(interval[0])} to {_number(interval[1])}, " if interval else ""
        how = "counted" if self.exact and not self.margin else f"{spread}n = {self.n}"
        published = f", paper {_number(self.published)}" if self.published is not None else ""
        return f"{self.subject} {_number(self.mean)} x {self.other} ({how}){published}"

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
            "pairs": self.pairs,
            "seeds": list(self.seeds),
            "ratios": list(self.ratios),
            "published_ratio": self.published,
            "verdict": self.verdict(confidence),
        }

    @cached_property
    def _logs(self) -> tuple[float, ...]:
        return tuple(math.log(ratio) for ratio in self.ratios)


@dataclass(frozen=True)
class Found:
    """What a claim's test found in one place: in a setting, on a machine, or in a count."""

    comparisons: tuple[Comparison, ...] = ()
    lacking: tuple[str, ...] = ()  # not measured, and without it the claim is not tested
    missing: tuple[str, ...] = ()  # not measured, and only reported
    remarks: tuple[str, ...] = ()  # effects besides the ratios
    scale: Scale | None = None
    title: str = ""  # the place, in words
    name: str = ""
    differences: tuple[str, ...] = ()  # from the paper's conditions
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judgement:
    """What was found about one claim in one setting."""

    claim: str
    place: str  # where the paper says it
    statement: str
    published: str  # the paper's numbers, as text
    scale: Scale | None  # None: not tested anywhere
    setting: str  # title; empty when not tested
    setting_name: str
    verdict: Verdict
    effect: str
    decisive: Comparison | None  # the comparison that the verdict hangs on
    comparisons: tuple[Comparison, ...] = ()
    missing: tuple[str, ...] = ()  # what the claim is also about and was not measured
    differences: tuple[str, ...] = ()  # from the paper's conditions; only at the paper's scale, elsewhere most differ
    notes: tuple[str, ...] = ()
    to_test: str = ""  # the command whose runs test it

    @property
    def void(self) -> bool:
        """Whether something was compared that decides nothing, for a reason that `missing` tells."""
        return any(comparison.void for comparison in self.comparisons)

    @property
    def ratio(self) -> float | None:
        return self.decisive.mean if self.decisive else None

    @property
    def interval(self) -> tuple[float, float] | None:
        return self.decisive.interval() if self.decisive else None

    @property
    def n(self) -> int:
        return self.decisive.n if self.decisive else 0

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({seed for comparison in self.comparisons for seed in comparison.seeds}))

    @property
    def runs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for comparison in self.comparisons for name in comparison.runs))

    @property
    def published_ratio(self) -> float | None:
        return self.decisive.published if self.decisive else None

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, texts and lists, no NaN."""
        document = {name: getattr(self, name) for name in IN_JSON}
        confidence = confidence_of_failure(self.comparisons)
        document["comparisons"] = [comparison.as_json(confidence) for comparison in self.comparisons]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in document.items()}


def conclude(comparisons: Sequence[Comparison], lacking: Sequence[str] = ()) -> Verdict:
    """The verdict on a claim that asks for all of `comparisons`, and for what is `lacking` besides.

    One comparison that fails decides, whatever else was not measured.
    """
    confidence = confidence_of_failure(comparisons)
    if any(comparison.refuted(confidence) for comparison in comparisons):
        return NOT_REPRODUCED
    if lacking or not comparisons or any(comparison.void for comparison in comparisons):
        return NOT_TESTED
    return REPRODUCED if all(comparison.supported() for comparison in comparisons) else INCONCLUSIVE


def confidence_of_failure(comparisons: Iterable[Comparison]) -> float:
    """At which one comparison is called a failure, so that all of them together are judged at 95%."""
    return 1 - ALPHA / max(sum(comparison.among for comparison in comparisons), 1)


def decisive(comparisons: Sequence[Comparison], verdict: Verdict) -> Comparison | None:
    """The most adverse comparison among those with the verdict of the whole."""
    confidence = confidence_of_failure(comparisons)
    alike = [comparison for comparison in comparisons if comparison.verdict(confidence) == verdict] or comparisons
    return max(alike, key=lambda comparison: comparison.adverse, default=None)


def effect(comparisons: Sequence[Comparison], chosen: Comparison | None) -> str:
    """The comparisons as text, by quantity; of many, the decisive one and how many there are."""
    if chosen is None:
        return ""
    if len(comparisons) > MOST_SHOWN:
        return f"{chosen.quantity}: {chosen.text}; the most adverse of {len(comparisons)} comparisons"
    by_quantity = grouped(comparisons, lambda comparison: comparison.quantity)
    return ". ".join(f"{quantity}: {'; '.join(each.text for each in own)}" for quantity, own in by_quantity.items())


def statistical_notes(comparisons: Sequence[Comparison]) -> Iterable[str]:
    """What a reader of the intervals has to know."""
    ordinary = [comparison for comparison in comparisons if not comparison.exact]
    single = [comparison for comparison in ordinary if comparison.n == 1]
    if single:
        which = "" if len(single) == len(ordinary) else f" ({', '.join(c.subject + ' / ' + c.other for c in single)})"
        yield f"n = 1{which}: a direction without a spread, so nothing is concluded from it."
    if any(comparison.n == 2 for comparison in ordinary):
        yield "n = 2: two ratios may agree by chance, so nothing is concluded from them."
    for comparison in ordinary:
        if comparison.degenerate:
            yield (
                f"{comparison.subject} / {comparison.other}: the {comparison.n} ratios are equal to the last digit, so "
                "they are not independent repetitions and nothing is concluded from their spread."
            )
    tries = sum(comparison.among for comparison in comparisons)
    if tries > 1 and any(comparison.interval() for comparison in ordinary):
        how = f"{100 * (1 - ALPHA / tries):.3g}%"
        yield f"{tries} comparisons: all must hold at 95%; one counts as failed at {how} (Bonferroni)."
    if any(comparison.pairs == "round" for comparison in comparisons):
        yield "n counts rounds of one process on one machine: they repeat the measurement, not the machine."


@cache
def student(degrees: float, confidence: float) -> float:
    """Half the width of Student's t interval, in standard errors."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + confidence) / 2))


def _exp(value: float) -> float:
    return math.exp(max(min(value, LARGEST_LOG), -LARGEST_LOG))


def _number(value: float) -> str:
    """Three digits, zeros kept: 1.00."""
    return f"{value:#.3g}".rstrip(".")


# Agreement with an earlier report -------------------------------------------------------------------------------------


def agreement(judgements: Sequence[Judgement], earlier: Iterable[Mapping[str, Any]]) -> list[str]:
    """Where judgements contradict those of an earlier claims.json, made in the same setting.

    A contradiction is a verdict that turned round, or an interval that does not meet the earlier one. If none of the
    earlier verdicts was reached again, that is a contradiction too: a check that compared nothing has not passed.
    """
    contradictions: list[str] = []
    compared, before = 0, 0
    for old in earlier:
        if old.get("verdict") in (None, NOT_TESTED):
            continue
        before += 1
        new = _again(judgements, old)
        if new is not None:
            compared += 1
            contradictions += _contradictions(new, old)
    if before and not compared:
        contradictions.append(f"none of the {before} earlier verdicts was reached again, so nothing was compared.")
    return contradictions


def _again(judgements: Iterable[Judgement], old: Mapping[str, Any]) -> Judgement | None:
    """The same claim, scale and setting; of several, the one whose setting has the same name, then most pairs."""
    alike = [
        judgement
        for judgement in judgements
        if judgement.verdict != NOT_TESTED
        and (judgement.claim, judgement.scale, judgement.setting)
        == (old.get("claim"), old.get("scale"), old.get("setting"))
    ]
    return max(alike, key=lambda j: (j.setting_name == old.get("setting_name"), j.n), default=None)


def _contradictions(new: Judgement, old: Mapping[str, Any]) -> Iterator[str]:
    where = f"{new.claim} in {new.setting}"
    if new.verdict in DECIDED and old["verdict"] in DECIDED and new.verdict != old["verdict"]:
        yield f"{where}: {new.verdict}, and {old['verdict']} before. Now {new.effect}; before {old.get('effect')}."
        return
    for comparison in new.comparisons:
        same = {name: getattr(comparison, name) for name in ("subject", "other", "quantity")}
        earlier: Mapping[str, Any] = next((p for p in old.get("comparisons", ()) if same.items() <= p.items()), {})
        ours, theirs = comparison.interval(), earlier.get("interval")
        near = 1 + comparison.margin
        if ours and theirs and (ours[1] * near < theirs[0] or theirs[1] * near < ours[0]):
            yield (
                f"{where}: {comparison.text} in {comparison.quantity}, and {theirs[0]:.3g} to {theirs[1]:.3g} before: "
                "the intervals do not meet."
            )
