"""Both formulations against their papers' equations, in float64 where a formula can be."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from harness.model.formulations import EDM, FORMULATIONS, IDDPM, Flow, discretised_log_likelihood
from harness.model.randomness import Draw


@pytest.fixture
def clean():
    return torch.randn(64, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def column(v):
    return v.reshape(-1, 1, 1, 1)


def test_edm_recovers_the_clean_image_from_a_perfect_network(clean):
    edm = EDM()
    noised = edm.noised(clean, Draw.all_of(clean))
    s, d = column(noised.level), 0.5
    perfect = (clean - d**2 / (s**2 + d**2) * noised.noisy) / (s * d / (s**2 + d**2).sqrt())
    torch.testing.assert_close(edm.denoised(perfect, noised), clean, atol=1e-4, rtol=1e-4)
    assert edm.loss_map(perfect, noised).max() < 1e-4


def test_edm_weighs_the_raw_output_equally_at_every_level(clean):
    """lambda c_out^2 = 1: an error of 1 in the raw output costs 1 wherever it is made (EDM Sec. 5)."""
    edm = EDM()
    noised = edm.noised(clean, Draw.all_of(clean), torch.logspace(-2, 1, 64))
    s, d = column(noised.level), 0.5
    perfect = (clean - d**2 / (s**2 + d**2) * noised.noisy) / (s * d / (s**2 + d**2).sqrt())
    torch.testing.assert_close(edm.loss_map(perfect + 1, noised), torch.ones_like(clean), atol=1e-3, rtol=1e-3)


def test_edm_network_inputs_have_unit_variance_and_a_quarter_log_level():
    edm = EDM()
    clean = 0.5 * torch.randn(2000, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    for sigma in (0.01, 1.0, 50.0):
        noised = edm.noised(clean, Draw.all_of(clean), torch.full((2000,), sigma))
        assert noised.net_input.std() == pytest.approx(1, abs=0.02)
        assert noised.net_noise[0] == pytest.approx(math.log(sigma) / 4)


def test_edm_levels_are_log_normal():
    torch.manual_seed(0)
    clean = torch.zeros(20_000, 1, 1, 1)
    log_sigma = EDM().noised(clean, Draw.all_of(clean)).level.log()
    assert log_sigma.mean() == pytest.approx(-1.2, abs=0.05)
    assert log_sigma.std() == pytest.approx(1.2, abs=0.05)


def test_iddpm_adds_noise_by_the_linear_schedule(clean):
    iddpm = IDDPM()
    noised = iddpm.noised(clean, Draw.all_of(clean), torch.full((64,), 999))
    alpha_bar = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = (1 - alpha_bar).log().sum().exp()
    assert alpha_bar == pytest.approx(4.04e-5, rel=1e-2)
    expected = alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noised.noise
    torch.testing.assert_close(noised.noisy, expected.float())
    assert torch.equal(noised.net_noise, torch.full((64,), 999.0))


def test_iddpm_adds_the_smallest_noise_exactly(clean):
    """1 - alpha_bar of step 0 is 1e-4: of a float32 alpha_bar, its root would be wrong by 8e-5."""
    noised = IDDPM().noised(torch.zeros_like(clean), Draw.all_of(clean), torch.zeros(64, dtype=torch.long))
    torch.testing.assert_close(noised.noisy, 0.01 * noised.noise, rtol=2e-7, atol=0)


def test_iddpm_recovers_the_clean_image_from_the_true_noise(clean):
    iddpm = IDDPM()
    noised = iddpm.noised(clean, Draw.all_of(clean), torch.arange(0, 640, 10))
    raw = torch.cat([noised.noise, torch.zeros_like(clean)], 1)
    torch.testing.assert_close(iddpm.denoised(raw, noised), clean, atol=1e-4, rtol=1e-4)


def posterior(step: int) -> tuple[float, float, float, float]:
    """DDPM eq. 6-7 from the definition: product of the two Gaussians q(x_t | x_{t-1}) and q(x_{t-1} | x_0)."""
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    previous = float((1 - beta[:step]).prod())
    b = float(beta[step])
    precision = (1 - b) / b + 1 / (1 - previous)
    return math.sqrt(previous) / (1 - previous) / precision, math.sqrt(1 - b) / b / precision, 1 / precision, b


@pytest.mark.parametrize("step", [1, 5, 500, 999])
def test_the_posterior_is_bayes_rule(step):
    schedule = IDDPM().schedule
    from_clean, from_noisy, variance, beta = posterior(step)
    assert schedule.posterior_clean[step] == pytest.approx(from_clean)
    assert schedule.posterior_noisy[step] == pytest.approx(from_noisy)
    assert schedule.log_beta_tilde[step].exp() == pytest.approx(variance)
    assert (schedule.log_beta_tilde + schedule.log_range)[step].exp() == pytest.approx(beta)


@pytest.mark.parametrize("step", [1, 2, 40, 500, 999])
@pytest.mark.parametrize("v", [-1.0, 0.3, 1.0])
def test_the_variational_bound_is_the_kl_divergence_of_the_two_posteriors_in_bits(clean, step, v):
    iddpm = IDDPM()
    noised = iddpm.noised(clean[:3], Draw.all_of(clean[:3]), torch.full((3,), step))
    predicted = noised.noise + 0.1
    raw = torch.cat([predicted, torch.full_like(predicted, v)], 1)
    squared_error = (predicted.double() - noised.noise.double()) ** 2
    bound = iddpm.loss_map(raw, noised).double() - squared_error

    from_clean, from_noisy, variance, beta = posterior(step)
    alpha_bar = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))[: step + 1].prod()
    noisy = alpha_bar.sqrt() * clean[:3].double() + (1 - alpha_bar).sqrt() * noised.noise.double()
    guess = (noisy - (1 - alpha_bar).sqrt() * predicted.double()) / alpha_bar.sqrt()
    target = torch.distributions.Normal(from_clean * clean[:3].double() + from_noisy * noisy, variance**0.5)
    mix = (v + 1) / 2
    log_variance = mix * math.log(beta) + (1 - mix) * math.log(variance)
    model = torch.distributions.Normal(from_clean * guess + from_noisy * noisy, math.exp(log_variance / 2))
    expected = torch.distributions.kl_divergence(target, model) / math.log(2)
    torch.testing.assert_close(bound, expected, atol=1e-8, rtol=1e-6)


def test_at_the_first_step_the_bound_is_the_likelihood_of_the_image():
    iddpm = IDDPM()
    clean = torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4)
    noised = iddpm.noised(clean, Draw.all_of(clean), torch.zeros(1, dtype=torch.long))
    raw = torch.cat([noised.noise, torch.ones_like(clean)], 1)
    deviation = 0.01  # sqrt(beta_0)
    distribution = stats.norm(clean.double().numpy(), deviation)  # a perfect network's mean is the clean image
    low = distribution.cdf(clean.double().numpy() - 1 / 255)
    high = distribution.cdf(clean.double().numpy() + 1 / 255)
    low.flat[0], high.flat[-1] = 0, 1
    expected = torch.from_numpy(-(high - low)).neg().log2().neg()
    torch.testing.assert_close(iddpm.loss_map(raw, noised).double(), expected, atol=2e-3, rtol=2e-3)


def test_the_bins_of_the_likelihood_add_up_to_one():
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    total = discretised_log_likelihood(levels, torch.tensor(0.2).double(), torch.tensor(-3.0).double()).exp().sum()
    assert total == pytest.approx(1, abs=1e-6)


def test_the_bound_trains_the_variance_alone(clean):
    iddpm = IDDPM()
    noised = iddpm.noised(clean, Draw.all_of(clean))
    noise, v = (noised.noise + 0.5).requires_grad_(), torch.zeros_like(clean).requires_grad_()
    iddpm.loss_map(torch.cat([noise, v], 1), noised).sum().backward()
    torch.testing.assert_close(noise.grad, torch.ones_like(clean))  # of the squared error: twice the 0.5
    assert v.grad.any()


def test_respacing_takes_the_published_steps_and_keeps_their_noise_levels():
    iddpm = IDDPM()
    schedule = iddpm.respaced(250)
    assert schedule.steps[:4].tolist() == [0, 4, 8, 12]
    assert schedule.steps[-5:].tolist() == [983, 987, 991, 995, 999]
    assert torch.equal(schedule.alpha_bar, iddpm.schedule.alpha_bar[schedule.steps])
    full = iddpm.respaced(1000)
    for ours, theirs in zip(full, iddpm.schedule, strict=True):
        torch.testing.assert_close(ours, theirs)
    with pytest.raises(ValueError, match="cannot take 1001 of 1000 steps"):
        iddpm.respaced(1001)


def official_steps(size: int, count: int) -> list[int]:
    """`space_timesteps` of guided-diffusion and DiT, for one section."""
    stride = 1 if count <= 1 else (size - 1) / (count - 1)
    position, steps = 0.0, []
    for _ in range(count):
        steps.append(round(position))
        position += stride
    return steps


def test_respacing_is_the_official_one_for_every_number_of_steps():
    iddpm = IDDPM()
    for count in range(1, 1001):
        schedule = iddpm.respaced(count)
        assert schedule.steps.tolist() == official_steps(1000, count)
        assert all(len(table) == count and table.isfinite().all() for table in schedule)


@pytest.mark.parametrize(("formulation", "level"), [(EDM(), 0.7), (EDM(), 20.0), (IDDPM(), 3), (IDDPM(), 900)])
def test_a_sampler_asks_the_network_as_training_does(formulation, level):
    clean = torch.randn(2, 3, 4, 4)
    levels = torch.full((2,), level)
    trained = formulation.noised(clean, Draw.all_of(clean), levels)
    asked = []

    def network(net_input, net_noise, labels):
        asked.append((net_input, net_noise))
        return torch.zeros(2, formulation.out_channels(3), 4, 4)

    formulation.predict(network, trained.noisy, level, torch.zeros(2, dtype=torch.long))
    ((net_input, net_noise),) = asked
    torch.testing.assert_close(net_input, trained.net_input)
    torch.testing.assert_close(net_noise, trained.net_noise)


# One question to all ------------------------------------------------------------------------------------------------

SIGMAS = torch.tensor([0.02, 0.1, 0.5, 2.0, 20.0])


def gaussian_velocity(x, time, labels):
    """E[noise - clean | x_t], in closed form, where clean is of N(0, 0.5^2)."""
    t, variance = column(time), 0.25
    covariance = t - (1 - t) * variance  # of the velocity and x_t
    return covariance / ((1 - t) ** 2 * variance + t**2) * x


def best_for_a_gaussian(formulation):
    """The network whose D is the mean of clean given x, where clean is of N(0, 0.5^2): x 0.5^2 / (0.5^2 + sigma^2)."""
    if isinstance(formulation, EDM):
        return lambda net_input, net_noise, labels: torch.zeros_like(net_input)  # c_skip x is that mean
    if isinstance(formulation, Flow):
        return gaussian_velocity

    def network(net_input, net_noise, labels):
        table = formulation.schedule.alpha_bar
        log_sigma = ((1 - table) / table).sqrt().log().numpy()
        sigma = column(torch.from_numpy(np.exp(np.interp(net_noise.numpy(), np.arange(1000), log_sigma))))
        x = net_input.double() * (1 + sigma**2).sqrt()
        noise = x * sigma / (sigma**2 + 0.5**2)
        return torch.cat([noise, torch.zeros_like(noise)], 1)

    return network


@pytest.mark.parametrize("formulation", [make() for make in FORMULATIONS.values()], ids=FORMULATIONS)
def test_every_formulation_denoises_a_gaussian_as_bayes_rule_does_at_any_sigma(clean, formulation):
    x = clean[: len(SIGMAS)]
    denoised = formulation.denoise(best_for_a_gaussian(formulation), x, SIGMAS, torch.zeros(len(x)))
    torch.testing.assert_close(denoised, x * 0.25 / (0.25 + column(SIGMAS) ** 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("formulation", [make() for make in FORMULATIONS.values()], ids=FORMULATIONS)
@pytest.mark.parametrize("place", [0.0, 0.4, 1.0])
def test_denoising_at_a_level_s_sigma_is_what_a_sampler_gets_at_that_level(clean, formulation, place):
    levels = formulation.levels(10)
    noisy = [level for level in levels.tolist() if level > 0 and formulation.sigma_of(level) < math.inf]
    level = noisy[int(place * 8)]
    sigma = formulation.sigma_of(level)
    scale = {"edm": 1, "iddpm": 1 / math.sqrt(1 + sigma**2), "flow": 1 / (1 + sigma)}[formulation.name]
    double = formulation.out_channels(2) // 2
    seen = []

    def network(net_input, net_noise, labels):
        seen.append(net_noise[0].item())
        return net_input.tanh().repeat(1, double, 1, 1) * (1 + net_noise.reshape(-1, 1, 1, 1) / 1000)

    labels = torch.zeros(64)
    sampled = formulation.predict(network, (clean * scale).float(), level, labels).clean
    asked = formulation.denoise(network, clean, torch.full((64,), sigma), labels)
    torch.testing.assert_close(asked, sampled, rtol=1e-3, atol=1e-3 * sigma)
    assert seen[1] == pytest.approx(seen[0], abs=1e-2)


# Flow matching ------------------------------------------------------------------------------------------------------


def test_the_velocity_the_noise_and_the_clean_image_of_flow_are_one_another_s(clean):
    """On the linear path clean = x_t - t v, noise = x_t + (1 - t) v, and the score is -noise / t."""
    noised = Flow().noised(clean, Draw.all_of(clean))
    t, v = column(noised.level), noised.noise - noised.clean
    torch.testing.assert_close(Flow().denoised(v, noised), clean, rtol=0, atol=1e-6)
    torch.testing.assert_close(noised.noisy + (1 - t) * v, noised.noise, rtol=0, atol=1e-6)
    score = (noised.noisy - (1 - t) * clean) / -(t**2)  # of x_t given the clean image, N((1 - t) clean, t^2)
    torch.testing.assert_close(score * t, -noised.noise, rtol=1e-3, atol=1e-3)


def test_a_flow_trains_on_the_squared_error_of_the_velocity_at_times_even_in_0_to_1(clean):
    torch.manual_seed(0)
    many = clean[:1].expand(20_000, -1, -1, -1)
    noised = Flow().noised(many, Draw.all_of(many))
    assert noised.level.mean().item() == pytest.approx(0.5, abs=0.01)
    assert noised.level.var().item() == pytest.approx(1 / 12, abs=0.003)
    velocity = noised.noise - noised.clean
    assert Flow().loss_map(velocity, noised).abs().max() == 0
    torch.testing.assert_close(Flow().loss_map(velocity + 2, noised), torch.full_like(many, 4.0))
    assert torch.equal(noised.net_noise, noised.level)  # SiT's network reads t in 0 to 1


def test_a_flow_s_loss_is_the_same_with_time_and_velocity_turned_round(clean):
    """SiT's code has data at t = 1 and v = clean - noise; a network that answers so has the same loss."""
    noised = Flow().noised(clean, Draw.all_of(clean))
    answer = noised.noisy.tanh()
    turned = ((-answer) - (noised.clean - noised.noise)) ** 2
    torch.testing.assert_close(Flow().loss_map(answer, noised), turned)


def test_iddpm_finds_the_step_of_every_sigma_it_has_and_refuses_others():
    iddpm = IDDPM()
    sigmas = torch.tensor([iddpm.sigma_of(step) for step in range(1000)])
    torch.testing.assert_close(iddpm.step_of(sigmas), torch.arange(1000.0), atol=1e-2, rtol=0)
    between = (sigmas[400] * sigmas[401]).sqrt()[None]
    assert iddpm.step_of(between).item() == pytest.approx(400.5, abs=1e-2)
    for sigma in (0.009, 160.0):
        with pytest.raises(ValueError, match=r"sigma must lie in 0.01 to 157.4"):
            iddpm.step_of(torch.tensor([sigma]))
