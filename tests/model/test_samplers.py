"""Samplers against distributions whose denoiser is known exactly."""

import pytest
import torch
from small import small_config, trained_a_little

import baselines
from harness.model.formulations import EDM, FORMULATIONS, IDDPM, Flow, Prediction
from harness.model.guidance import guided, power_cosine, within
from harness.model.samplers import SAMPLERS, ddpm, euler, euler_maruyama, heun
from harness.recipes.reading import load_recipe

MEAN, DEVIATION = 0.3, 0.5


def noise_source(batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(batch, 1, 2, 2, generator=generator, dtype=torch.float64)


def edm_gaussian(x, sigma):
    """The exact denoiser of N(MEAN, DEVIATION^2)."""
    weight = DEVIATION**2 / (DEVIATION**2 + sigma**2)
    return Prediction(MEAN + weight * (x - MEAN), None)


def ddpm_gaussian(x, step):
    alpha_bar = IDDPM().schedule.alpha_bar[step]
    gain = alpha_bar.sqrt() * DEVIATION**2 / (alpha_bar * DEVIATION**2 + 1 - alpha_bar)
    return Prediction((MEAN + gain * (x - alpha_bar.sqrt() * MEAN)).float(), torch.zeros_like(x))


def flow_gaussian(x, t):
    """The exact denoiser of N(MEAN, DEVIATION^2) on the linear path."""
    gain = (1 - t) * DEVIATION**2 / ((1 - t) ** 2 * DEVIATION**2 + t**2)
    return Prediction(MEAN + gain * (x - (1 - t) * MEAN), None)


def test_the_levels_are_those_of_the_paper():
    levels = EDM().levels(40)
    assert len(levels) == 41
    assert levels[0] == pytest.approx(80)
    assert levels[39] == pytest.approx(0.002)
    assert levels[40] == 0
    assert levels[1] == pytest.approx((80 ** (1 / 7) + (0.002 ** (1 / 7) - 80 ** (1 / 7)) / 39) ** 7)


def test_heun_recovers_a_gaussian_when_the_denoiser_is_exact():
    """The ODE maps N(0, 80^2) onto the Gaussian linearly, so each point's end is known, not only the distribution's."""
    start = noise_source(64)()
    sampled = heun(edm_gaussian, lambda: start, EDM(), 400)
    scale = DEVIATION / (DEVIATION**2 + 80**2) ** 0.5
    torch.testing.assert_close(sampled.double(), MEAN + scale * (80 * start - MEAN), atol=1e-3, rtol=0)


def test_heun_is_of_second_order():
    """Twice the levels, a quarter of the error, as far as the last, Euler, step to zero allows."""
    start = noise_source(64)()
    scale = DEVIATION / (DEVIATION**2 + 80**2) ** 0.5
    exact = MEAN + scale * (80 * start - MEAN)
    errors = [(heun(edm_gaussian, lambda: start, EDM(), n).double() - exact).abs().max() for n in (20, 40)]
    assert 3 < errors[0] / errors[1] < 6


@pytest.mark.parametrize(("draw", "order"), [(euler, 1), (heun, 2)])
def test_the_ode_of_flow_matching_takes_each_point_to_its_place_in_the_gaussian(draw, order):
    """Its marginals are Gaussians, so each point keeps its place: MEAN + DEVIATION noise; the error falls by order."""
    start = noise_source(64)()
    exact = MEAN + DEVIATION * start
    errors = [(draw(flow_gaussian, lambda: start, Flow(), n).double() - exact).abs().max() for n in (100, 200)]
    assert errors[1] < (0.02, 0.002)[order - 1]
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.2)


def test_euler_takes_edm_s_points_to_their_places_too():
    start = noise_source(64)()
    scale = DEVIATION / (DEVIATION**2 + 80**2) ** 0.5
    exact = MEAN + scale * (80 * start - MEAN)
    assert (euler(edm_gaussian, lambda: start, EDM(), 800).double() - exact).abs().max() < 0.02


