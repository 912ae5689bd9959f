"""What `harness doctor` tries: weights, data, a step of a method, processes that meet."""

import hashlib
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import baselines
from harness.checks.doctor import processes, trials, weights
from harness.checks.doctor.checks import checks
from harness.data.latents import vae
from harness.evaluation.networks import inception, transformers_networks

# Weights, references, data ---------------------------------------------------------------------------------------

EMA = "stabilityai/sd-vae-ft-ema"
WEIGHTS = {
    "inception": inception.PUBLISHED.sha256,
    EMA: vae.PUBLISHED[EMA].sha256,
    **{name: each.published.sha256 for name, each in transformers_networks.ARCHITECTURES.items()},
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_not_there_come_with_address_place_and_hash_and_others_in_their_place_are_a_failure(name):
    absent = weights.published(name, "no images yet")
    assert (absent.status, absent.found) == ("warning", "not there: no images yet")
    assert weights.published(name).status == "ok"  # one that nothing needs
    assert WEIGHTS[name] in absent.advice
    address = re.search(r"https://\S+", absent.advice)[0]
    path = Path(re.search(r" to (\S+) ", absent.advice)[1])  # the advice names the file to make
    path.parent.mkdir(parents=True)
    path.write_bytes(b"cut off")
    wrong = weights.published(name)
    assert wrong.status == "failure"
    assert hashlib.sha256(b"cut off").hexdigest()[:12] in wrong.found
    assert address in wrong.advice


def test_weights_with_the_pinned_hash_are_fine(tmp_path, monkeypatch):
    path = tmp_path / "HARNESS_CACHE" / "inception" / inception.PUBLISHED.file
    path.parent.mkdir()
    path.write_bytes(b"stand-in")
    sha256 = hashlib.sha256(b"stand-in").hexdigest()
    monkeypatch.setattr(inception, "PUBLISHED", replace(inception.PUBLISHED, sha256=sha256))
    assert weights.published("inception").status == "ok"


def test_latents_that_are_damaged_are_a_failure(tmp_path):
    assert weights.latents("imagenet-256", "no training yet").status == "warning"
    assert weights.latents("imagenet-512").status == "ok"
    (tmp_path / "HARNESS_DATA" / "imagenet-256").mkdir()
    finding = weights.latents("imagenet-256", "no training yet")
    assert finding.status == "failure"
    assert "harness data encode" in finding.advice


def test_a_reference_that_is_not_there_comes_with_its_address_and_place():
    absent = weights.reference("VIRTUAL_imagenet256_labeled.npz", "no FID yet")
    path = Path(re.search(r"Fetch https://\S+ to (\S+)\.$", absent.advice)[1])
    path.parent.mkdir()
    path.write_bytes(bytes(2048))
    assert absent.status == "warning"
    assert weights.reference("VIRTUAL_imagenet256_labeled.npz", "no FID yet").found == f"{path}, 2.0 kB"


# A run in small --------------------------------------------------------------------------------------------------


def test_a_parameter_without_a_gradient_and_a_loss_that_is_not_finite_are_found(monkeypatch):
    build = baselines.build

    def with_unused(cfg):
        method = build(cfg)
        method.register_parameter("unused", torch.nn.Parameter(torch.zeros(1)))
        return method

    def with_nan(cfg):
        method = build(cfg)
        forward = method.forward
        method.forward = lambda *given: {name: value * float("nan") for name, value in forward(*given).items()}
        return method

    monkeypatch.setattr(baselines, "build", with_unused)
    assert "1 parameter(s) without a gradient, unused" in trials.step("dit").found
    monkeypatch.setattr(baselines, "build", with_nan)
    assert trials.step("dit").found == "its loss is nan"


def test_every_method_has_a_check_and_a_broken_plug_in_hides_no_other_method(monkeypatch):
    monkeypatch.setattr("harness.recipes.reading.broken", lambda: {"minsnr": "its package is gone", "dit": "refused"})
    found = {check.name: check.ask for check in checks(2, {})}
    assert {f"step {name}" for name in baselines.names()} - {"step minsnr"} <= found.keys()
    assert "step minsnr" not in found
    assert found["step dit"]().status == "ok"
    assert (found["plug-in minsnr"]().status, found["plug-in dit"]().found) == ("failure", "refused")


@pytest.mark.parametrize(("out", "errors", "code", "status", "says"), [
    (b"", b"", None, "warning", "did not start"),
    (processes.HERE.encode(), b"", None, "failure", "did not meet"),
    (processes.HERE.encode(), b"error: a port is closed\n", 1, "failure", "by gloo: error: a port is closed"),
    (b"", b"", 0, "failure", "exit code 0"),
    (processes.AGREED.format(2, "gloo").encode(), b"", 0, "ok", "2 processes by gloo"),
])  # fmt: skip
def test_processes_that_do_not_meet_are_a_failure_and_slow_ones_a_warning(out, errors, code, status, says, monkeypatch):
    def run(command, *, timeout, **given):
        if code is None:
            raise subprocess.TimeoutExpired(command, timeout, out, errors)
        return subprocess.CompletedProcess(command, code, out, errors)

    monkeypatch.setattr(subprocess, "run", run)
    finding = processes.all_reduce(2)
    assert finding.status == status
    assert says in finding.found
