import math
import random

import numpy as np
import pytest
from scipy import stats

from harness.claims.comparison import DECIDED, INCONCLUSIVE, NOT_REPRODUCED, NOT_TESTED, REPRODUCED, Comparison
from harness.claims.intervals import apart, false_discovery, smallest_ratio, student
from harness.claims.verdict import (
    Judgement,
    conclude,
    confidence_of_failure,
    decisive,
    effect,
    hold_false_discoveries,
    statistical_notes,
)

T_95 = {2: 12.7062, 3: 4.30265, 5: 2.77645}  # Student's t at 97.5%, by n: any table of it


def compared(*logs: float, claimed="below", **more) -> Comparison:
    """Of processes of a bench, whose ratios have these logarithms."""
    values = tuple(math.exp(log) for log in logs), (1.0,) * len(logs)
    return Comparison("A", "B", "FID-50K", values, claimed, unit="process", **more)


def of_runs(a, b, claimed="below", **more) -> Comparison:
    return Comparison("A", "B", "FID-50K", (tuple(a), tuple(b)), claimed, **more)


@pytest.mark.parametrize("logs", [(-0.3, -0.1), (-0.3, -0.2, -0.1), (-0.5, -0.4, -0.3, -0.2, -0.1)], ids=len)
def test_the_interval_of_processes_is_students_of_the_logarithms(logs):
    n = len(logs)
    mean = sum(logs) / n
    sd = math.sqrt(sum((log - mean) ** 2 for log in logs) / (n - 1))
    low, high = compared(*logs).interval()
    assert math.log(low) == pytest.approx(mean - T_95[n] * sd / math.sqrt(n), abs=1e-4)
    assert math.log(high) == pytest.approx(mean + T_95[n] * sd / math.sqrt(n), abs=1e-4)
    assert compared(*logs).mean == pytest.approx(math.exp(mean))


def test_the_interval_of_runs_is_welchs():
    """Against scipy's own Welch interval, with unequal numbers and spreads."""
    a, b = (2.0, 2.1, 1.9, 2.3), (3.0, 2.5, 3.6)
    theirs = stats.ttest_ind(np.log(a), np.log(b), equal_var=False).confidence_interval(0.95)
    assert of_runs(a, b).interval() == pytest.approx(tuple(np.exp(theirs)), rel=1e-9)


def test_the_probabilities_of_both_sides_agree_with_the_interval():
    a, b = (2.0, 2.1, 1.9, 2.3), (3.0, 2.5, 3.6)
    ours, theirs = of_runs(a, b).probabilities()
    assert ours == pytest.approx(stats.ttest_ind(np.log(a), np.log(b), equal_var=False).pvalue, rel=1e-9)
    assert theirs == 1.0
    low, high = of_runs(a, b).interval(1 - ours)
    assert max(low, high) == pytest.approx(1.0, rel=1e-9)  # at that confidence the interval ends at the bound


def test_equivalence_is_two_one_sided_tests():
    a, b = (1.00, 1.03, 1.01, 0.98), (1.0, 1.02, 0.99, 1.01)
    comparison = of_runs(a, b, "within", bound=1.08)
    differ = [stats.ttest_ind(np.log(a), np.log(b) + shift, equal_var=False) for shift in (-np.log(1.08), np.log(1.08))]
    larger = max(each.pvalue for each in differ)
    assert comparison.probabilities()[0] == pytest.approx(larger, rel=1e-6)
    assert comparison.verdict() == REPRODUCED
    assert of_runs(a, b, "within", bound=1.02).verdict() == INCONCLUSIVE
    assert of_runs(a, [2 * x for x in b], "within", bound=1.08).verdict() == NOT_REPRODUCED


def test_one_run_that_jumped_makes_no_verdict_and_is_named_with_what_the_others_give():
    steady = (1.00, 1.01, 0.99, 1.005, 0.995, 1.002)
    jumped = (1.3, 1.31, 1.29, 1.305, 1.295, 0.5)
    assert of_runs(steady, jumped).verdict() == INCONCLUSIVE  # without the jump it would be reproduced
    assert of_runs(steady, jumped).without_jump.verdict() == REPRODUCED
    assert of_runs(steady, jumped[:-1]).verdict() == REPRODUCED
    assert of_runs(steady, jumped).jumped == (1, 5)


@pytest.mark.parametrize(
    ("values", "place"),
    [((2.2, 2.0, 15.4), 2), ((2.2, 2.0, 3.5), None), ((0.252, 0.244, 0.251, 0.247, 0.252, 0.269, 0.25, 0.248), 5)],
)
def test_a_run_lies_apart_by_a_factor_of_two_or_beyond_what_the_others_predict(values, place):
    assert apart(values) == place


def test_few_runs_are_called_apart_where_none_is():
    draw = np.random.default_rng(0)
    found = sum(apart(np.exp(draw.normal(0, 0.05, 6))) is not None for _ in range(4000))
    assert found / 4000 == pytest.approx(0.01, abs=0.005)


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
    values = (0.95, 0.96, 0.97), (1.0,) * 3
    near = Comparison("A", "C", "FID-50K", values, "below", published=0.9, unit="process")
    few = effect([GOOD, near], decisive([GOOD, near], REPRODUCED))
    of_c = "A 0.960 x C (0.935 to 0.985, n = 3 processes), paper 0.900"
    assert few == f"FID-50K: A 0.819 x B (0.799 to 0.839, n = 3 processes); {of_c}"
    many = [GOOD, GOOD, near, GOOD]
    text = effect(many, decisive(many, REPRODUCED))
    assert (
        text == "FID-50K: A 0.960 x C (0.935 to 0.985, n = 3 processes), paper 0.900; the most adverse of 4 comparisons"
    )


