"""Claims of a paper, judged by runs: arms finds the runs, predicates ask of them, verdict concludes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from harness.claims.comparison import NOT_TESTED, REPRODUCED
from harness.claims.machines import Index
from harness.claims.verdict import (
    SIZE_NOT,
    Found,
    Judgement,
    conclude,
    decisive,
    effect,
    hold_false_discoveries,
    statistical_notes,
)
from harness.records.evidence import Evidence

NOT_THE_PAPERS = {
    "demo": "A verdict on the demo (digits, a tiny network); it says nothing of ImageNet.",
    "other": "A verdict on this setting only; it is not the paper's.",
}
SO_FAR = "measured so far: "
TRUE_ANYWAY = "a way in which it could fail: it is true by construction, since {why}"

Test = Callable[[Index], Iterable[Found]]


@dataclass(frozen=True)
class Claim:
    """One statement of a paper, and the predicate over results that tests it."""

    id: str
    place: str  # where the paper says it: "Table 1; Sec. 4.2"
    statement: str
    published: str  # the numbers printed for it
    test: Test
    to_test: str  # the command whose runs test it
    note: str = ""  # what a reader of its verdict should know
    by_construction: str = ""  # why it cannot fail here, so that no measurement tests it


def judge(claims: Iterable[Claim], evidence: Evidence) -> tuple[Judgement, ...]:
    """For each claim one judgement per setting in which it could be tested; one "not tested" where there is none."""
    index = Index(evidence)
    return hold_false_discoveries([judgement for claim in claims for judgement in _judge(claim, index)])


def _judge(claim: Claim, index: Index) -> Iterator[Judgement]:
    judged = [_judgement(claim, found) for found in claim.test(index)]
    tested = [judgement for judgement in judged if judgement.verdict != NOT_TESTED or judgement.void]
    if tested:
        yield from tested
    else:
        yield max(judged, key=lambda judgement: len(judgement.comparisons), default=_judgement(claim, Found()))


def _judgement(claim: Claim, found: Found) -> Judgement:
    comparisons = found.comparisons
    if claim.by_construction:
        comparisons = tuple(replace(each, void=TRUE_ANYWAY.format(why=claim.by_construction)) for each in comparisons)
    verdict = conclude(comparisons, found.lacking)
    chosen = decisive(comparisons, verdict)
    if not comparisons:  # nothing was measured, so there is no place to name
        found = Found(lacking=found.lacking, missing=found.missing)
    so_far = SO_FAR if comparisons and verdict == NOT_TESTED else ""
    if verdict == REPRODUCED and any(comparison.as_large is False for comparison in comparisons):
        so_far = f"{SIZE_NOT}: "
    notes = [claim.note, NOT_THE_PAPERS.get(found.scale or "", ""), *(n for c in comparisons for n in c.notes)]
    notes += [*statistical_notes(comparisons), *found.notes]
    differences = (*found.differences, *(d for c in comparisons for d in c.differences))
    return Judgement(
        claim=claim.id,
        place=claim.place,
        statement=claim.statement,
        published=claim.published,
        scale=found.scale,
        setting=found.title,
        setting_name=found.name,
        verdict=verdict,
        effect=so_far + ". ".join(part for part in (effect(comparisons, chosen), *found.remarks) if part),
        decisive=chosen,
        comparisons=comparisons,
        missing=tuple(dict.fromkeys((*found.lacking, *(c.void for c in comparisons if c.void), *found.missing))),
        differences=tuple(dict.fromkeys(differences)) if found.scale == "paper" else (),
        notes=tuple(dict.fromkeys(note for note in notes if note)),
        to_test=claim.to_test,
    )
