"""reports/measure.sh on a machine that fails in many ways, with a stand-in for Python; what tests on a GPU ignore."""

import importlib.util
import os
import re
import subprocess
import tarfile
import warnings
from pathlib import Path

import pytest
from _pytest.config import parse_warning_filter

ROOT = Path(__file__).parents[1]
# A Python with no GPU and few packages: `bench step` crashes, another bench leaves eleven files, sampling hangs.
STAND_IN = """#!/bin/bash
echo "$* PYTHONPATH=$PYTHONPATH HARNESS_COMMIT=$HARNESS_COMMIT" >>"$CALLS"
while [[ $# -gt 0 && $1 != --out ]]; do words+=" $1"; shift; done
out=${2:-}
case $words in
*"-c import sys, torch"*) exit "${NO_GPU:-1}" ;;
" -") echo -n "pydantic tabulate " ;;
*"bench dit-tiny sddit-tiny maskdit-tiny mdt-tiny --precision"*"--compile"*) ;;
*"bench dit-tiny sddit-tiny maskdit-tiny"*) echo "no kernel image"; exit 9 ;;
*"harness run"*) sleep 30 ;;
esac
if [[ -n $out ]]; then
    mkdir -p "$out"
    for i in {0..9}; do echo "{}" >"$out/a name that is odd: $i.json"; done
    head -c 20000000 /dev/zero >"$out/trace.json"
fi
"""


@pytest.fixture
def measured(tmp_path):
    """measure.sh with the stand-in: its exit code, what it printed, the folder OUT and the calls of Python."""
    stand_in, calls = tmp_path / "python", tmp_path / "calls"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)

    def measured(*stages: str, **environment: str):
        for stage in stages:
            done = subprocess.run(
                ["bash", str(ROOT / "reports" / "measure.sh"), stage, "out"],
                cwd=tmp_path,
                env={
                    **{name: os.environ[name] for name in ("PATH", "HOME")},
                    **{"PYTHON": str(stand_in), "CALLS": str(calls), "WORK": str(tmp_path / "work")},
                    **{"SIZE": "tiny", "LIMIT": "1", **environment},
                },
                capture_output=True,
                text=True,
                timeout=60,
            )
        return done, tmp_path / "out", calls.read_text() if calls.exists() else ""

    return measured


def test_a_stage_that_fails_is_recorded_and_the_next_one_goes_on(measured):
    done, out, calls = measured("all", NO_GPU="0")
    status = (out / "all-status.txt").read_text()
    assert done.returncode == 1
    ended = {line.split(":")[0]: line.split(": ")[1] for line in status.splitlines() if "after" in line}
    assert list(ended) == ["machine", "step", "gpu", "compile", "optimised", "xl", "batch", "sampling"]
    assert ended["step"].startswith("failed with exit code 9")
    assert ended["compile"].startswith("done")
    assert ended["sampling"].startswith("stopped at its limit of 1 s")
    assert "official: left out, no CHECKOUTS were given" in status
    assert "missing packages: pydantic tabulate." in status
    assert "set WHEELS to it" in status
    assert re.findall(r"pytest (\S+) ", calls) == ["tests/gpu", "tests/gpu"]  # what a CPU can test is tested elsewhere
    assert "fp32" not in calls  # nobody asks a GPU for it
    assert f"PYTHONPATH={ROOT} " in calls  # so that the processes that a test starts find the harness


def test_what_comes_back_is_a_few_small_files_with_plain_names(measured):
    _, out, _ = measured("first", "second", "compile")
    files = list(out.rglob("*"))
    assert len(files) == 6 <= 8
    for file in files:
        assert re.fullmatch(r"[A-Za-z0-9._-]+", file.name)
        assert file.stat().st_size < 2**24
    with tarfile.open(out / "first.tgz") as tar:
        names = tar.getnames()
    assert {"./status.txt", "./step/log.txt", "./compile/a name that is odd: 0.json"} <= {*names}
    assert not any("trace" in name for name in names)


def test_a_copy_without_git_names_its_commit_and_wheels_are_installed_beside(measured, tmp_path):
    (tmp_path / "wheels").mkdir()
    done, _, calls = measured("compile", HARNESS_COMMIT="c" * 40, WHEELS="wheels")
    assert done.returncode == 0
    assert f"HARNESS_COMMIT={'c' * 40}" in calls
    assert f"--no-index --no-deps --no-compile --no-cache-dir --upgrade --target {tmp_path}/work/site" in calls
    assert f"PYTHONPATH={tmp_path}/work/site:{ROOT} " in calls


def test_a_stage_that_does_not_exist_is_refused(measured):
    done, _, calls = measured("everything")
    assert (done.returncode, calls) == (2, "")
    assert "no stage is called everything; there are first, second, all," in done.stderr


def test_the_tests_on_a_gpu_ignore_what_torch_warns_of_there_alone():
    path = ROOT / "tests" / "gpu" / "test_step_on_gpu.py"
    spec = importlib.util.spec_from_file_location("test_step_on_gpu", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for mark in module.pytestmark:
            if mark.name == "filterwarnings":
                warnings.filterwarnings(*parse_warning_filter(*mark.args, escape=False))
        for text in (
            "TensorFloat32 tensor cores for float32 matrix multiplication available but not enabled.",
            "Synchronization debug mode is a prototype feature and does not yet detect all synchronizing operations",
            "The AccumulateGrad node's stream does not match the stream of the node that produced the gradient.",
        ):
            warnings.warn(text, UserWarning, stacklevel=1)
        with pytest.raises(UserWarning):
            warnings.warn("something else", UserWarning, stacklevel=1)
