import math
import random

import pytest

from harness.claims.verdict import (
    INCONCLUSIVE,
    NOT_REPRODUCED,
    NOT_TESTED,
    REPRODUCED,
    Comparison,
    Judgement,
    conclude,
    confidence_of_failure,
    decisive,
    effect,
    statistical_notes,
    student,
)

T_95 = {2: 12.7062, 3: 4.30265, 5: 2.77645}  # Student's t at 97.5%, by n: any table of it


def compared(*logs: float, claimed="below", **more) -> Comparison:
    ratios = tuple(math.exp(log) for log in logs)
    return Comparison("A", "B", "FID-50K", ratios, claimed, seeds=tuple(range(len(logs))), **more)


@pytest.mark.parametrize("logs", [(-0.3, -0.1), (-0.3, -0.2, -0.1), (-0.5, -0.4, -0.3, -0.2, -0.1)], ids=len)
def test_the_interval_is_students_of_the_logarithms(logs):
    n = len(logs)
    mean = sum(logs) / n
    sd = math.sqrt(sum((log - mean) ** 2 for log in logs) / (n - 1))
    low, high = compared(*logs).interval()
    assert math.log(low) == pytest.approx(mean - T_95[n] * sd / math.sqrt(n), abs=1e-4)
    assert math.log(high) == pytest.approx(mean + T_95[n] * sd / math.sqrt(n), abs=1e-4)
    assert compared(*logs).mean == pytest.approx(math.exp(mean))


def test_the_quantile_of_a_stricter_confidence_is_larger():
    assert student(2, 0.95) == pytest.approx(4.30265, abs=1e-4)
    assert student(2, 0.975) == pytest.approx(6.20535, abs=1e-4)  # of 98.75%, two degrees of freedom


@pytest.mark.parametrize(
    ("logs", "verdict"),
    [
        ((-0.21, -0.20, -0.19), REPRODUCED),
        ((0.21, 0.20, 0.19), NOT_REPRODUCED),
        ((-0.3, 0.1, -0.2), INCONCLUSIVE),
        ((-0.3, -0.1), INCONCLUSIVE),  # both on the claimed side, but two differ too much from each other to tell
        ((-0.201, -0.199), INCONCLUSIVE),  # two may agree by chance
        ((-0.201, -0.199, -0.2), REPRODUCED),
        ((-0.2,), INCONCLUSIVE),  # one direction, no spread
        ((-0.2, -0.2, -0.2), INCONCLUSIVE),  # one number told three times
        ((0.2, 0.2, 0.2), INCONCLUSIVE),
    ],
)
def test_a_verdict_asks_for_the_whole_interval_on_one_side(logs, verdict):
    assert conclude([compared(*logs)]) == verdict
    assert conclude([compared(*(-log for log in logs), claimed="above")]) == verdict


@pytest.mark.parametrize(
    ("logs", "verdict"),
    [
        ((0.010, 0.012, 0.014), REPRODUCED),
        ((-0.30, -0.31, -0.32), NOT_REPRODUCED),
        ((0.30, 0.31, 0.32), NOT_REPRODUCED),
        ((0.05, 0.08, 0.11), INCONCLUSIVE),
    ],
)
def test_comparable_means_the_whole_interval_within_the_bound(logs, verdict):
    assert conclude([compared(*logs, claimed="within", bound=1.08)]) == verdict


@pytest.mark.parametrize(
    ("logs", "how", "verdict"),
    [
        ((0.0,), {"claimed": "within"}, REPRODUCED),
        ((1e-6,), {"claimed": "within"}, NOT_REPRODUCED),
        ((-0.1,), {"margin": 0.02}, REPRODUCED),
        ((0.1,), {"margin": 0.02}, NOT_REPRODUCED),
        ((0.01,), {"margin": 0.02}, INCONCLUSIVE),
        ((-0.1, 0.1), {"margin": 0.02}, INCONCLUSIVE),
    ],
)
def test_an_exact_quantity_is_decided_by_one_pair_and_its_margin(logs, how, verdict):
    assert conclude([compared(*logs, exact=True, **how)]) == verdict


# Claims of several comparisons -----------------------------------------------------------------------------------

GOOD, BAD, OPEN = compared(-0.2, -0.21, -0.19), compared(0.2, 0.21, 0.19), compared(-0.1, 0.3, 0.05)


