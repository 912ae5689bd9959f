"""From repeated measurements to a verdict.

A comparison is one ratio: the geometric mean of one arm's runs over that of the other's. Its interval is that of
Welch's test on logarithms, at 95%; harness/claims/intervals.py has the arithmetic. All runs of both arms count. They
are independent, so they are not paired by seed. Paired are two measurements of one network, like samples with and
without guidance, and two contenders of a bench in one process, where they take turns. There n counts processes, never
their rounds.

  reproduced      the whole interval lies on the claimed side
  not reproduced  the whole interval lies on the other side
  inconclusive    the interval covers the bound, or an arm has fewer than three runs: one has no spread, and two may
                  agree by chance
  not tested      something that the claim is about was not measured, or what was measured cannot tell

A claim of several comparisons ("best of six") is reproduced when all of them are. This needs no correction, since each
has to pass by itself. The claim fails when any one comparison fails, and the more there are, the likelier one fails by
chance. A failure is therefore judged at 1 - 0.05 / K for K comparisons (Bonferroni).

"Comparable" is an equivalence: the 95% interval within 1 / bound and bound is two one-sided tests at 2.5% each
(Schuirmann 1987).

Over all judgements of a report the share of false ones among the decided is held at 5% (Benjamini and Hochberg 1995). A
verdict that does not survive this is inconclusive, and a note says what it would be alone. The procedure assumes that
the judgements are independent or depend positively. Some share an arm, so this is an assumption, not a proof.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.claims.comparison import (
    DECIDED,
    INCONCLUSIVE,
    NOT_REPRODUCED,
    NOT_TESTED,
    REPRODUCED,
    Comparison,
    Verdict,
)
from harness.claims.intervals import ALPHA, false_discovery
from harness.records.trials import Scale
from harness.system.groups import grouped

IN_JSON = (  # what claims.json has of a judgement
    "claim", "place", "statement", "published", "scale", "setting", "setting_name", "verdict", "as_large", "effect",
    "ratio", "interval", "n", "probability", "false_discovery", "detectable", "seeds", "runs", "published_ratio",
    "comparisons", "missing", "differences", "notes", "to_test",
)  # fmt: skip

MOST_SHOWN = 3  # comparisons that an effect spells out; of more, only the decisive one
SIZE_NOT = "Direction reproduced, size not"


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
    false_discovery: float | None = None  # the least share of false ones, over all judgements, at which it is decided

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
    def detectable(self) -> float | None:
        return self.decisive.detectable if self.decisive else None

    @property
    def as_large(self) -> bool | None:
        """Whether what was reproduced has the paper's size too: its ratio lies in every interval that has one."""
        known = [c.as_large for c in self.comparisons if c.as_large is not None]
        return all(known) if known and self.verdict == REPRODUCED else None

    @property
    def probability(self) -> float | None:
        """The p-value, two-sided, of whichever side is likelier; None where nothing was drawn by chance."""
        drawn = [c for c in self.comparisons if not c.exact and c.estimate and c.enough]
        if not drawn or self.verdict == NOT_TESTED:
            return None
        both = [c.probabilities() for c in self.comparisons if c.enough]
        tries = sum(c.among for c in self.comparisons)
        return min(max(ours for ours, _ in both), 1.0, tries * min(theirs for _, theirs in both))

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
        yield "n = 2: two runs may agree by chance, so nothing is concluded from them."
    for comparison in ordinary:
        yield from comparison.statistical_notes()
    tries = sum(comparison.among for comparison in comparisons)
    if tries > 1 and any(comparison.interval() for comparison in ordinary):
        how = f"{100 * (1 - ALPHA / tries):.3g}%"
        yield f"{tries} comparisons: all must hold at 95%; one counts as failed at {how} (Bonferroni)."
    if any(comparison.unit == "network" for comparison in ordinary):
        yield "Each network was measured twice, so its two values are paired."
    if any(comparison.unit == "process" for comparison in comparisons):
        yield "n counts processes of a bench on one machine. The rounds of one process repeat its measurement only."


def hold_false_discoveries(judgements: Sequence[Judgement]) -> tuple[Judgement, ...]:
    """The judgements of one report, those that do not survive the control of false discoveries made inconclusive."""
    found = [judgement.probability for judgement in judgements]
    known = [probability for probability in found if probability is not None]
    shares = iter(false_discovery(known))
    return tuple(
        judgement if probability is None else _held(judgement, probability, next(shares), len(known))
        for judgement, probability in zip(judgements, found, strict=True)
    )


def _held(judgement: Judgement, probability: float, share: float, tests: int) -> Judgement:
    judgement = replace(judgement, false_discovery=share)
    if share <= ALPHA or judgement.verdict not in DECIDED:
        return judgement
    note = (
        f"Alone it would be {judgement.verdict} (p = {probability:.2g}). Chance has a part in {tests} judgements of "
        f"this report. With this one among the decided, {share:.0%} of them may be false: more than {ALPHA:.0%}."
    )
    return replace(judgement, verdict=INCONCLUSIVE, notes=(*judgement.notes, note))


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