def test_the_decisive_comparison_is_one_with_the_verdict_of_the_whole():
    faster = Comparison("A", "B", "steps/s", ((0.5, 0.51, 0.49), (1.0,) * 3), "above", unit="process")
    assert decisive([GOOD, faster], conclude([GOOD, faster])) is faster


def test_notes_tell_single_pairs_repeated_numbers_and_how_many_were_compared():
    notes = "\n".join(statistical_notes([compared(-0.2), compared(0.1, 0.1), GOOD]))
    assert "n = 1 (A / B): a direction without a spread" in notes
    assert "equal to the last digit" in notes
    assert "3 comparisons: all must hold at 95%; one counts as failed at 98.3% (Bonferroni)" in notes


def test_extreme_ratios_neither_overflow_nor_become_json_that_is_none():
    wild = of_runs((1e-300, 1e300), (1.0, 2.0))
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
    assert (document["n"], document["ratio"]) == (3, GOOD.mean)
    assert document["comparisons"][0]["verdict"] == "reproduced"


# False discoveries, and whether the promised error rates hold --------------------------------------------------------


def test_the_control_of_false_discoveries_is_benjamini_and_hochbergs():
    """The worked example of their paper (1995, Section 3.2): at 5% the first four of fifteen are rejected."""
    found = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528,
             0.7590, 1.0]  # fmt: skip
    shares = false_discovery(found)
    assert [share <= 0.05 for share in shares] == [True] * 4 + [False] * 11
    assert shares == pytest.approx(list(stats.false_discovery_control(found)))


def judgements(comparisons) -> tuple[Judgement, ...]:
    """One claim for each comparison, concluded and held as a report does it."""
    made = [
        Judgement(str(i), "", "", "", "demo", "digits", "", conclude([c]), "", c, (c,))
        for i, c in enumerate(comparisons)
    ]
    return hold_false_discoveries(made)


def test_a_verdict_that_does_not_survive_among_the_others_says_what_it_would_be_alone():
    barely, nothing = of_runs((1.0, 1.1, 0.9), (1.3, 1.45, 1.2)), of_runs((1.0, 1.4, 0.8), (1.0, 0.9, 1.3))
    assert conclude([barely]) == REPRODUCED
    held, *_ = judgements([barely, *[nothing] * 9])
    assert held.verdict == INCONCLUSIVE
    assert "Alone it would be reproduced (p = 0.0" in held.notes[-1]
    assert judgements([barely])[0].verdict == REPRODUCED


@pytest.mark.parametrize(
    ("n", "spreads", "alone", "of_a_report"),
    [(3, (0.1, 0.1), 0.05, 0.06), (5, (0.1, 0.1), 0.055, 0.06), (5, (0.02, 0.2), 0.055, 0.06),
     (9, (0.02, 0.2), 0.055, 0.06),
     (3, (0.02, 0.2), 0.062, 0.12)],
)  # fmt: skip
def test_the_promised_error_rates_hold_where_nothing_differs(n, spreads, alone, of_a_report):
    """1,000 reports of ten claims each, all arms equal: any decided claim is a false one. docs/verdicts.md has them."""
    draw, reports, claims = np.random.default_rng(n), 1000, 10
    decided_alone = reports_with_one = 0
    for _ in range(reports // 10):
        batch = []
        for _ in range(10 * claims):
            a, b = (np.exp(draw.normal(0, spread, n)) for spread in spreads)
            batch.append(of_runs(a, b))
        decided_alone += sum(conclude([each]) in DECIDED for each in batch)
        for first in range(0, len(batch), claims):
            held = judgements(batch[first : first + claims])
            reports_with_one += any(judgement.verdict in DECIDED for judgement in held)
    assert decided_alone / (reports * claims) < alone
    assert reports_with_one / reports < of_a_report  # all discoveries are false, so this is the share of false ones


def test_effects_are_found_as_often_as_the_power_says():
    """An effect that five runs see with 80% power."""
    draw, found, times = np.random.default_rng(1), 0, 1500
    ratio = 1 / smallest_ratio(0.1, 0.1, 5)
    for _ in range(times):
        a, b = np.exp(draw.normal(np.log(ratio), 0.1, 5)), np.exp(draw.normal(0, 0.1, 5))
        found += of_runs(a, b).estimate.interval(0.95)[1] < 1
    assert found / times == pytest.approx(0.8, abs=0.03)


def test_a_direction_without_the_papers_size_is_told_as_such():
    held = judgements([of_runs((1.0, 1.01, 0.99), (1.2, 1.21, 1.19), published=0.3)])
    assert (held[0].verdict, held[0].as_large) == (REPRODUCED, False)
    assert judgements([of_runs((1.0, 1.01, 0.99), (1.2, 1.21, 1.19), published=1 / 1.2)])[0].as_large is True
