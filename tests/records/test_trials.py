"""Which runs' distances may be compared, and which runs stand for a method."""

from pathlib import Path

import pytest
from run_folders import XEON, write_run

from harness.records.schema import Device
from harness.records.store import find_runs
from harness.records.trials import Setting, distance_metric, has_knobs, settings

H200 = Device(name="NVIDIA H200", kind="cuda", count=8, threads=16)


def found(root: Path) -> list[Setting]:
    return settings(find_runs([root])[0])[0]


def only(root: Path) -> Setting:
    (setting,) = found(root)
    return setting


def test_methods_steps_batches_seeds_and_machines_share_a_setting(tmp_path):
    write_run(tmp_path, "dit", protocol={"steps": 3000})
    write_run(tmp_path, "sddit", seed=1)
    write_run(tmp_path, "sddit", protocol={"batch_size": 256}, device=H200)
    assert len(only(tmp_path).trials) == 3


@pytest.mark.parametrize(
    "other",
    [
        {"protocol": {"learning_rate": 1e-4}},
        {"protocol": {"pipeline": "online-vae"}},
        {"evaluation": {"num_images": 5000}},
        {"evaluation": {"reference_sha256": "a" * 64}},
        {"metrics": {"fd-digits@5k": 3.0}},
    ],
)
def test_runs_of_another_protocol_are_another_setting(other, tmp_path):
    write_run(tmp_path / "a", "dit")
    write_run(tmp_path / "b", "sddit", **other)
    assert len(found(tmp_path)) == 2


def test_the_scale_is_the_papers_only_with_imagenet_and_fid_50k(tmp_path):
    write_run(tmp_path / "demo", "dit")
    write_run(tmp_path / "paper", "dit", size="s")
    write_run(tmp_path / "other", "dit", protocol={"data": "cifar10"})
    scales = {root.name: only(root).scale for root in tmp_path.iterdir()}
    assert scales == {"demo": "demo", "paper": "paper", "other": "other"}


def test_a_method_is_stood_for_by_its_published_knobs_one_run_a_seed(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path, "sddit", seed=seed, distance=3.0 + seed)
        write_run(tmp_path, "sddit", seed=seed, distance=9.0, knobs={"mask_ratio": 0.5})
        write_run(tmp_path, "sddit", seed=seed, distance=8.0, protocol={"steps": 1200})
    setting = only(tmp_path)
    assert [trial.distance for trial in setting.select("sddit", steps=600)] == [3.0, 4.0]
    assert {trial.distance for trial in setting.select("sddit", steps=600, mask_ratio=0.5)} == {9.0}
    assert {trial.distance for trial in setting.select("sddit", steps=1200)} == {8.0}
    assert setting.values_of("sddit", "mask_ratio") == [0.2, 0.5]


EDM, GUIDED = {"evaluation": {"formulation": "edm", "sampler": "heun"}}, {"evaluation": {"guidance_scale": 1.5}}


@pytest.mark.parametrize(
    ("method", "taken", "seeds", "otherwise"),
    [
        ("dit", {}, 2, EDM),
        ("dit", {}, 2, {"evaluation": {"num_steps": 5, "nfe": 5}}),
        ("dit", {}, 2, GUIDED),
        ("dit", {}, 1, EDM),  # the published way is taken although fewer seeds have it
        ("dit", {}, 1, GUIDED),
        # No ablation of the paper varies this knob.
        ("sddit", {"knobs": {"decoder_width": 32}}, 2, {"knobs": {"decoder_width": 64}}),
    ],
)
def test_runs_made_otherwise_are_not_averaged_with_those_taken(method, taken, seeds, otherwise, tmp_path):
    for seed in range(3):
        how = taken | {"distance": 5.0} if seed < seeds else otherwise | {"distance": 1.0}
        write_run(tmp_path, method, seed=seed, **how)
    assert [trial.distance for trial in only(tmp_path).select(method)] == [5.0] * seeds


def test_a_curve_holds_the_milestones_under_the_conditions_of_the_last_step(tmp_path):
    write_run(tmp_path, "dit", distance=2.0, milestones={150: 8.0, 300: 4.0}, guided={1.5: 1.0})
    (trial,) = only(tmp_path).trials
    assert trial.curve == {150: 8.0, 300: 4.0, 600: 2.0}
    assert trial.guided == {1.5: 1.0}


def test_a_budget_is_where_most_methods_were_trained(tmp_path):
    for method in ("dit", "sddit"):
        write_run(tmp_path, method)
    for seed in range(5):
        write_run(tmp_path, "dit", seed=seed, protocol={"steps": 3000})
    setting = only(tmp_path)
    assert setting.budget() == (600, 64)
    assert setting.budget(["dit"]) == (3000, 64)


def test_a_processor_is_one_device_and_every_gpu_is_one():
    assert (XEON.num_devices, H200.num_devices) == (1, 8)


def test_a_run_without_a_distance_is_named_with_the_reason(tmp_path):
    write_run(tmp_path, "dit", distance=None)
    write_run(tmp_path, "mdt", metrics={"is-digits@1k": 5.0})
    runs, _ = find_runs([tmp_path])
    groups, left_out = settings(runs)
    assert not groups
    assert ["--no-eval" in item.reason for item in left_out] == [True, False]
    assert "no metric called fid" in left_out[1].reason


def test_a_method_whose_knobs_no_paper_prints_is_stood_for_by_whatever_it_ran_with():
    assert has_knobs("fifth", {"mask_ratio": 0.4})
    assert has_knobs("fifth", {"mask_ratio": 0.4}, {"mask_ratio": 0.4})
    assert not has_knobs("fifth", {"mask_ratio": 0.4}, {"mask_ratio": 0.5})
    assert not has_knobs("fifth", {}, {"mask_ratio": 0.5})


def test_knobs_are_the_papers_where_nothing_else_is_chosen():
    usual = {"mask_ratio": 0.2, "discriminate": True, "teacher_sigma": 0.002, "decoder_width": 32}
    assert has_knobs("sddit", usual)
    assert not has_knobs("sddit", usual | {"teacher_sigma": 0.5})
    assert has_knobs("sddit", usual | {"teacher_sigma": 0.5}, {"teacher_sigma": 0.5})
    assert not has_knobs("sddit", usual | {"mask_ratio": 0.5, "teacher_sigma": 0.5}, {"teacher_sigma": 0.5})


def test_a_run_with_a_later_knob_off_its_default_stands_for_an_arm_that_chose_it_alone():
    usual = {"mask_ratio": 0.2, "discriminate": True, "teacher_sigma": 0.002, "project_start": "xavier"}
    assert has_knobs("sddit", usual | {"stop_gradient": "none"})
    stopped = usual | {"stop_gradient": "generative"}
    assert not has_knobs("sddit", stopped)
    assert has_knobs("sddit", stopped, {"stop_gradient": "generative"})
    assert not has_knobs("mdt", {"mask_ratio": 0.3, "version": 2})


def test_of_several_numbers_of_images_the_distance_over_most_is_read():
    names = ["fd-own@1k", "fd-own@10k", "fd-own@5k", "sfd-own@10k", "denoiser_error@1k", "denoiser_error@297"]
    assert distance_metric(names) == "fd-own@10k"
    assert distance_metric(names, "fd-own") == "fd-own@10k"
    assert distance_metric(names, "fd-own@5k") == "fd-own@5k"
    assert distance_metric(names, "denoiser_error") == "denoiser_error@1k"
    assert distance_metric(["fid10k", "fid50k", "fid_infinity50k"], "fid") == "fid50k"
    assert distance_metric(names, "kid") is None
