"""--nproc as a user meets it: one answer, one run folder, and the same images from one process and from two."""

import json
import os
import shutil

import command_line
import numpy as np
import pytest
from command_line import SMALL

from harness.system.processes import launch


def harness(*arguments, cwd):
    """Exit code, stdout and stderr of a command, which is carried out in this process unless it starts several."""
    if "--nproc" not in arguments:
        done = command_line.invoke(*arguments, cwd=cwd)
        return done.exit_code, done.stdout, done.stderr
    process = command_line.harness(*arguments, cwd=cwd)
    return process.returncode, process.stdout, process.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run that two processes trained and evaluated together."""
    cwd = tmp_path_factory.mktemp("two")
    evaluated = ["--set", "num_images=60", "--set", "sampling.num_steps=3"]
    code, out, err = harness("run", "dit-tiny", "--steps", "12", "--nproc", "2", "--json", *SMALL, *evaluated, cwd=cwd)
    assert code == 0, err
    result = json.loads(out)  # one document, of the main process
    assert result["world_size"] == 2
    assert result["evaluations"].keys() == {"untrained", "final"}
    assert "Warning" not in err
    return cwd / "runs" / "dit-tiny" / result["run_id"]


def samples(folder, *arguments):
    code, out, err = harness("sample", str(folder), "--num", "7", "--npz", "--json", *arguments, cwd=folder)
    assert code == 0, err
    path = folder / json.loads(out)["files"][-1]
    with np.load(path, allow_pickle=False) as content:
        images = content["arr_0"].copy()
    os.remove(path)
    return images


@pytest.mark.slow
def test_images_do_not_depend_on_how_many_processes_draw_them(folder):
    assert np.array_equal(samples(folder), samples(folder, "--nproc", "2"))


@pytest.mark.slow
def test_metrics_do_not_depend_on_how_many_processes_draw_and_extract(folder):
    def evaluation(*arguments):
        shutil.rmtree(folder / "features", ignore_errors=True)
        code, out, err = harness("evaluate", str(folder), "--num", "70", "--json", *arguments, cwd=folder)
        assert code == 0, err
        return json.loads(out)

    one, two = evaluation(), evaluation("--nproc", "2")
    assert two["samples_sha256"] == one["samples_sha256"]
    assert two["metrics"] == one["metrics"]


@pytest.mark.slow
def test_a_reference_does_not_depend_on_how_many_processes_make_it(tmp_path):
    made = []
    for arguments in ((), ("--nproc", "2")):
        path = tmp_path / f"reference{len(arguments)}.npz"
        asked = ["evaluate", "digits", "--make-reference", str(path), "--features", "digits"]
        code, _, err = harness(*asked, *arguments, cwd=tmp_path)
        assert code == 0, err
        with np.load(path, allow_pickle=False) as file:
            made.append({name: file[name] for name in ("mu", "sigma", "arr_0")})
    np.testing.assert_allclose(made[1]["sigma"], made[0]["sigma"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(made[1]["mu"], made[0]["mu"], rtol=1e-12)
    assert np.array_equal(made[1]["arr_0"], made[0]["arr_0"])


@pytest.mark.slow
def test_a_run_of_two_processes_is_not_continued_by_one(folder):
    (folder / "result.json").rename(folder / "kept.json")
    code, _, err = harness("run", "--config", str(folder / "config.yaml"), "--no-eval", cwd=folder.parents[2])
    (folder / "kept.json").rename(folder / "result.json")
    assert code == 4
    assert "in 2 process(es)" in err


@pytest.mark.parametrize(
    ("nproc", "says"),
    [("2", "a batch of 7 does not divide over 2 processes"), ("100", "--nproc is 100, one process a processor core")],
)
def test_processes_that_cannot_share_the_batch_or_the_machine_are_refused_before_one_starts(
    nproc, says, tmp_path, monkeypatch
):
    started = []
    monkeypatch.setattr(launch, "_Processes", lambda *_: started.append(nproc))
    batch = {"2": "7", "100": "100"}[nproc]
    done = command_line.invoke(
        "run", "dit-tiny", "--nproc", nproc, "--set", f"batch_size={batch}", "--no-eval", cwd=tmp_path
    )
    assert (done.exit_code, started) == (2, [])
    assert says in " ".join(done.stderr.split())
    assert not list(tmp_path.iterdir())
