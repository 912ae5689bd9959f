"""Claims of a paper, judged by runs: comparison pairs the runs, predicates ask of them, verdict concludes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from harness.claims.machines import Index
from harness.claims.verdict import NOT_TESTED, Found, Judgement, conclude, decisive, effect, statistical_notes
from harness.records.evidence import Evidence

NOT_THE_PAPERS = {
    "demo": "A verdict on the demo (digits, a tiny network); it says nothing of ImageNet.",
    "other": "A verdict on this setting only; it is not the paper's.",
}
SO_FAR = "measured so far: "

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


def judge(claims: Iterable[Claim], evidence: Evidence) -> tuple[Judgement, ...]:
    """For each claim one judgement per setting in which it could be tested; one "not tested" where there is none."""
    index = Index(evidence)
    return tuple(judgement for claim in claims for judgement in _judge(claim, index))


def _judge(claim: Claim, index: Index) -> Iterator[Judgement]:
    judged = [_judgement(claim, found) for found in claim.test(index)]
    tested = [judgement for judgement in judged if judgement.verdict != NOT_TESTED or judgement.void]
    if tested:
        yield from tested
    else:
        yield max(judged, key=lambda judgement: len(judgement.comparisons), default=_judgement(claim, Found()))


def _judgement(claim: Claim, found: Found) -> Judgement:
    comparisons = found.comparisons
    verdict = conclude(comparisons, found.lacking)
    chosen = decisive(comparisons, verdict)
    if not comparisons:  # nothing was measured, so there is no place to name
        found = Found(lacking=found.lacking, missing=found.missing)
    so_far = SO_FAR if comparisons and verdict == NOT_TESTED else ""
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