BARELY = (0.08, 0.10, 0.15)  # the 95% interval lies just above 1, that of 99% does not


@pytest.mark.parametrize(
    ("parts", "lacking", "verdict"),
    [
        ([GOOD, GOOD], [], REPRODUCED),
        ([GOOD, OPEN], [], INCONCLUSIVE),
        ([GOOD, BAD], [], NOT_REPRODUCED),
        ([GOOD, OPEN, BAD], [], NOT_REPRODUCED),
        ([], [], NOT_TESTED),
        ([GOOD], ["a part"], NOT_TESTED),
        ([BAD], ["a part"], NOT_REPRODUCED),  # a measured part that fails decides
    ],
)
def test_a_claim_holds_when_all_its_parts_were_measured_and_do(parts, lacking, verdict):
    assert conclude(parts, lacking) == verdict


def test_a_failure_among_many_comparisons_needs_a_wider_interval():
    barely = compared(*BARELY)
    assert conclude([barely]) == NOT_REPRODUCED
    assert conclude([barely, *[GOOD] * 4]) == INCONCLUSIVE
    assert confidence_of_failure([barely, *[GOOD] * 4]) == pytest.approx(0.99)
    assert conclude([compared(*BARELY, among=5)]) == INCONCLUSIVE  # chosen as the worst of five


def test_success_needs_no_correction_since_every_part_has_to_pass():
    assert conclude([compared(*(-log for log in BARELY))] * 8) == REPRODUCED


def test_chance_alone_rarely_refutes_a_best_of_six():
    """Six equal arms: by 95% intervals one or another fails in far more than one of twenty repetitions."""
    draw, refuted, uncorrected, repetitions = random.Random(1), 0, 0, 2000
    for _ in range(repetitions):
        best = [draw.gauss(0, 0.1) for _ in range(3)]
        parts = [compared(*(b - draw.gauss(0, 0.1) for b in best)) for _ in range(6)]
        refuted += conclude(parts) == NOT_REPRODUCED
        uncorrected += any(part.refuted() for part in parts)
    assert refuted / repetitions < 0.05 < uncorrected / repetitions


def test_the_effect_tells_every_comparison_or_the_most_adverse_of_many():
    near = Comparison("A", "C", "FID-50K", (0.95, 0.96, 0.97), "below", published=0.9)
    few = effect([GOOD, near], decisive([GOOD, near], REPRODUCED))
    assert few == "FID-50K: A 0.819 x B (0.799 to 0.839, n = 3); A 0.960 x C (0.935 to 0.985, n = 3), paper 0.900"
    many = [GOOD, GOOD, near, GOOD]
    text = effect(many, decisive(many, REPRODUCED))
    assert text == "FID-50K: A 0.960 x C (0.935 to 0.985, n = 3), paper 0.900; the most adverse of 4 comparisons"


def test_the_decisive_comparison_is_one_with_the_verdict_of_the_whole():
    faster = Comparison("A", "B", "steps/s", (0.5, 0.51, 0.49), "above")
    assert decisive([GOOD, faster], conclude([GOOD, faster])) is faster


def test_notes_tell_single_pairs_repeated_numbers_and_how_many_were_compared():
    notes = "\n".join(statistical_notes([compared(-0.2), compared(0.1, 0.1), GOOD]))
    assert "n = 1 (A / B): a direction without a spread" in notes
    assert "equal to the last digit" in notes
    assert "3 comparisons: all must hold at 95%; one counts as failed at 98.3% (Bonferroni)" in notes


def test_extreme_ratios_neither_overflow_nor_become_json_that_is_none():
    wild = Comparison("A", "B", "FID-50K", (1e-300, 1e300), "below")
    low, high = wild.interval()
    assert 0 < low < high < math.inf
    assert conclude([wild]) == INCONCLUSIVE


def test_a_judgement_as_json_holds_what_its_text_says():
    judgement = Judgement(
        "a-claim", "Table 1", "A is lower.", "A 1, B 2", "demo", "digits", "abc", REPRODUCED, "text", GOOD, (GOOD,)
    )
    document = judgement.as_json()
    assert (document["claim"], document["scale"], document["verdict"]) == ("a-claim", "demo", "reproduced")
    assert document["interval"] == list(GOOD.interval())
    assert (document["n"], document["seeds"], document["ratio"]) == (3, [0, 1, 2], GOOD.mean)
    assert document["comparisons"][0]["verdict"] == "reproduced"
