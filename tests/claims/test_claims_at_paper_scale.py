import pytest
from claim_worlds import full, judged, write

from harness.claims.comparison import NOT_REPRODUCED, REPRODUCED
from harness.papers.claims import judge
from harness.papers.sddit.tolerance import outside_tolerance
from harness.records.evidence import Count, Counts, Evidence

XL = [
    full("sddit", "xl", 7.21, 4.0, 2_400_000, milestones={1_100_000: 9.66, 1_300_000: 9.01}, guided={1.5: 3.23}),
    full("maskdit", "xl", 9.0, 5.0, 2_400_000, milestones={1_300_000: 12.15}, guided={1.5: 4.54}),
    full("mdt", "xl", 7.41, 1.0, 2_500_000, milestones={1_300_000: 9.60}),
    full("dit", "xl", 9.62, 2.0, 7_000_000, milestones={1_300_000: 13.0, 2_400_000: 10.67}),
    full("sddit", "xl", 6.74, 4.0, 3_500_000),
    full("mdt", "xl", 6.65, 1.0, 3_500_000),
    full("sddit", "xl", 16.78, 1.0, 150_000, protocol={"batch_size": 1024}),
    full("maskdit", "xl", 17.22, 1.0, 150_000, protocol={"batch_size": 1024}),
]


OF_THE_PAPERS_SIZES = [
    "fid-order", "fid-order-b", "fid-order-xl", "fid-final-xl", "mdt-1300k-matched",
    "mdt-3500k-matched", "five-times-faster-progress", "ahead-at-every-step", "faster-than-mdt", "faster-than-dit",
    "faster-and-better-than-dit", "parameters", "guidance-helps", "guided-better-than-maskdit", "large-batch",
]  # fmt: skip


@pytest.fixture(scope="module")
def paper_scale(tmp_path_factory) -> dict[str, list]:
    root = tmp_path_factory.mktemp("paper")
    small = [
        full(method, size, distance, speed)
        for size, values in (("s", (48.39, 53.46, 68.40)), ("b", (28.62, 34.33, 43.47)))
        for method, distance, speed in zip(("sddit", "mdt", "dit"), values, (9.2, 2.4, 5.03), strict=True)
    ]
    counts = Counts(
        harness_version="0.1.0",
        recipes={
            "sddit-xl": Count(params=740_630_000, gmacs_forward=1, gmacs_step=1),
            "maskdit-xl": Count(params=730_100_000, gmacs_forward=1, gmacs_step=1),
        },
    )
    roots = [write(root / "small", small), write(root / "xl", XL, seeds=(0, 1, 2))]
    return judged(*roots, extra=Evidence(counts=(counts,)))


@pytest.mark.parametrize("claim", OF_THE_PAPERS_SIZES)
def test_the_papers_own_numbers_reproduce_its_claims_at_its_scale(paper_scale, claim):
    judgements = [judgement for judgement in paper_scale[claim] if judgement.scale == "paper"]
    assert [judgement.verdict for judgement in judgements] == [REPRODUCED], judgements
    assert not any("says nothing of ImageNet" in note for note in judgements[0].notes)
    if claim != "parameters" and not claim.startswith("faster-than"):
        assert "FID-50K: " in judgements[0].effect


def test_the_size_and_the_steps_of_a_claim_are_the_papers(paper_scale):
    assert paper_scale["fid-order"][0].setting == "imagenet-256, size s, fp32, cached, 400000 steps, batch 256"
    assert "1300000 steps" in paper_scale["fid-order-xl"][0].setting
    assert paper_scale["large-batch"][0].setting.endswith("150000 steps, batch 1024")
    assert paper_scale["five-times-faster-progress"][0].decisive.other == "DiT after 7000000 steps"


def test_other_steps_than_the_papers_are_judged_and_told(tmp_path):
    write(tmp_path, [full("sddit", "s", 60.0, steps=100_000), full("maskdit", "s", 70.0, steps=100_000)])
    (judgement,) = judged(tmp_path)["maskdit-worse"]
    assert (judgement.scale, judgement.verdict) == ("paper", REPRODUCED)
    assert "steps 100000 instead of 400000" in judgement.differences


def test_a_wrong_count_of_parameters_is_a_failed_claim_and_a_failed_check():
    counts = Counts(
        harness_version="0.1.0", recipes={"maskdit-xl": Count(params=732_000_000, gmacs_forward=1, gmacs_step=1)}
    )
    judgements = judge(Evidence(counts=(counts,)))
    (parameters,) = [judgement for judgement in judgements if judgement.claim == "parameters"]
    assert parameters.verdict == NOT_REPRODUCED
    assert parameters.missing == ("no count of sddit-xl",)
    (failure,) = outside_tolerance(Evidence(counts=(counts,)), judgements)
    assert "732.00 M, paper 730.1 M" in failure
