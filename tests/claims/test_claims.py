"""Claims judged on real run folders of the demo's scale."""

import re
from dataclasses import replace

import pytest
from claim_worlds import AS_PUBLISHED, AT_THE_DEMO, CLAIMS, KNOBS, PAPER_ONLY, UNTESTED, arm, judged, sddit, write
from run_folders import write_run

from harness.claims import judge as judge_claims
from harness.claims.comparison import INCONCLUSIVE, NOT_REPRODUCED, NOT_TESTED, REPRODUCED
from harness.claims.power import claim_of
from harness.papers import published
from harness.papers.claims import judge
from harness.records.evidence import Evidence, gather
from harness.records.schema import Device
from harness.records.trials import settings

# Every claim, at the demo's scale --------------------------------------------------------------------------------


@pytest.mark.parametrize("claim", [c for c in AT_THE_DEMO if c != "no-inference-overhead"])
@pytest.mark.parametrize("verdict", [REPRODUCED, NOT_REPRODUCED])
def test_a_claim_holds_in_a_world_like_the_papers_and_fails_in_one_turned_round(worlds, claim, verdict):
    (judgement,) = worlds[verdict][claim]
    assert judgement.verdict == verdict, judgement
    assert judgement.scale == "demo"
    assert judgement.runs
    assert judgement.effect


@pytest.mark.parametrize("claim", [c for c in AT_THE_DEMO if c != "no-inference-overhead"])
@pytest.mark.parametrize("world", [INCONCLUSIVE, "one seed"])
def test_a_claim_is_open_where_seeds_differ_more_than_arms_and_with_one_seed(worlds, world, claim):
    (judgement,) = worlds[world][claim]
    assert judgement.verdict == INCONCLUSIVE, judgement


def test_what_is_true_by_construction_is_not_called_tested(worlds):
    (judgement,) = worlds[REPRODUCED]["no-inference-overhead"]
    assert judgement.verdict == NOT_TESTED
    assert judgement.missing[0].startswith("a way in which it could fail: it is true by construction, since both arms")


@pytest.mark.parametrize("claim", [c.id for c in CLAIMS])
def test_a_claim_without_its_runs_is_not_tested_and_says_what_would_test_it(worlds, claim):
    (judgement,) = worlds[NOT_TESTED][claim]
    assert (judgement.verdict, judgement.scale, judgement.n, judgement.effect) == (NOT_TESTED, None, 0, "")
    if claim in UNTESTED:
        assert judgement.missing
        assert not judgement.to_test
    else:
        assert judgement.to_test.startswith("harness ")


def test_a_verdict_on_the_demo_says_that_it_says_nothing_of_imagenet(worlds):
    for judgements in worlds[REPRODUCED].values():
        for judgement in judgements:
            if judgement.scale == "demo":
                assert any("says nothing of ImageNet" in note for note in judgement.notes)
                assert "FID-50K:" not in judgement.effect


def test_no_claim_of_the_papers_sizes_is_judged_on_the_demo_twice(worlds):
    for claim in PAPER_ONLY:
        (judgement,) = worlds[REPRODUCED][claim]
        assert judgement.verdict == NOT_TESTED


def test_claims_have_distinct_names_and_places_and_every_number_is_a_published_one():
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)
    printed = {f"{value:g}" for value in published.rows()["value"]} | {"48.4", "5.4"}  # the text's roundings
    for claim in CLAIMS:
        assert re.search(r"Table|Fig\.|Sec\.|App\.", claim.place)
        for number in re.findall(r"\d+\.\d+", claim.published):
            assert f"{float(number):g}" in printed | {"0.002", "0.2", "0.5", "0.9", "0.3"}, (claim.id, number)


# Arms ------------------------------------------------------------------------------------------------------------


def test_equal_seeds_are_no_pairs(tmp_path):
    """Seeds differ sixfold and arms by a tenth in each: paired they would tell, but nothing makes them pairs."""
    for seed, level in ((0, 10.0), (1, 30.0), (2, 60.0)):
        write_run(tmp_path, "sddit", seed=seed, distance=level * (0.9 + 0.001 * seed), knobs=KNOBS["sddit"])
        write_run(tmp_path, "maskdit", seed=seed, distance=level, knobs=KNOBS["maskdit"])
    (judgement,) = judged(tmp_path)["maskdit-worse"]
    assert (judgement.verdict, judgement.seeds) == (INCONCLUSIVE, (0, 1, 2))
    assert judgement.ratio == pytest.approx(0.901, abs=1e-3)


def test_every_seed_of_both_arms_is_used(tmp_path):
    write(tmp_path, [arm("sddit", 4.0)], seeds=(0, 1, 7, 8))
    write(tmp_path, [arm("maskdit", 5.0)], seeds=(0, 1, 2))
    (judgement,) = judged(tmp_path)["maskdit-worse"]
    assert (judgement.n, judgement.seeds) == (3, (0, 1, 2, 7, 8))
    assert "n = 4 and 3" in judgement.effect


