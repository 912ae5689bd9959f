"""The denoiser's error and the linear probe: equal questions to every network, known answers where there are any."""

import math

import pytest
import torch
from small import small_config, tiny_config, trained_a_little

import baselines
from harness.data.dataset import InMemory
from harness.evaluation import held_out
from harness.evaluation.evaluate import evaluate, yardstick
from harness.evaluation.held_out import PROBED, SIGMAS, along_training, denoiser_error, linear_probe
from harness.model.formulations import EDM, FORMULATIONS, IDDPM
from harness.records.schema import Evaluation, read_record, write_record
from harness.system.processes.world import World
from harness.system.progress import NoProgress

CPU = torch.device("cpu")


class Unread(InMemory):
    """Training images that nothing may read."""

    def read(self, indices):
        raise AssertionError("these images were trained on")


def gaussian_data(kind: type[InMemory] = InMemory) -> InMemory:
    """Held-out images of independent numbers of N(0, 0.5^2)."""
    clean = 0.5 * torch.randn(400, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    data = kind("mine", clean[:100], torch.arange(100) % 10, 10)
    data.held_out = InMemory("mine, held out", clean[100:], torch.arange(300) % 10, 10)
    return data


def split(digits) -> InMemory:
    data = InMemory("digits", digits.clean[:1500], digits.labels[:1500], 10)
    data.held_out = InMemory("digits, held out", digits.clean[1500:], digits.labels[1500:], 10)
    return data


def nothing(net_input, net_noise, labels):
    return torch.zeros_like(net_input)


def no_noise(net_input, net_noise, labels):
    return torch.zeros_like(net_input).repeat(1, 2, 1, 1)


# The denoiser's error ----------------------------------------------------------------------------------------------


def test_the_best_denoiser_of_a_gaussian_has_its_posterior_variance_as_error_at_every_level():
    """Zero output makes EDM's D that denoiser; lambda times its variance s^2 d^2 / (s^2 + d^2) is 1."""
    found = denoiser_error(nothing, EDM(), gaussian_data(Unread), device=CPU)
    assert found.by_sigma == pytest.approx([1.0] * 16, abs=0.05)
    assert found.error == pytest.approx(1, abs=0.02)
    assert all(abs(error - 1) < 4 * own for error, own in zip(found.by_sigma, found.standard_errors, strict=True))


def test_two_formulations_that_denoise_alike_have_the_same_error():
    """An iDDPM network that sees no noise leaves x as it is, as an EDM network can: D - clean is the noise."""

    def as_it_is(net_input, net_noise, labels):
        s = (4 * net_noise).exp().reshape(-1, 1, 1, 1)
        x = net_input * (s**2 + 0.25).sqrt()
        return (x - 0.25 / (s**2 + 0.25) * x) * (s**2 + 0.25).sqrt() / (0.5 * s)

    data = gaussian_data()
    edm = denoiser_error(as_it_is, EDM(), data, device=CPU)
    iddpm = denoiser_error(no_noise, IDDPM(), data, device=CPU)
    assert iddpm.by_sigma == pytest.approx(edm.by_sigma, rel=1e-3)
    assert iddpm.by_sigma == pytest.approx([(s**2 + 0.25) / 0.25 for s in SIGMAS], rel=0.05)
    assert iddpm.sigmas == edm.sigmas == list(SIGMAS)


def test_the_overall_error_weighs_levels_as_edm_draws_them():
    """An error that lies at one level alone counts by the share of EDM's draws that are nearest to that level."""
    found = denoiser_error(no_noise, IDDPM(), gaussian_data(), device=CPU)
    draws = torch.randn(200_000, generator=torch.Generator().manual_seed(0)) * 1.2 - 1.2
    nearest = (draws[:, None] - torch.tensor(SIGMAS).log()).abs().argmin(1)
    inside = (draws > math.log(SIGMAS[0])) & (draws < math.log(SIGMAS[-1]))
    shares = nearest[inside].bincount(minlength=16) / inside.sum()
    assert found.error == pytest.approx(float(shares @ torch.tensor(found.by_sigma)), rel=0.05)


def test_every_run_gets_the_same_images_and_noise_whatever_was_drawn_before_and_in_whatever_batches(monkeypatch):
    data = gaussian_data()
    seen = []

    def network(net_input, net_noise, labels):
        seen.append(net_input)
        return torch.zeros_like(net_input)

    first = denoiser_error(network, EDM(), data, device=CPU, num_images=100)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again = denoiser_error(network, EDM(), data, device=CPU, num_images=100)
    assert first.by_sigma == again.by_sigma
    assert torch.equal(torch.get_rng_state(), state)
    monkeypatch.setattr(held_out, "BATCH", 7)
    before = torch.cat(seen[:16])
    seen.clear()
    denoiser_error(network, EDM(), data, device=CPU, num_images=100)
    assert torch.equal(torch.cat(seen), before)


def test_four_times_as_many_images_halve_its_standard_error():
    data = gaussian_data()
    few, many = (denoiser_error(nothing, EDM(), data, device=CPU, num_images=n) for n in (75, 300))
    assert few.standard_error / many.standard_error == pytest.approx(2, rel=0.3)
    assert 0 < many.standard_error < 0.02


@pytest.mark.parametrize("name", baselines.names())
def test_every_method_s_network_can_be_asked(name, digits):
    cfg = small_config(name)
    method = baselines.build(cfg)
    found, probe = held_out.measure(method.network, cfg, split(digits), CPU)
    assert math.isfinite(found.error)
    assert (found.num_images, probe.num_images, probe.num_trained_on) == (297, 297, 1500)
    assert len(probe.blocks) >= cfg.network.depth
    assert [len(row) for row in probe.accuracy] == [len(PROBED)] * len(probe.blocks)


# The linear probe --------------------------------------------------------------------------------------------------


@pytest.fixture
def network():
    return trained_a_little(baselines.build(tiny_config("dit", "width=32", "depth=2", "num_heads=2")).network)


def test_classes_that_show_in_the_images_show_in_the_blocks_the_better_the_less_noise(network, digits):
    found = linear_probe(network, EDM(), split(digits), device=CPU)
    assert found.blocks == ["blocks.0", "blocks.1"]
    for row in found.accuracy:
        assert row[0] > 0.5 > row[-1] > 0.05
    assert not any(module._forward_hooks for module in network.modules())


def test_labels_that_the_images_do_not_show_are_named_by_chance(network, digits):
    data = split(digits)
    for part in (data, data.held_out):
        part.labels = torch.randint(10, (len(part),), generator=torch.Generator().manual_seed(len(part)))
    found = linear_probe(network, EDM(), data, device=CPU)
    assert all(accuracy < 0.2 for row in found.accuracy for accuracy in row)


def test_the_probed_network_is_told_no_label(network, digits):
    told = set()
    network.condition.register_forward_pre_hook(lambda module, inputs: told.update(inputs[1].tolist()))
    linear_probe(network, EDM(), split(digits), device=CPU)
    assert told == {10}


def test_data_of_one_class_have_no_probe(network, digits):
    data = split(digits)
    data.labels = torch.zeros_like(data.labels)
    assert linear_probe(network, EDM(), data, device=CPU) is None


# Along training, and in the record ---------------------------------------------------------------------------------


def test_along_training_there_are_ten_points_or_more_for_under_a_twentieth_of_its_passes(digits):
    for steps, log_every in ((1000, 20), (990, 33), (5000, 100)):
        cfg = tiny_config("dit", f"steps={steps}", f"log_every={log_every}")
        observe = along_training(cfg, split(digits), CPU)
        passes = []

        def network(net_input, net_noise, labels, passes=passes):
            passes.append(len(net_input))
            return torch.zeros_like(net_input).repeat(1, 2, 1, 1)

        points = [found for step in range(log_every, steps + 1, log_every) if (found := observe(step, network))]
        assert len(points) >= 10
        assert sum(passes) <= 0.05 * 3 * steps * cfg.protocol.batch_size
        assert all(found["denoiser_error"] > 0 for found in points)


def test_without_held_out_images_or_in_a_very_short_run_nothing_is_asked(digits):
    def network(*arguments):
        raise AssertionError("nothing may be asked")

    long, short = tiny_config("dit", "steps=1000"), tiny_config("dit", "steps=20", "log_every=2")
    assert along_training(long, digits, CPU)(1000, network) == {}
    assert along_training(short, split(digits), CPU)(20, network) == {}


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_an_evaluation_of_a_run_with_held_out_images_has_them_among_its_metrics(formulation, digits, tmp_path):
    cfg = tiny_config(
        "dit", f"formulation={formulation}", "width=16", "depth=3", "num_heads=2", "num_images=60",
        "sampling.num_steps=3", "sample_batch=25",
    )  # fmt: skip
    data = split(digits)
    yard = yardstick("digits", "data", ("fd",), device=CPU, data=data)
    found = evaluate(
        baselines.build(cfg).network, cfg, yard, name="final", step=4, vae=None, folder=tmp_path, world=World(),
        progress=NoProgress(),
    )  # fmt: skip
    assert list(found.metrics) == ["fd-digits@60", "denoiser_error@297", "linear_probe@297"]
    assert found.metrics["denoiser_error@297"] == found.denoiser.error
    assert found.standard_errors == {"denoiser_error@297": found.denoiser.standard_error}
    assert found.metrics["linear_probe@297"] == max(max(row) for row in found.probe.accuracy)
    assert (found.denoiser.data_sha256, found.probe.trained_on_sha256) == (data.held_out.sha256, data.sha256)
    write_record(tmp_path / "final.json", found)
    assert read_record(tmp_path / "final.json", Evaluation) == found
