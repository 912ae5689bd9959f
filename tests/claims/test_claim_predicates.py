"""What single predicates ask of runs and of benches."""

import json
import math
import re
import statistics
from pathlib import Path

import pytest
from claim_worlds import A100, H200, arm, bench, judged, of_benches, sddit, write

from harness.claims.machines import PROCESSES_DIFFER
from harness.claims.predicates import steps_to_reach
from harness.claims.verdict import INCONCLUSIVE, NOT_REPRODUCED, NOT_TESTED, REPRODUCED, student
from harness.papers.sddit.tolerance import outside_tolerance
from harness.records.evidence import Evidence

ROOT = Path(__file__).parent.parent.parent


def test_best_of_all_needs_a_measured_value_on_either_side(tmp_path):
    write(tmp_path, [sddit(4.0), sddit(5.0, mask_ratio=0.5), sddit(6.0, mask_ratio=0.9)])
    (judgement,) = judged(tmp_path)["best-mask-ratio"]
    assert judgement.verdict == NOT_TESTED
    assert judgement.missing[0] == "no smaller value beside SD-DiT (mask ratio 0.2)"
    assert "mask ratio 0.3" in judgement.missing


def test_best_of_all_names_the_values_that_were_not_measured(worlds):
    (judgement,) = worlds[REPRODUCED]["best-mask-ratio"]
    assert judgement.missing == ("mask ratio 0.7",)
    assert judgement.decisive.other == "SD-DiT (mask ratio 0.3)"
    assert "the most adverse of 5 comparisons" in judgement.effect


def test_five_times_the_progress_tells_the_ratio_of_steps_and_of_time(worlds):
    (judgement,) = worlds[REPRODUCED]["five-times-faster-progress"]
    assert judgement.decisive.subject == "SD-DiT after 600 steps"
    assert judgement.decisive.other == "DiT after 3000 steps"
    assert "DiT takes, seed by seed, more than 5 x, more than 5 x, more than 5 x" in judgement.effect
    (judgement,) = worlds[NOT_REPRODUCED]["five-times-faster-progress"]
    assert re.search(r"less than 1 x", judgement.effect)


def test_a_curve_is_of_one_length_of_runs_where_shorter_ones_end_on_it(tmp_path):
    methods = ("sddit", "dit", "maskdit")
    long = [arm(m, d, milestones={300: d + 5}) for m, d in zip(methods, (4.0, 5.0, 5.0), strict=True)]
    short = [arm(m, d, protocol={"steps": 300}) for m, d in zip(methods, (9.0, 1.0, 1.0), strict=True)]
    write(tmp_path, long)
    write(tmp_path, short)
    write(tmp_path, [arm("sddit", 5.0, knobs={"mask_ratio": 0.5})])  # most runs are of the long kind
    (judgement,) = judged(tmp_path)["ahead-at-every-step"]
    assert (judgement.verdict, len(judgement.comparisons)) == (REPRODUCED, 4)


def test_a_late_rise_of_the_longer_run_is_no_merit(tmp_path):
    rising = {600: 9.0, 1500: 3.0, 2400: 7.0}
    write(tmp_path, [arm("sddit", 4.0, 5.0), arm("dit", 9.0, 10.0, protocol={"steps": 3000}, milestones=rising)])
    (judgement,) = judged(tmp_path)["five-times-faster-progress"]
    assert judgement.verdict == NOT_REPRODUCED
    assert judgement.decisive.other == "DiT after 1500 steps, its lowest"
    assert re.search(r"DiT takes 1\.9\d x the steps and 0\.9\d x the time", judgement.effect)


def test_a_run_far_longer_than_five_times_neither_supports_nor_refutes(tmp_path):
    write(tmp_path, [arm("sddit", 4.0), arm("dit", 2.0, protocol={"steps": 6000})])
    assert judged(tmp_path)["five-times-faster-progress"][0].verdict == NOT_TESTED


def test_steps_to_a_distance_lie_on_a_line_of_logarithms():
    curve = {100: 8.0, 400: 2.0}
    assert steps_to_reach(curve, 4.0) == ("at", pytest.approx(200))
    assert steps_to_reach(curve, 2.0) == ("at", pytest.approx(400))
    assert steps_to_reach(curve, 9.0) == ("before", 100)
    assert steps_to_reach(curve, 1.0) == ("after", 400)
    assert steps_to_reach({100: 8.0, 200: 9.0, 400: 4.0, 800: 5.0}, 4.5)[1] < 400