def test_the_sde_of_flow_matching_recovers_the_mean_and_the_covariance_of_a_gaussian():
    """Of 20,000 points in four places; the standard error of a mean is 0.0035, of a variance 0.0025."""
    sampled = euler_maruyama(flow_gaussian, noise_source(20_000), Flow(), 500).double().flatten(1)
    torch.testing.assert_close(sampled.mean(0), torch.full((4,), MEAN).double(), atol=0.014, rtol=0)
    torch.testing.assert_close(sampled.T.cov(), DEVIATION**2 * torch.eye(4).double(), atol=0.014, rtol=0)


def test_ancestral_sampling_recovers_a_gaussian_when_the_denoiser_is_exact():
    sampled = ddpm(ddpm_gaussian, noise_source(20_000), IDDPM(), 1000)
    assert sampled.mean() == pytest.approx(MEAN, abs=0.01)
    assert sampled.std() == pytest.approx(DEVIATION, rel=0.02)


def test_ancestral_sampling_uses_the_learned_variance():
    def with_larger_variance(x, step):
        return Prediction(ddpm_gaussian(x, step).clean, torch.ones_like(x))

    small = ddpm(ddpm_gaussian, noise_source(5000), IDDPM(), 10).std()
    large = ddpm(with_larger_variance, noise_source(5000), IDDPM(), 10).std()
    assert large > 1.01 * small


def test_the_last_step_of_ancestral_sampling_adds_no_noise():
    drawn = []
    source = noise_source(2)
    ddpm(ddpm_gaussian, lambda: drawn.append(1) or source(), IDDPM(), 10)
    assert len(drawn) == 10  # the start, and one for every step but the last


@pytest.mark.parametrize(("name", "denoise", "steps", "expected"), [
    ("heun", edm_gaussian, 40, 79),
    ("ddpm", ddpm_gaussian, 250, 250),
])  # fmt: skip
def test_the_number_of_evaluations_is_the_papers(name, denoise, steps, expected):
    sampler, asked = SAMPLERS[name], []
    formulation = FORMULATIONS[sampler.formulations[0]]()
    sampler.draw(lambda x, level: asked.append(level) or denoise(x, level), noise_source(2), formulation, steps)
    assert len(asked) == sampler.nfe(steps) == expected
    assert sorted(set(asked), reverse=True) == [
        level for level in formulation.levels(steps).tolist() if level or name == "ddpm"
    ]


def test_every_formulation_has_a_sampler_and_a_section_among_the_recipes():
    assert {name for sampler in SAMPLERS.values() for name in sampler.formulations} == set(FORMULATIONS)
    assert {name: formulation().name for name, formulation in FORMULATIONS.items()} == {
        name: name for name in FORMULATIONS
    }
    for name in FORMULATIONS:
        sampling = load_recipe("dit-s", name).document["sampling"]
        assert name in SAMPLERS[sampling["sampler"]].formulations


def test_guidance_moves_away_from_the_unconditional_image_by_its_scale():
    """The denoiser answers 1 where it is asked for the label and 0 where not, and the variance the other way round."""
    x = torch.zeros(1, 4, 2, 2)

    def conditional(x, level):
        return Prediction(torch.ones_like(x), torch.zeros_like(x))

    def both(x, level):
        with_label = torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1).expand_as(x)
        return Prediction(with_label, 1 - with_label)

    assert torch.equal(guided(conditional, both, 1.0)(x, 0).clean, torch.ones(1, 4, 2, 2))
    three = guided(conditional, both, 4.0, channels=3)(x, 0)
    assert three.clean[0, :, 0, 0].tolist() == [4, 4, 4, 1]
    assert three.variance_mix.shape == x.shape
    assert not three.variance_mix.any()


class DoubleNetwork(torch.nn.Module):
    """Convolves an image with its label's embedding added: a network whose every operation is in float64."""

    def __init__(self):
        super().__init__()
        self.label, self.mix = torch.nn.Embedding(6, 4), torch.nn.Conv2d(4, 4, 3, padding=1)
        trained_a_little(self.double())

    def forward(self, x, labels):
        return torch.tanh(self.mix(x + self.label(labels)[..., None, None]))


