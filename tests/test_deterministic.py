"""`--deterministic`: asked for, recorded, undone, and named where an operation has no such form."""

import json
import os
from pathlib import Path

import pytest
import torch
from tiny_run import run, weights_of

from harness.bench import matrix
from harness.bench.ours import HarnessStep
from harness.recipes.reading import load_recipe
from harness.system import precision
from harness.system.errors import DataError, SetupError
from harness.system.precision import CUBLAS, deterministic

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def logged(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def flags(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())["precision"]


def test_it_is_recorded_and_changes_neither_the_id_nor_a_bit_on_a_cpu(tmp_path):
    free, fixed = run(tmp_path / "free")[1], run(tmp_path / "fixed", "deterministic=true")[1]
    assert free.name == fixed.name
    assert (flags(free)["deterministic_algorithms"], flags(fixed)["deterministic_algorithms"]) == (False, True)
    assert weights_of(free) == weights_of(fixed)
    assert logged(free) == logged(fixed)
    assert not torch.are_deterministic_algorithms_enabled(), "it outlived the run"


def test_it_is_off_unless_asked_for():
    assert load_recipe("sddit-s").document["execution"]["deterministic"] is False
    with deterministic(False, GPU):
        assert not torch.are_deterministic_algorithms_enabled()


def test_a_run_is_continued_as_it_was_begun(tmp_path):
    _, folder, _ = run(tmp_path)
    (folder / "result.json").unlink()
    with pytest.raises(DataError, match=r"was begun with .*deterministic_algorithms False"):
        run(tmp_path, "deterministic=true")
    assert run(tmp_path, "deterministic=true", force=True)[1] == folder


def test_an_operation_without_a_deterministic_form_is_named():
    def put() -> None:
        torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))

    put()
    with pytest.raises(SetupError, match="put_ has no deterministic form") as caught, deterministic(True, CPU):
        put()
    assert caught.value.exit_code == 3
    assert not torch.are_deterministic_algorithms_enabled()
    put()


def test_other_errors_pass_as_they_are():
    with pytest.raises(RuntimeError, match="of another kind"), deterministic(True, CPU):
        raise RuntimeError("of another kind")


def test_what_is_in_force_is_put_back():
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    with deterministic(True, CPU):
        assert torch.are_deterministic_algorithms_enabled()
        assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == (True, False)
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == before


def test_cublas_gets_its_variable_before_cuda_is_used_or_it_is_asked_for(monkeypatch):
    monkeypatch.setenv(CUBLAS, "")
    monkeypatch.delenv(CUBLAS)
    monkeypatch.setattr(precision.torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(SetupError, match="export CUBLAS_WORKSPACE_CONFIG=:4096:8"), deterministic(True, GPU):
        pass
    monkeypatch.setattr(precision.torch.cuda, "is_initialized", lambda: False)
    with deterministic(True, GPU):
        assert os.environ[CUBLAS] == ":4096:8"
    monkeypatch.setenv(CUBLAS, ":0:0")
    with pytest.raises(SetupError, match="is :0:0"), deterministic(True, GPU):
        pass


def test_a_bench_varies_it():
    varied = {"execution.deterministic": ["off", "on"]}
    small = ["width=16", "depth=1", "num_heads=2", "batch_size=4"]
    named = dict(matrix.variants(["dit-tiny"], varied, small, data=None, resident=False))
    assert list(named) == ["dit-tiny any order", "dit-tiny deterministic"]
    step = HarnessStep("fixed", named["dit-tiny deterministic"], CPU)
    step.step()
    assert step.conditions()["deterministic"] is True
