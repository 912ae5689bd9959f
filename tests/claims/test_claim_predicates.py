"""What single predicates ask of runs and of benches."""

import json
import math
import re
from pathlib import Path

import pytest
from claim_worlds import A100, H200, arm, bench, judged, of_benches, sddit, write

from harness.claims.comparison import INCONCLUSIVE, NOT_REPRODUCED, NOT_TESTED, REPRODUCED
from harness.claims.target import steps_to_reach
from harness.papers.sddit.tolerance import outside_tolerance
from harness.records.bench_record import Bench
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
    found = re.search(
        r"sooner by a factor of ([\d.]+) .* in steps, .* in arithmetic, ([\d.]+) .* in sec", judgement.effect
    )
    steps, seconds = map(float, found.groups())
    assert steps > 5
    assert seconds == pytest.approx(steps * 9.2 / 5.03, rel=0.02)
    (judgement,) = worlds[NOT_REPRODUCED]["five-times-faster-progress"]
    assert "3 of 3 runs of SD-DiT come down to DiT's value after 3000 steps; the earliest by step" in judgement.effect


def test_a_baseline_that_still_falls_fast_is_no_test_of_five_times_the_progress(tmp_path):
    falling = {600: 20.0, 1800: 8.0}
    write(tmp_path, [arm("sddit", 10.0), arm("dit", 3.0, protocol={"steps": 3000}, milestones=falling)])
    (judgement,) = judged(tmp_path)["five-times-faster-progress"]
    assert judgement.verdict == NOT_TESTED
    assert "its distance falls 6.64 times from 600 to 3000 steps" in judgement.missing[0]


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


def test_samples_of_one_network_with_and_without_guidance_are_paired(tmp_path):
    for seed, level in ((0, 10.0), (1, 30.0), (2, 60.0)):
        write(tmp_path, [arm("sddit", level, guided={1.5: level * (0.7 + 0.01 * seed)})], seeds=(seed,))
    (judgement,) = judged(tmp_path)["guidance-helps"]
    assert judgement.verdict == REPRODUCED  # networks differ sixfold
    assert "Each network was measured twice, so its two values are paired." in judgement.notes


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
        assert judgement.ratio < 1
        (encoding,) = found[f"{claim}-encoding"]
        assert encoding.ratio > 1
    (judgement,) = found["faster-than-dit-encoding"]
    assert judgement.decisive.subject == "SD-DiT on latents"
    assert judgement.ratio == pytest.approx(0.76 / 0.23, rel=0.02)
    assert judgement.scale == "other"


def test_rounds_of_one_process_are_one_measurement_and_decide_nothing():
    (judgement,) = of_benches(on_gpu({"sddit": 9.0, "dit": 4.0}))["faster-than-dit"]
    assert (judgement.verdict, judgement.n) == (INCONCLUSIVE, 1)
    assert judgement.ratio == pytest.approx(9 / 4, rel=0.02)
    assert any("rounds of one process repeat its measurement only" in note for note in judgement.notes)


def test_processes_of_equal_benches_are_counted_and_paired_so_that_what_slows_one_cancels():
    benches = [on_gpu({"sddit": 9.0 * slow, "dit": (4.0 + 0.01 * i) * slow}, i) for i, slow in enumerate((1, 3, 0.5))]
    (judgement,) = of_benches(*benches)["faster-than-dit"]
    assert (judgement.verdict, judgement.n, judgement.scale) == (REPRODUCED, 3, "paper")
    low, high = judgement.interval
    assert 2.2 < low < high < 2.3
    assert "n = 3 processes" in judgement.effect


def on_gpu(speeds: dict[str, float], process: int = 0) -> Bench:
    return bench({(method, "cached"): speed for method, speed in speeds.items()}, H200, images=256, process=process)


def test_a_speed_on_a_cpu_is_told_and_decides_nothing():
    (judgement,) = of_benches(bench({("sddit", "cached"): 0.5, ("dit", "cached"): 1.0}))["faster-than-dit"]
    assert judgement.verdict == NOT_TESTED
    assert judgement.missing[0].startswith("a GPU's speed: the sentence is about eight A100, and this was measured on")
    assert judgement.effect.startswith("measured so far: steps/s: SD-DiT 0.50")


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
    benches = [on_gpu({"sddit": 4.0, "dit": 9.0 + 0.1 * process}, process) for process in range(3)]
    (judgement,) = of_benches(*benches)["faster-than-dit"]
    assert (judgement.scale, judgement.verdict) == ("paper", NOT_REPRODUCED)
    assert judgement.differences == ("device NVIDIA H200, 256 images on one GPU, instead of 8 x A100",)
    assert outside_tolerance(Evidence(), [judgement]) == []  # a finding under other conditions, no failed check


def test_the_faster_and_better_claim_takes_its_speeds_from_a_bench_where_runs_have_none(tmp_path):
    write(tmp_path, [arm("sddit", 48.0, 9.2, size="s"), arm("dit", 68.0, 9.0, size="s")], device=A100, world_size=8)
    speeds = {("sddit", "cached"): 9.2, ("dit", "online-vae"): 5.0}
    extra = Evidence(benches=tuple(bench(speeds, H200, images=256, process=process) for process in range(3)))
    found = judged(tmp_path, extra=extra)
    (judgement,) = found["faster-and-better-than-dit-encoding"]
    assert (judgement.verdict, judgement.scale) == (REPRODUCED, "paper")
    assert "speeds on NVIDIA H200" in judgement.effect


def test_memory_is_compared_where_a_device_held_it_and_one_measurement_is_enough():
    speeds = {("sddit", "cached"): 1.0, ("mdt", "cached"): 1.0}
    less = bench(speeds, H200, size="xl", images=32, memory={"sddit": 30 * 2**30, "mdt": 60 * 2**30})
    found = of_benches(less)
    assert found["less-memory-than-mdt"][0].verdict == REPRODUCED
    assert found["less-memory-than-mdt"][0].ratio == pytest.approx(0.5)
    assert found["memory-45-gb"][0].verdict == REPRODUCED
    more = bench(speeds, H200, size="xl", images=32, memory={"sddit": 60 * 2**30, "mdt": 30 * 2**30})
    assert of_benches(more)["less-memory-than-mdt"][0].verdict == NOT_REPRODUCED
    assert of_benches(more)["memory-45-gb"][0].verdict == NOT_REPRODUCED
    alike = bench(speeds, H200, size="xl", images=32, memory={"sddit": 1000, "mdt": 1001})
    assert of_benches(alike)["less-memory-than-mdt"][0].verdict == INCONCLUSIVE


def test_the_memory_of_a_process_on_a_cpu_is_not_judged(tmp_path):
    write(tmp_path, [arm("sddit", 4.0), arm("mdt", 5.0)])
    assert judged(tmp_path)["less-memory-than-mdt"][0].verdict == NOT_TESTED