@pytest.mark.parametrize("channels", [None, 3])
def test_guidance_in_one_call_is_guidance_in_two_calls(channels):
    network, labels, none = DoubleNetwork(), torch.tensor([0, 2, 4]), torch.full((3,), 5)

    def towards(labels):
        return lambda x, level: Prediction(network(x, labels), None)

    x = torch.randn(3, 4, 8, 8, dtype=torch.float64)
    found = guided(towards(labels), towards(torch.cat([labels, none])), 2.5, channels)(x, 0.7).clean
    with_label, without = network(x, labels), network(x, none)
    expected = without + 2.5 * (with_label - without)
    expected[:, 3:] = expected[:, 3:] if channels is None else with_label[:, 3:]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "level"), [("dit", 400), ("mdt", 400), ("maskdit", 0.7), ("sddit", 0.7)])
@torch.no_grad()
def test_guidance_of_a_methods_network_in_one_call_is_guidance_in_two_calls_but_for_rounding(name, level):
    cfg = small_config(name)
    formulation, network = FORMULATIONS[cfg.formulation](), trained_a_little(baselines.build(cfg).network)
    labels, none, x = torch.tensor([0, 3, 9]), torch.full((3,), 10), torch.randn(3, 1, 8, 8)

    def towards(labels):
        return lambda x, level: formulation.predict(network, x, level, labels)

    found = guided(towards(labels), towards(torch.cat([labels, none])), 2.5)(x, level)
    with_label, without = towards(labels)(x, level), towards(none)(x, level)
    torch.testing.assert_close(found.clean, without.clean + 2.5 * (with_label.clean - without.clean), rtol=0, atol=2e-5)
    torch.testing.assert_close(found.variance_mix, with_label.variance_mix, rtol=0, atol=1e-5)


def test_a_power_cosine_scale_is_none_at_the_noisiest_step_and_whole_at_the_last():
    scale = power_cosine(3.8, 4.0)
    assert scale(1000) == 1
    assert scale(0) == pytest.approx(3.8)
    assert [scale(step) for step in range(0, 1001, 50)] == sorted((scale(s) for s in range(0, 1001, 50)), reverse=True)


def test_guidance_in_an_interval_asks_for_no_unconditional_image_outside_it():
    asked = []

    def conditional(x, level):
        return Prediction(torch.full_like(x, 2.0), None)

    def both(x, level):
        asked.append(level)
        return Prediction(torch.tensor([2.0, 0.0]), None)

    denoise = guided(conditional, both, within((0.28, 5.42), 3.0, EDM().sigma_of))
    cleans = [denoise(torch.zeros(1), level).clean.item() for level in (80.0, 5.43, 5.42, 1.0, 0.28, 0.002)]
    assert cleans == [2, 2, 6, 6, 2, 2]
    assert asked == [5.42, 1.0]


def test_an_interval_of_noise_levels_means_the_same_in_both_formulations():
    """Noise over signal: sqrt((1 - alpha_bar) / alpha_bar) at a step of the discrete schedule."""
    iddpm = IDDPM()
    clean, noise = torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    for step in (0, 250, 999):
        alpha_bar = iddpm.schedule.alpha_bar[step]
        signal, spread = alpha_bar.sqrt() * clean, (1 - alpha_bar).sqrt() * noise
        assert iddpm.sigma_of(step) == pytest.approx((spread / signal).item())
    scale = within((0.5, 2.0), power_cosine(3.8, 4.0), iddpm.sigma_of)
    inside = [step for step in range(1000) if scale(step) != 1]
    assert 0.5 < iddpm.sigma_of(inside[0]) < 0.51
    assert 1.99 < iddpm.sigma_of(inside[-1]) <= 2
    assert inside == list(range(inside[0], inside[-1] + 1))