def test_the_guidance_scale_is_the_customary_one_and_told(tmp_path):
    write(tmp_path, [arm("sddit", 4.0, guided={1.25: 9.0, 1.5: 3.0, 4.0: 1.0})])
    (judgement,) = judged(tmp_path)["guidance-helps"]
    assert judgement.verdict == REPRODUCED
    assert "SD-DiT at scale 1.5 0.748 x SD-DiT" in judgement.effect
    assert any("states no guidance scale" in note for note in judgement.notes)


def test_mdt_without_its_positions_is_not_called_mdt(worlds):
    (judgement,) = worlds[REPRODUCED]["fid-order"]
    assert "MDT-lite" in judgement.effect
    assert "MDT-lite: MDT without its relative position bias." in judgement.notes


# Speed and memory: benches ---------------------------------------------------------------------------------------


TURNED_BY_THE_PIPELINE = {
    ("dit", "cached"): 1.57,
    ("maskdit", "cached"): 0.93,
    ("mdt", "cached"): 1.1,
    ("sddit", "cached"): 0.76,
    ("dit", "online-vae"): 0.23,
    ("maskdit", "online-vae"): 0.2,
    ("mdt", "online-vae"): 0.21,
    ("sddit", "online-vae"): 0.21,
}


def test_a_bench_shows_that_the_pipeline_turns_the_order_round():
    found = of_benches(bench(TURNED_BY_THE_PIPELINE))
    for claim in ("faster-than-dit", "faster-than-mdt", "maskdit-faster"):
        (judgement,) = found[claim]
        assert (judgement.verdict, judgement.n) == (NOT_REPRODUCED, 5)
        (encoding,) = found[f"{claim}-encoding"]
        assert encoding.verdict == REPRODUCED
    (judgement,) = found["faster-than-dit-encoding"]
    assert judgement.decisive.subject == "SD-DiT on latents"
    assert judgement.ratio == pytest.approx(0.76 / 0.23, rel=0.02)
    assert judgement.scale == "other"


def test_rounds_are_paired_so_that_what_slows_a_round_cancels():
    (judgement,) = of_benches(bench({("sddit", "cached"): 1.4, ("dit", "cached"): 1.0}))["faster-than-dit"]
    assert judgement.verdict == REPRODUCED  # rounds differ by 30%
    assert any("they repeat the measurement, not the machine" in note for note in judgement.notes)


@pytest.mark.parametrize(("ratio", "verdict"), [(0.5, NOT_REPRODUCED), (0.9, NOT_TESTED), (1.13, NOT_TESTED)])
def test_rounds_of_one_process_decide_nothing_within_what_processes_differ_by(ratio, verdict):
    (judgement,) = of_benches(bench({("sddit", "cached"): ratio, ("mdt", "cached"): 1.0}))["faster-than-mdt"]
    assert judgement.verdict == verdict
    assert any("its rounds repeat the measurement" in text for text in judgement.missing) == (verdict == NOT_TESTED)


def test_what_processes_differ_by_is_the_spread_of_the_committed_runs():
    committed = json.loads((ROOT / "reports" / "tiny" / "claims.json").read_text())
    speeds = [one for one in committed if one["setting"].endswith("training runs")]
    logs = [[math.log(ratio) for ratio in part["ratios"]] for one in speeds for part in one["comparisons"]]
    assert [len(ratios) for ratios in logs] == [3] * 4
    pooled = math.sqrt(statistics.fmean(statistics.variance(ratios) for ratios in logs))
    assert math.exp(student(8, 0.95) * pooled) == pytest.approx(PROCESSES_DIFFER, abs=0.01)


# Claims of a discriminative loss ----------------------------------------------------------------------------------


OF_TARGETS = {
    "discrimination-helps", "least-teacher-noise-best", "noise-near-student-worst",
    "noise-near-student-worse-than-its-distribution", "student-noise-worse",
}  # fmt: skip


