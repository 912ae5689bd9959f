"""What `harness doctor` tries: weights, data, a step of every method, samplers, metrics, processes that meet."""

import hashlib
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import baselines
from harness.checks.doctor import processes, trials, weights
from harness.data.latents import vae
from harness.evaluation.metrics import self_test
from harness.evaluation.networks import inception, transformers_networks
from harness.model.samplers import SAMPLERS

# Weights, references, data ---------------------------------------------------------------------------------------

EMA = "stabilityai/sd-vae-ft-ema"
WEIGHTS = {
    "inception": (weights.inception, inception.PUBLISHED.sha256),
    "vae": (lambda: weights.vae(EMA, needed=True), vae.PUBLISHED[EMA].sha256),
    "dinov2": (lambda: weights.transformer("dinov2"), transformers_networks.DINOV2.published.sha256),
    "clip": (lambda: weights.transformer("clip"), transformers_networks.CLIP.published.sha256),
}


def place_named_by(mend: str, file: str) -> Path:
    """The file that a mend says to make."""
    name = re.search(r"(?:to|into) (\$HARNESS_\w+/[^\s;]+)", mend)[1].rstrip(".")
    path = Path(os.path.expandvars(name))
    return path if path.suffix else path / file


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_not_there_come_with_address_place_and_hash_and_others_in_their_place_are_a_failure(name):
    check, sha256 = WEIGHTS[name]
    absent = check()
    assert absent.status == ("ok" if name in ("dinov2", "clip") else "warning")
    assert "not there" in absent.found
    assert sha256 in absent.mend
    address = re.search(r"https://\S+", absent.mend)[0]
    path = place_named_by(absent.mend, address.rpartition("/")[2])
    path.parent.mkdir(parents=True)
    path.write_bytes(b"cut off")
    wrong = check()
    assert wrong.status == "failure"
    assert hashlib.sha256(b"cut off").hexdigest()[:12] in wrong.found
    assert address in wrong.mend


def test_weights_with_the_pinned_hash_are_fine(tmp_path, monkeypatch):
    path = tmp_path / "HARNESS_CACHE" / "inception" / inception.PUBLISHED.file
    path.parent.mkdir()
    path.write_bytes(b"stand-in")
    sha256 = hashlib.sha256(b"stand-in").hexdigest()
    monkeypatch.setattr(inception, "PUBLISHED", replace(inception.PUBLISHED, sha256=sha256))
    assert weights.inception().status == "ok"


def test_a_reference_or_latents_that_are_damaged_are_a_failure(tmp_path):
    name, data = "VIRTUAL_imagenet256_labeled.npz", tmp_path / "HARNESS_DATA"
    assert weights.reference(name, needed=True).status == "warning"
    assert weights.latents("imagenet-256", needed=True).status == "warning"
    (data / "references").mkdir()
    (data / "references" / name).write_bytes(b"PK\x03\x04 cut off")
    (data / "imagenet-256").mkdir()
    for finding in (weights.reference(name, needed=True), weights.latents("imagenet-256", needed=True)):
        assert finding.status == "failure"
        assert str(tmp_path) not in finding.found + finding.mend


class Exact:
    """A VAE that loses nothing: pixels themselves, times a scale."""

    scale = 0.5

    def moments(self, images):
        mean = images.float() / 127.5 - 1
        return torch.cat([mean, torch.zeros_like(mean)], dim=1)

    def decode(self, latents, precision):
        return latents


class Grey(Exact):
    """A VAE whose decoder knows nothing."""

    def decode(self, latents, precision):
        return 0 * latents


def test_the_round_trip_tells_a_vae_that_works_from_one_that_does_not(monkeypatch):
    assert list(weights.round_trip(EMA)) == []  # its weights are not there, and nothing untried is called ok
    for stand_in, status in ((Exact(), "ok"), (Grey(), "failure")):
        monkeypatch.setattr(vae, "load", lambda id, stand_in=stand_in: stand_in)
        assert [finding.status for finding in weights.round_trip("stand-in")] == [status]


# A run in small --------------------------------------------------------------------------------------------------


def test_every_method_and_every_sampler_does_what_it_should():
    findings = [*trials.methods(), *trials.samplers()]
    assert {finding.status for finding in findings} == {"ok"}
    assert {f"step {name}" for name in baselines.names()} < {finding.name for finding in findings}


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
    assert "1 parameter(s) without a gradient, unused" in trials._step("dit").found
    monkeypatch.setattr(baselines, "build", with_nan)
    assert trials._step("dit").found == "its loss is nan"


def test_a_broken_plug_in_is_a_failure_and_hides_no_other_method(monkeypatch):
    monkeypatch.setattr("harness.recipes.broken", lambda: {"tread": "its package is gone", "dit": "refused"})
    monkeypatch.setattr(baselines, "names", lambda: ["dit", "tread"])
    assert {finding.name: finding.status for finding in trials.methods()} == {
        "step dit": "ok",
        "plug-in tread": "failure",
        "plug-in dit": "failure",
    }


def test_images_that_are_not_finite_and_wrong_metrics_are_found(monkeypatch):
    nan = SAMPLERS["heun"]._replace(draw=lambda denoise, noise, formulation, steps: noise().float() * float("nan"))
    spoiled = {"heun": nan}
    monkeypatch.setattr("harness.model.samplers.SAMPLERS", spoiled)
    monkeypatch.setattr("harness.evaluation.generation.SAMPLERS", spoiled)
    (finding,) = trials.samplers()
    assert finding.status == "failure"
    assert "128 of the 128 values of the images are not finite" in finding.found
    assert trials.metrics().status == "ok"
    monkeypatch.setattr(self_test, "frechet_distance", lambda a, b: 1.0)
    assert "Gaussians of known distance: 1 instead of" in trials.metrics().found


def test_processes_that_do_not_meet_are_a_failure_and_ones_that_are_slow_a_warning(monkeypatch):
    monkeypatch.setattr(processes, "START_SECONDS", 0.01)
    assert processes.all_reduce(2).status == "warning"
    monkeypatch.setattr(processes, "_attended", lambda *given: (None, processes.HERE, ""))
    finding = processes.all_reduce(2)
    assert finding.status == "failure"
    assert "did not meet" in finding.found
    monkeypatch.setattr(processes, "_attended", lambda *given: (1, processes.HERE, "error: a port is closed\n"))
    assert processes.all_reduce(2).found == "2 processes by gloo: error: a port is closed"
