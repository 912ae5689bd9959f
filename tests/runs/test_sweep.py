"""Sweeps: which runs they ask for, and how they are carried out in real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import answer, invoke

from harness.papers import sweeps
from harness.planning.plan import resolve
from harness.runs import sweep
from harness.system.errors import UsageError

SMALL = (
    "steps=4", "batch_size=8", "width=16", "depth=3", "network.num_heads=2", "num_images=50", "sampling.num_steps=2",
    "log_every=2",
)  # fmt: skip
SMALL_SDDIT = ("num_prototypes=16", "head_hidden=8", "head_bottleneck=4", "decoder_heads=2", "decoder_depth=1")
OF_THE_DEMO = [name for name in sweeps.names() if "tiny" in sweeps.scales(name)]


def tasks(name: str, out: Path, seeds=(0,), scale="tiny") -> list[sweep.Task]:
    return sweep.tasks(sweeps.plan(name, scale), out, seeds=seeds)


def arguments(*given: str, out: Path) -> list[str]:
    own = SMALL_SDDIT if "components" in given else ()
    settings = [part for assignment in (*SMALL, *own) for part in ("--set", assignment)]
    return ["sweep", *given, "--scale", "tiny", "--out", str(out), *settings]


# What is asked for -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "scale"), [(name, scale) for name in sweeps.names() for scale in sweeps.scales(name)])
def test_every_run_of_every_sweep_is_a_valid_configuration(name, scale):
    plan = sweeps.plan(name, scale, images="photographs")
    for member in plan.members:
        cfg = resolve(member.recipe, list(member.assignments))
        assert cfg.size == member.recipe.rpartition("-")[2]
    assert len({resolve(m.recipe, list(m.assignments)).run_id for m in plan.members}) == len(plan.members)


def test_a_run_that_several_sweeps_ask_for_is_made_once_with_all_that_any_of_them_evaluates(tmp_path):
    everything = tasks(sweeps.ALL, tmp_path)
    assert len({task.folder for task in everything}) == len(everything)
    default = [task for task in everything if task.label == "sddit-tiny"]
    assert [(task.guided, task.milestones) for task in default] == [((1.5,), 3)]
    for name in OF_THE_DEMO:
        assert {task.folder for task in tasks(name, tmp_path)} <= {task.folder for task in everything}


def test_the_demo_has_three_seeds_and_all_runs_of_a_seed_come_before_the_next(tmp_path):
    made = sweep.tasks(sweeps.plan("figure3", "tiny"), tmp_path)
    assert [task.seed for task in made] == [0] * 4 + [1] * 4 + [2] * 4


def test_the_paper_s_own_values_are_among_those_of_its_ablations(tmp_path):
    labels = {name: {task.label for task in tasks(name, tmp_path, scale="paper")} for name in OF_THE_DEMO}
    assert {f"sddit-s mask_ratio={ratio}" for ratio in (0, 0.5, 0.9)} | {"sddit-s"} <= labels["mask-ratio"]
    noise = {"sddit-s mask_ratio=0.5", *(f"sddit-s mask_ratio=0.5 teacher_sigma={s}" for s in (0.3, 0.5, "student"))}
    assert noise <= labels["teacher-noise"]
    assert {"sddit-s mask_ratio=0.5 discriminate=false", "sddit-s mask_ratio=0"} <= labels["components"]


def test_runs_that_encode_images_wait_until_their_folder_is_named():
    assert len(sweeps.plan("figure3", "paper").waiting_for_images) == 2
    with_images = sweeps.plan("figure3", "paper", images="photographs")
    assert not with_images.waiting_for_images
    assert sum("data=photographs" in member.assignments for member in with_images.members) == 2


@pytest.mark.parametrize(
    ("name", "scale", "says"),
    [
        ("figure4", "tiny", "figure3"),
        ("figure3", "huge", "paper or tiny or mini"),
        ("apart", "paper", "say --scale mini"),
    ],
)
def test_an_unknown_sweep_or_scale_names_the_known_ones(name, scale, says):
    with pytest.raises(UsageError, match=says):
        sweeps.plan(name, scale)


# How it is carried out ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_makes_its_runs_once_and_its_guided_evaluations_too(tmp_path):
    plan = sweeps.plan("components", "tiny")
    members = [plan.members[0]._replace(guided=(1.5,)), plan.members[1]]
    made = sweep.tasks(plan._replace(members=members), tmp_path, seeds=[0], assignments=(*SMALL, *SMALL_SDDIT))
    sweep.run(made)
    assert [sweep.outcome_of(task).state for task in made] == ["finished"] * 2
    evaluations = [json.loads(path.read_text()) for path in (made[0].folder / "evaluations").glob("*.json")]
    assert {evaluation["protocol"]["guidance_scale"] for evaluation in evaluations} == {None, 1.5}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    sweep.run(made)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == before


@pytest.mark.slow
def test_a_run_that_fails_does_not_stop_the_others_and_is_named(tmp_path):
    plan = sweeps.plan("components", "tiny")
    broken = sweep.tasks(plan, tmp_path, seeds=[0], assignments=(*SMALL, *SMALL_SDDIT))[0].folder
    broken.parent.mkdir(parents=True)
    broken.write_text("in the way")
    done = invoke(*arguments("components", "--seeds", "0", out=tmp_path))
    assert done.exit_code == 4
    assert "1 run(s) failed: sddit-tiny mask_ratio=0.5 seed 0" in done.stderr
    assert len(list(tmp_path.glob("sddit-tiny/*/result.json"))) == 2


@pytest.mark.slow
def test_a_sweep_that_is_told_to_stop_ends_with_75_and_the_same_command_continues_it(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", *arguments("components", "--seeds", "0", "--set", "steps=400", out=tmp_path)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while not any(path.read_text() for path in tmp_path.glob("sddit-tiny/*/metrics.jsonl")):
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "continues" in said
    folder = next(path.parent for path in tmp_path.glob("sddit-tiny/*/metrics.jsonl"))
    assert list((folder / "checkpoints").glob("step-*"))
    shown = answer(*arguments("components", "--seeds", "0", "--set", "steps=400", "--dry-run", out=tmp_path), "--json")
    assert [run["state"] for run in json.loads(shown)["runs"]] == ["begun", "waiting", "waiting"]


def test_a_dry_run_lists_the_runs_in_80_columns_and_starts_none(tmp_path):
    told = answer(*arguments("all", out=tmp_path), "--dry-run")
    assert max(map(len, told.splitlines())) <= 80
    assert "0 of " in told
    assert not list(tmp_path.iterdir())
