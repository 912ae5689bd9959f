from pathlib import Path

import pytest
from claim_worlds import AT_THE_DEMO, PAPERS, TOO_CLOSE, arm, full, judged, write

from harness.claims.comparison import INCONCLUSIVE, NOT_REPRODUCED, NOT_TESTED, REPRODUCED
from harness.claims.verdict import agreement
from harness.papers.claims import judge
from harness.papers.sddit.tolerance import FID_WITHIN, outside_tolerance
from harness.records.evidence import gather


def checked(root: Path) -> list[str]:
    evidence = gather([root])
    return outside_tolerance(evidence, judge(evidence))


def real_sddit(distance: float, **more) -> dict:
    """With every knob that the paper prints."""
    printed = {"decoder_depth": 8, "student_temperature": 0.1, "teacher_momentum": [0.996, 0.999]}
    return full("sddit", "s", distance, knobs=PAPERS["sddit"] | printed | more.pop("knobs", {}), **more)


def test_a_number_made_as_the_paper_made_it_must_lie_near_the_published_one(tmp_path):
    write(tmp_path / "near", [real_sddit(48.39 * (1 + FID_WITHIN - 0.01))])
    assert checked(tmp_path / "near") == []
    write(tmp_path / "far", [real_sddit(60.0)])
    (failure,) = checked(tmp_path / "far")
    assert failure.startswith("SD-DiT-S/2 after 400000 steps: FID-50K 60")
    assert "published 48.39" in failure
    assert failure.endswith("+24%, tolerance 12%.")


def test_a_number_far_better_than_the_published_one_is_outside_tolerance_too(tmp_path):
    write(tmp_path, [real_sddit(30.0)])
    (failure,) = checked(tmp_path)
    assert "-38%, tolerance 12%. Better than published is as suspicious as worse." in failure


def test_an_ablations_number_is_held_to_its_own_row(tmp_path):
    write(tmp_path / "near", [real_sddit(62.0, knobs={"mask_ratio": 0.5, "discriminate": False})])
    assert checked(tmp_path / "near") == []
    write(tmp_path / "far", [real_sddit(48.0, knobs={"mask_ratio": 0.5, "discriminate": False})])
    (failure,) = checked(tmp_path / "far")
    assert "without L_D" in failure
    assert "published 62.84" in failure


@pytest.mark.parametrize("other", [{"protocol": {"learning_rate": 3e-4}}, {"knobs": {"num_prototypes": 1024}}], ids=str)
def test_a_number_made_otherwise_is_not_held_to_the_papers(tmp_path, other):
    write(tmp_path, [real_sddit(90.0, **other)])
    assert checked(tmp_path) == []


def test_a_claim_that_fails_under_the_papers_own_conditions_fails_the_check(tmp_path):
    write(tmp_path, [real_sddit(52.0), full("maskdit", "s", 50.0)])
    assert [failure for failure in checked(tmp_path) if failure.startswith("maskdit-worse (Sec. 4.2; Fig. 3) is not")]


def test_equal_evidence_agrees_with_its_own_judgements(worlds):
    judgements = [judgement for several in worlds[REPRODUCED].values() for judgement in several]
    assert agreement(judgements, [judgement.as_json() for judgement in judgements]) == []


def test_a_verdict_that_turned_round_is_a_contradiction(worlds):
    now = [judgement for several in worlds[NOT_REPRODUCED].values() for judgement in several]
    before = [judgement.as_json() for several in worlds[REPRODUCED].values() for judgement in several]
    contradictions = agreement(now, before)
    true_by_construction = {"no-inference-overhead"}  # and so never tested
    assert {text.partition(" ")[0] for text in contradictions} == {*AT_THE_DEMO, *TOO_CLOSE} - true_by_construction
    assert any(text.startswith("fid-order in digits") for text in contradictions)


def test_intervals_that_do_not_meet_are_a_contradiction_and_wide_ones_are_none(tmp_path, worlds):
    before = [judgement.as_json() for judgement in worlds[REPRODUCED]["maskdit-worse"]]
    write(tmp_path, [arm("sddit", 30.0), arm("maskdit", 60.0)])
    (text,) = agreement(judged(tmp_path)["maskdit-worse"], before)
    assert "the intervals do not meet" in text
    assert agreement(worlds[INCONCLUSIVE]["maskdit-worse"], before) == []


def test_a_check_that_compared_nothing_has_not_passed(worlds):
    before = [judgement.as_json() for judgement in worlds[REPRODUCED]["maskdit-worse"]]
    assert agreement(worlds[NOT_TESTED]["maskdit-worse"], before) == [
        "none of the 1 earlier verdicts was reached again, so nothing was compared."
    ]
    assert agreement(worlds[REPRODUCED]["maskdit-worse"], []) == []
