"""How many seeds a comparison needs: against tables and simulated runs, and refused where no spread is known."""

import math

import numpy as np
import pytest
from run_folders import write_run
from scipy import stats

from harness.claims.arms import arm
from harness.claims.intervals import power, seeds_needed, smallest_ratio
from harness.claims.places import Distances
from harness.claims.power import Power, claim_of, lines, power_of
from harness.claims.predicates import Lower
from harness.papers.claims import claims_of
from harness.records.evidence import gather
from harness.system.errors import DataError, UsageError

CLAIMS = claims_of()
DIT, SDDIT = arm("dit"), arm("sddit")


def write(root, method: str, values, **more):
    for seed, value in enumerate(values):
        write_run(root, method, seed=seed, distance=value, **more)


def test_the_table_of_equal_spreads_is_met():
    """Two-sided t test at 5%, 80% power: 17 in each group for one standard deviation, 64 for half of one."""
    assert seeds_needed(math.exp(1.0), 1.0, 1.0) == 17
    assert seeds_needed(math.exp(0.5), 1.0, 1.0) == 64
    assert seeds_needed(math.exp(-0.5), 1.0, 1.0) == 64


def test_an_arm_may_have_several_knobs_and_knobs_that_are_lists():
    claim = claim_of("sddit:discriminate=false:mask_ratio=0,sddit:teacher_momentum=[0.98, 0.98]", CLAIMS)
    assert claim.statement == "SD-DiT (without L_D, mask ratio 0) is better than SD-DiT (teacher momentum [0.98, 0.98])"


@pytest.mark.parametrize(("ratio", "a", "b", "seeds"), [(0.8, 0.1, 0.1, 5), (1.5, 0.3, 0.05, 5), (1.0, 0.2, 0.1, 8)])
def test_the_power_is_how_often_welch_s_test_sees_the_ratio_in_simulated_runs(ratio, a, b, seeds):
    random = np.random.default_rng(0)
    ours, theirs = random.normal(math.log(ratio), a, (20_000, seeds)), random.normal(0, b, (20_000, seeds))
    seen = stats.ttest_ind(ours, theirs, axis=1, equal_var=False).pvalue < 0.05
    assert power(ratio, a, b, seeds) == pytest.approx(seen.mean(), abs=0.03)


@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_the_smallest_difference_seen_needs_just_so_many_seeds(seeds):
    ratio = smallest_ratio(0.1, 0.05, seeds)
    assert seeds_needed(ratio * 1.001, 0.1, 0.05) == seeds
    assert power(ratio, 0.1, 0.05, seeds) == pytest.approx(0.8, abs=1e-3)


def test_more_seeds_than_a_thousand_are_not_counted():
    assert seeds_needed(1.0001, 0.5, 0.5) is None


def test_a_claim_s_own_effect_and_the_runs_own_spread_decide(tmp_path):
    write(tmp_path, "sddit", (10, 11, 12))
    write(tmp_path, "dit", (20, 20.5, 21))
    write(tmp_path, "mdt", (14, 15, 16))
    found = power_of(claim_of("fid-order", CLAIMS), gather([tmp_path]))
    assert [(each.comparison.subject, each.effect_is) for each in found] == [
        ("SD-DiT", "the paper's"),
        ("SD-DiT", "the paper's"),
    ]
    assert found[0].effect == pytest.approx(48.39 / 53.46)
    assert found[0].spreads[0] == pytest.approx(np.std(np.log([10, 11, 12]), ddof=1))
    assert found[0].seeds == seeds_needed(48.39 / 53.46, *found[0].spreads)


def test_two_arms_can_be_named_with_their_knobs_and_an_effect(tmp_path):
    write(tmp_path, "sddit", (10, 11), knobs={"discriminate": False})
    write(tmp_path, "sddit", (20, 23), knobs={"discriminate": True})
    claim = claim_of("sddit:discriminate=false,sddit:discriminate=true", CLAIMS)
    (found,) = power_of(claim, gather([tmp_path]), effect=0.98)
    assert found.comparison.values == ((10.0, 11.0), (20.0, 23.0))
    assert (found.effect, found.effect_is) == (0.98, "asked for")
    text = "\n".join(lines([found.as_json()]))
    assert "SD-DiT (without L_D) / SD-DiT (with L_D), fd-digits@1k" in text
    assert f"needs {found.seeds} seeds of each" in text
    assert "may be 0.45 to 32 times as large" in text


def test_without_two_seeds_of_both_arms_nothing_is_guessed(tmp_path):
    write(tmp_path, "dit", (20, 21, 22))
    with pytest.raises(DataError, match="no runs with two seeds of both arms of dit,sddit, so their"):
        power_of(claim_of("dit,sddit", CLAIMS), gather([tmp_path]))
    write(tmp_path, "sddit", (10,))
    with pytest.raises(DataError, match=r"would be a guess\. Run two seeds of each first: harness run dit-SIZE"):
        power_of(claim_of("dit,sddit", CLAIMS), gather([tmp_path]))


@pytest.mark.parametrize("what", ["fid-ordr", "dit", "dit,mdt,sddit", "dit,sddit:mask_ratio"])
def test_what_is_neither_a_claim_nor_two_arms_is_refused(what):
    with pytest.raises(UsageError):
        claim_of(what, CLAIMS)


# By another yardstick ------------------------------------------------------------------------------------------------


@pytest.fixture
def with_errors(tmp_path):
    for method, errors in {"dit": (0.50, 0.51), "sddit": (0.40, 0.42)}.items():
        for seed, error in enumerate(errors):
            metrics = {"fd-digits@1k": 5.0, "denoiser_error@297": error, "linear_probe@297": 0.8}
            write_run(tmp_path, method, seed=seed, metrics=metrics)
    return tmp_path


def test_runs_can_be_compared_by_a_yardstick_of_held_out_images(with_errors):
    (found,) = power_of(claim_of("sddit,dit", CLAIMS), gather([with_errors], "denoiser_error"))
    assert isinstance(found, Power)
    assert found.comparison.quantity == "denoiser_error@297"
    assert found.comparison.values == ((0.40, 0.42), (0.50, 0.51))


def test_a_claim_may_name_its_yardstick(with_errors):
    from harness.claims.machines import Index

    index = Index(gather([with_errors]))
    (by_error,) = Distances("s", 600, Lower(SDDIT, DIT), yardstick="denoiser_error")(index)
    (by_distance,) = Distances("s", 600, Lower(SDDIT, DIT))(index)
    assert by_error.comparisons[0].values == ((0.40, 0.42), (0.50, 0.51))
    assert by_distance.comparisons[0].mean == 1.0
    assert "The distance is denoiser_error@297, not FID-50K." in by_error.notes


@pytest.mark.parametrize("yardstick", ["linear_probe", "precision", "mood"])
def test_a_yardstick_of_which_more_is_better_cannot_stand_for_a_distance(with_errors, yardstick):
    with pytest.raises(UsageError, match="less of it must be better"):
        gather([with_errors], yardstick)
