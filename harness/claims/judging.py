"""How a claim becomes judgements: its test finds comparisons in every place where it can be asked."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from harness.claims.places import Finding, Index, Test
from harness.claims.verdicts import NOT_TESTED, Judgement, conclude, decisive, effect, statistical_notes
from harness.records.evidence import Evidence

NOT_THE_PAPERS = {
    "demo": "A verdict on the demo (digits, a tiny network); it says nothing of ImageNet.",
    "other": "A verdict on this setting only; it is not the paper's.",
}

SO_FAR = "measured so far: "


@dataclass(frozen=True)
class Claim:
    """One statement of a paper, and the predicate over results that tests it."""

    id: str
    place: str  # in the paper
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
    judged = [_judgement(claim, finding) for finding in claim.test(index)]
    tested = [judgement for judgement in judged if judgement.verdict != NOT_TESTED]
    if tested:
        yield from tested
    else:
        yield max(judged, key=lambda judgement: len(judgement.comparisons), default=_judgement(claim, None))


def _judgement(claim: Claim, finding: Finding | None) -> Judgement:
    found = finding.found if finding else None
    comparisons, lacking = (found.comparisons, found.lacking) if found else ((), ())
    verdict = conclude(comparisons, lacking)
    chosen = decisive(comparisons, verdict)
    measured = finding if comparisons else None
    parts = (effect(comparisons, chosen), *(measured.found.remarks if measured else ()))
    so_far = SO_FAR if measured and verdict == NOT_TESTED else ""
    notes = [claim.note] if claim.note else []
    if measured:
        notes += [NOT_THE_PAPERS[measured.scale]] if measured.scale in NOT_THE_PAPERS else []
        notes += [note for comparison in comparisons for note in comparison.notes]
        notes += [*statistical_notes(comparisons), *measured.notes]
    differences = (*measured.differences, *(d for c in comparisons for d in c.differences)) if measured else ()
    return Judgement(
        claim=claim.id,
        place=claim.place,
        statement=claim.statement,
        published=claim.published,
        scale=measured.scale if measured else None,
        setting=measured.title if measured else "",
        setting_name=measured.name if measured else "",
        verdict=verdict,
        effect=so_far + ". ".join(part for part in parts if part),
        decisive=chosen,
        comparisons=comparisons,
        missing=tuple(dict.fromkeys((*lacking, *(found.missing if found else ())))),
        differences=tuple(dict.fromkeys(differences)) if measured and measured.scale == "paper" else (),
        notes=tuple(dict.fromkeys(notes)),
        to_test=claim.to_test,
    )