@pytest.mark.parametrize("logged", ["loss", "information"])
@pytest.mark.parametrize("told", [0.002, 0.3])
def test_claims_of_a_loss_whose_targets_told_nothing_are_not_tested(told, logged, worlds, tmp_path):
    """In a world like the paper's they hold; the only thing changed is the log."""
    noises = {0.1: 58.0, 0.3: 65.0, 0.5: 66.2, "student": 63.4}
    arms = [sddit(53.72, mask_ratio=0.5), sddit(62.84, mask_ratio=0.5, discriminate=False)]
    write(tmp_path, arms + [sddit(fid, mask_ratio=0.5, teacher_sigma=noise) for noise, fid in noises.items()])
    for log in tmp_path.glob("sddit-tiny/*/metrics.jsonl"):
        if "discriminate: true" in (log.parent / "config.yaml").read_text():
            part = (1 - told if logged == "loss" else 0.5) * math.log(256)
            line = {"step": 20, "loss": 3.0, "loss/cls": part, "loss/patches": part}
            if logged == "information":
                line |= {"information/cls": told * math.log(256), "information/patches": told * math.log(256)}
            log.write_text(json.dumps(line) + "\n")
    found = judged(tmp_path)
    for claim in OF_TARGETS:
        (judgement,) = found[claim]
        assert judgement.verdict == (REPRODUCED if told > 0.01 else NOT_TESTED), claim
        assert any("loss tells something" in text for text in judgement.missing) == (told < 0.01)
        assert judgement.effect.startswith("measured so far") == (told < 0.01)


def test_contenders_of_other_conditions_are_not_compared():
    two = bench({("sddit", "cached"): 1.05, ("dit", "cached"): 1.0})
    apart = two.model_copy(update={"entries": [two.entries[0], two.entries[1].model_copy(update={"num_images": 8})]})
    assert of_benches(apart)["faster-than-dit"][0].verdict == NOT_TESTED


def test_a_bench_on_a_gpu_at_the_papers_batch_is_of_the_papers_scale_and_its_device_is_told():
    speeds = {("sddit", "cached"): 4.0, ("dit", "cached"): 9.0}
    (judgement,) = of_benches(bench(speeds, H200, images=256))["faster-than-dit"]
    assert (judgement.scale, judgement.verdict) == ("paper", NOT_REPRODUCED)
    assert judgement.differences == ("device NVIDIA H200, 256 images on one GPU, instead of 8 x A100",)
    assert outside_tolerance(Evidence(), [judgement]) == []  # a finding under other conditions, no failed check


def test_the_faster_and_better_claim_takes_its_speeds_from_a_bench_where_runs_have_none(tmp_path):
    write(tmp_path, [arm("sddit", 48.0, 9.2, size="s"), arm("dit", 68.0, 9.0, size="s")], device=A100, world_size=8)
    speeds = {("sddit", "cached"): 9.2, ("dit", "online-vae"): 5.0}
    extra = Evidence(benches=(bench(speeds, H200, images=256),))
    found = judged(tmp_path, extra=extra)
    (judgement,) = found["faster-and-better-than-dit-encoding"]
    assert (judgement.verdict, judgement.scale) == (REPRODUCED, "paper")
    assert "speeds on NVIDIA H200" in judgement.effect


def test_memory_is_compared_where_a_device_held_it_and_one_measurement_is_enough():
    speeds = {("sddit", "cached"): 1.0, ("mdt", "cached"): 1.0}
    less = bench(speeds, H200, size="xl", images=32, memory={"sddit": 30 * 2**30, "mdt": 60 * 2**30})
    found = of_benches(less)
    assert found["less-memory-than-mdt"][0].verdict == REPRODUCED
    assert found["less-memory-than-mdt"][0].ratio == 0.5
    assert found["memory-45-gb"][0].verdict == REPRODUCED
    more = bench(speeds, H200, size="xl", images=32, memory={"sddit": 60 * 2**30, "mdt": 30 * 2**30})
    assert of_benches(more)["less-memory-than-mdt"][0].verdict == NOT_REPRODUCED
    assert of_benches(more)["memory-45-gb"][0].verdict == NOT_REPRODUCED
    alike = bench(speeds, H200, size="xl", images=32, memory={"sddit": 1000, "mdt": 1001})
    assert of_benches(alike)["less-memory-than-mdt"][0].verdict == INCONCLUSIVE


def test_the_memory_of_a_process_on_a_cpu_is_not_judged(worlds):
    assert worlds[REPRODUCED]["less-memory-than-mdt"][0].verdict == NOT_TESTED
