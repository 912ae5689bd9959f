"""--nproc as a user meets it: one answer, one run folder, and the same images from one process and from two."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

SMALL = ["--set", "width=16", "--set", "depth=3", "--set", "num_heads=2", "--set", "batch_size=8"]


def harness(*arguments, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "harness", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run that two processes trained and evaluated together."""
    cwd = tmp_path_factory.mktemp("two")
    evaluated = ["--set", "num_images=60", "--set", "sampling.num_steps=3"]
    done = harness("run", "dit-tiny", "--steps", "12", "--nproc", "2", "--json", *SMALL, *evaluated, cwd=cwd)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)  # one document, of the main process
    assert result["world_size"] == 2
    assert result["evaluations"].keys() == {"untrained", "final"}
    assert "Warning" not in done.stderr
    return cwd / "runs" / "dit-tiny" / result["run_id"]


def samples(folder, *arguments):
    done = harness("sample", str(folder), "--num", "7", "--npz", "--json", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    path = json.loads(done.stdout)["files"][-1]
    with np.load(path, allow_pickle=False) as content:
        images = content["arr_0"].copy()
    os.remove(path)
    return images


def test_images_do_not_depend_on_how_many_processes_draw_them(folder):
    assert np.array_equal(samples(folder), samples(folder, "--nproc", "2"))


def test_metrics_do_not_depend_on_how_many_processes_draw_and_extract(folder):
    def evaluation(*arguments):
        shutil.rmtree(folder / "features", ignore_errors=True)
        done = harness("evaluate", str(folder), "--num", "70", "--json", *arguments, cwd=folder)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    one, two = evaluation(), evaluation("--nproc", "2")
    assert two["samples_sha256"] == one["samples_sha256"]
    assert two["metrics"] == one["metrics"]


def test_a_reference_does_not_depend_on_how_many_processes_make_it(tmp_path):
    made = []
    for arguments in ((), ("--nproc", "2")):
        path = tmp_path / f"reference{len(arguments)}.npz"
        done = harness(
            "evaluate", "digits", "--make-reference", str(path), "--features", "digits", *arguments, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        with np.load(path, allow_pickle=False) as file:
            made.append({name: file[name] for name in ("mu", "sigma", "arr_0")})
    np.testing.assert_allclose(made[1]["sigma"], made[0]["sigma"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(made[1]["mu"], made[0]["mu"], rtol=1e-12)
    assert np.array_equal(made[1]["arr_0"], made[0]["arr_0"])


def test_a_run_of_two_processes_is_not_continued_by_one(folder):
    (folder / "result.json").rename(folder / "kept.json")
    done = harness("run", "--config", str(folder / "config.yaml"), "--no-eval", cwd=folder.parents[2])
    (folder / "kept.json").rename(folder / "result.json")
    assert done.returncode == 4
    assert "in 2 process(es)" in done.stderr


def test_a_batch_that_two_processes_cannot_share_is_refused_before_a_step(tmp_path):
    done = harness("run", "dit-tiny", "--nproc", "2", "--set", "batch_size=7", "--no-eval", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: a batch of 7 does not divide over 2 processes")
    assert not list(tmp_path.rglob("*.jsonl"))