def test_a_run_that_jumped_is_counted_and_named(tmp_path):
    write(tmp_path, [arm("sddit", 2.0), arm("maskdit", 2.1)], seeds=(0, 1))
    write(tmp_path, [arm("sddit", 15.4), arm("maskdit", 2.1)], seeds=(2,))
    (judgement,) = judged(tmp_path)["maskdit-worse"]
    assert (judgement.verdict, judgement.n) == (INCONCLUSIVE, 3)
    (note,) = [note for note in judgement.notes if "lies apart" in note]
    assert "seed2" in note
    assert "at 7.69 times" in note


def test_the_notes_say_what_the_runs_can_see(worlds):
    (judgement,) = worlds[INCONCLUSIVE]["maskdit-worse"]
    assert judgement.detectable > 1.2
    assert any("n = 3 of each sees a difference of" in note for note in judgement.notes)


def test_arms_of_one_method_differ_in_nothing_but_what_is_compared(tmp_path):
    """More runs of another knob do not push the pairs that belong together aside."""
    write(tmp_path, [sddit(4.0, mask_ratio=0.5), sddit(5.0, mask_ratio=0.5, discriminate=False)], seeds=(0, 1))
    write(tmp_path, [sddit(1.0, mask_ratio=0.5, num_prototypes=64)], seeds=(0, 1, 2, 3))
    (judgement,) = judged(tmp_path)["discrimination-helps"]
    assert judgement.n == 2
    assert judgement.ratio == pytest.approx(0.8, rel=0.01)


def test_arms_of_one_method_may_differ_in_any_knob_that_both_name_and_in_no_other(tmp_path):
    few, many = {"mask_ratio": 0.5, "num_prototypes": 64}, {"mask_ratio": 0.5, "num_prototypes": 256}
    write(tmp_path, [sddit(4.0, **few), sddit(5.0, **many)])
    write(tmp_path, [sddit(1.0, **many, teacher_momentum=[0.9, 0.9])], seeds=(0, 1, 2, 3))
    claim = claim_of("sddit:mask_ratio=0.5:num_prototypes=64,sddit:mask_ratio=0.5:num_prototypes=256", CLAIMS)
    (judgement,) = judge_claims([claim], gather([tmp_path]))
    assert (judgement.verdict, judgement.n) == (REPRODUCED, 3)
    assert judgement.ratio == pytest.approx(0.8, rel=0.01)


def test_a_run_is_read_at_equal_steps_from_runs_of_that_length_first(tmp_path):
    write(tmp_path, [arm("sddit", 4.0), arm("dit", 5.0)])
    write(tmp_path, [arm("dit", 2.0, protocol={"steps": 3000}, milestones={600: 1.0})])
    (judgement,) = judged(tmp_path)["faster-and-better-than-dit"]
    assert judgement.comparisons[0].mean == pytest.approx(0.8, rel=0.01)
    assert "600 steps" in judgement.setting


def test_arms_that_never_met_at_equal_steps_are_not_compared(tmp_path):
    write(tmp_path, [arm("sddit", 4.0), arm("maskdit", 5.0, protocol={"steps": 900})])
    assert judged(tmp_path)["maskdit-worse"][0].verdict == NOT_TESTED


def test_settings_are_judged_apart(tmp_path):
    write(tmp_path / "a", [arm("sddit", 4.0), arm("maskdit", 5.0)])
    other = {"learning_rate": 5e-4}
    write(tmp_path / "b", [arm("sddit", 5.0, protocol=other), arm("maskdit", 4.0, protocol=other)], seeds=(0, 1, 3))
    assert sorted(j.verdict for j in judged(tmp_path)["maskdit-worse"]) == [NOT_REPRODUCED, REPRODUCED]


def test_distances_of_synthetic_data_are_not_judged(tmp_path):
    write(tmp_path, [arm("sddit", 4.0), arm("maskdit", 5.0)], real=False)
    (judgement,) = judged(tmp_path)["maskdit-worse"]
    assert judgement.verdict == NOT_TESTED
    assert "synthetic data mean nothing" in judgement.missing[0]


def test_speeds_of_two_machines_are_not_compared(tmp_path):
    write(tmp_path, [arm("sddit", 4.0, 9.0)])
    write(tmp_path, [arm("dit", 5.0, 5.0)], device=Device(name="Another", kind="cpu", count=1, threads=2))
    found = judged(tmp_path)
    assert found["faster-than-dit"][0].verdict == NOT_TESTED
    assert found["faster-and-better-than-dit"][0].verdict == NOT_TESTED


def test_a_distance_that_is_no_positive_number_is_not_used(tmp_path):
    write(tmp_path, [arm("sddit", 4.0), arm("maskdit", 5.0)], seeds=(0, 1))
    write(tmp_path, [arm("sddit", 0.0), arm("maskdit", 5.0)], seeds=(2,))
    assert judged(tmp_path)["maskdit-worse"][0].n == 2


# All of it -------------------------------------------------------------------------------------------------------


def test_every_seed_of_a_thousand_runs_counts(tmp_path):
    runs = gather([write(tmp_path, AS_PUBLISHED, seeds=range(4))]).runs
    many = [
        replace(run, result=run.result.model_copy(update={"seed": run.result.seed + 4 * times}))
        for times in range(14)
        for run in runs
    ]
    evidence = Evidence(tuple(many), tuple(settings(many)[0]))
    first, second = judge(evidence), judge(evidence)
    assert max(judgement.n for judgement in first) == 56
    assert [judgement.as_json() for judgement in first] == [judgement.as_json() for judgement in second]
