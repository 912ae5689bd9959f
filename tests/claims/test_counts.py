"""What counting decides: exactly, at the paper's scale, and without a word about this build."""

import pytest

from harness.claims import Claim, judge
from harness.claims.counts import Reachable, StepAtMost
from harness.papers.claims import claims_of
from harness.papers.sddit.tolerance import outside_tolerance
from harness.planning.plan import cost_of, resolve
from harness.records.evidence import Count, Counts, Evidence


def evidence_of(**gmacs_step):
    recipes = {name: Count(params=1, gmacs_forward=1, gmacs_step=step) for name, step in gmacs_step.items()}
    return Evidence(counts=(Counts(harness_version="0.1.0", recipes=recipes),))


def judged(test, evidence):
    (found,) = judge([Claim("a", "", "", "", test, "")], evidence)
    return found


@pytest.mark.parametrize(("step", "verdict"), [(10.9, "reproduced"), (11.1, "not reproduced")])
def test_a_step_at_most_a_tenth_dearer_is_decided_by_its_count(step, verdict):
    evidence = evidence_of(**{"sddit-s": step, "sddit-s:discriminate=false": 10.0})
    found = judged(StepAtMost("sddit-s", "sddit-s:discriminate=false", 1.1), evidence)
    assert (found.verdict, found.scale, found.ratio) == (verdict, "paper", pytest.approx(step / 10))
    assert found.probability is None  # nothing was drawn by chance


def test_a_speed_is_within_reach_while_it_asks_for_less_than_the_share_of_the_peak():
    # 2 steps/s x 100 images x 5 GMAC x 2 = 2 TFLOP/s of 2 devices of 2
    evidence = evidence_of(**{"dit-s": 5.0})
    asked = Reachable("dit-s", 2.0, 100, 2, 2.0, 0.6)
    assert judged(asked, evidence).ratio == pytest.approx(0.5)
    assert judged(asked, evidence).verdict == "reproduced"
    assert judged(Reachable("dit-s", 3.0, 100, 2, 2.0, 0.6), evidence).verdict == "not reproduced"


@pytest.mark.parametrize("asked", [StepAtMost("dit-s", "sit-s", 1.1), Reachable("sit-s", 1.0, 256, 8, 19.5, 0.6)])
def test_without_a_count_nothing_is_said(asked):
    found = judged(asked, evidence_of(**{"dit-s": 5.0}))
    assert (found.verdict, found.missing) == ("not tested", ("no count of sit-s",))


def test_the_teacher_of_sddit_s_adds_71_percent_and_its_published_speed_asks_91_percent_of_float32():
    recipes = {
        "sddit-s": cost_of(resolve("sddit-s", [])),
        "sddit-s:discriminate=false": cost_of(resolve("sddit-s", ["discriminate=false"])),
    }
    evidence = Evidence(counts=(Counts(harness_version="0.1.0", recipes=recipes),))
    found = {each.claim: each for each in judge(claims_of(), evidence)}
    assert found["teacher-is-light"].ratio == pytest.approx(1.714, abs=5e-4)
    assert found["float32-speed"].ratio == pytest.approx(0.913, abs=5e-4)
    assert {found[name].verdict for name in ("teacher-is-light", "float32-speed")} == {"not reproduced"}
    # It is a finding about the paper's words, the same on every machine, so no build fails by it.
    assert outside_tolerance(evidence, tuple(found.values())) == []
