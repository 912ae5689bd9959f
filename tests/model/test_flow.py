"""Flow matching on both paths with every prediction, against a Gaussian whose velocity is known in closed form."""

import math

import pytest
import torch
from scipy import stats
from small import small_config, tiny_config
from torch import Tensor

import baselines
from harness.data.dataset import InMemory
from harness.evaluation import generation, held_out
from harness.model.flow import Flow
from harness.model.formulations import FORMULATIONS, formulation_of
from harness.model.randomness import Draw
from harness.model.samplers import SAMPLERS, euler, euler_maruyama, heun
from harness.recipes.naming import with_later_settings
from harness.records.looks import formulation_title
from harness.system.errors import UsageError

MEAN = torch.tensor([0.4, -0.2], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=torch.float64)
ROOT = torch.linalg.cholesky(COVARIANCE)
NUM_POINTS = 20_000

PATHS, PREDICTIONS = ("linear", "gvp"), ("velocity", "noise", "data")
EVERY = [
    Flow(path=path, prediction=prediction, data_scale=scale)
    for path in PATHS
    for prediction in PREDICTIONS
    for scale in (1.0, 0.7)
]
every = pytest.mark.parametrize("flow", EVERY, ids=lambda flow: f"{flow.path}-{flow.prediction}-{flow.data_scale}")


def column(v: Tensor) -> Tensor:
    return v.reshape(-1, 1, 1, 1)


def factors(path: str, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """alpha, sigma and their derivatives by t, the latter two by central differences (of an error of 1e-10)."""
    alpha = {"linear": lambda t: 1 - t, "gvp": lambda t: torch.cos(math.pi * t / 2)}[path]
    sigma = {"linear": lambda t: t, "gvp": lambda t: torch.sin(math.pi * t / 2)}[path]
    h = 1e-5
    return alpha(t), sigma(t), *((of(t + h) - of(t - h)) / (2 * h) for of in (alpha, sigma))


class Gaussian:
    """The best network where clean is of N(MEAN, COVARIANCE): the mean of what it predicts.   (B, 2, 1, 1)"""

    def __init__(self, flow: Flow):
        self.flow = flow

    def __call__(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        found = []
        for t in time.double().unique(sorted=True):
            alpha, sigma, d_alpha, d_sigma = factors(self.flow.path, t)
            alpha, d_alpha = alpha * self.flow.data_scale, d_alpha * self.flow.data_scale
            rows = time.double() == t
            away = x[rows].double().flatten(1) - alpha * MEAN
            whitened = away @ torch.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * torch.eye(2).double())
            data, noise = MEAN + alpha * whitened @ COVARIANCE, sigma * whitened
            velocity = d_alpha * data + d_sigma * noise
            found.append((rows, {"velocity": velocity, "noise": noise, "data": data}[self.flow.prediction]))
        raw = torch.empty(len(x), 2, dtype=torch.float64)
        for rows, values in found:
            raw[rows] = values
        return raw[:, :, None, None]


def asked(flow: Flow):
    """What a sampler of the Gaussian gets from `flow`."""
    network = Gaussian(flow)
    return lambda x, level: flow.predict(network, x, level, torch.zeros(len(x)))


def noise_source(batch: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(batch, 2, 1, 1, generator=generator, dtype=torch.float64)


@pytest.fixture
def clean() -> Tensor:
    return torch.randn(64, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def somewhere(flow: Flow, clean: Tensor):
    """Noised at times between 0.05 and 0.95, float64."""
    torch.manual_seed(1)
    times = torch.linspace(0.05, 0.95, len(clean), dtype=torch.float64)
    return flow.noised(clean, Draw.all_of(clean), times, noise=torch.randn_like(clean))


# Conversions -------------------------------------------------------------------------------------------------------


@every
def test_velocity_noise_score_and_data_are_one_another_s(flow, clean):
    noised = somewhere(flow, clean)
    alpha, sigma, d_alpha, d_sigma = (column(each) for each in factors(flow.path, noised.level))
    data = flow.data_scale * clean
    velocity = d_alpha * data + d_sigma * noised.noise
    torch.testing.assert_close(noised.noisy, alpha * data + sigma * noised.noise)
    torch.testing.assert_close(flow.velocity(noised), velocity)
    raw = {"velocity": velocity, "noise": noised.noise, "data": clean}[flow.prediction]
    torch.testing.assert_close(flow.denoised(raw, noised).double(), clean, rtol=0, atol=2e-5)
    assert flow.loss_map(raw.float(), noised).max() < 1e-9
    for row, t in enumerate(noised.level.tolist()):
        x, own = noised.noisy[row : row + 1], clean[row : row + 1]
        torch.testing.assert_close(flow.slope(x, own, t), velocity[row : row + 1])
        torch.testing.assert_close(flow.noise(x, own, t), noised.noise[row : row + 1])
        score = -(x - alpha[row] * data[row]) / sigma[row] ** 2  # of N(alpha data, sigma^2)
        torch.testing.assert_close(flow.score(x, own, t), score)
        of_velocity = (alpha[row] * velocity[row] - d_alpha[row] * x) / (alpha * d_sigma - sigma * d_alpha)[row]
        torch.testing.assert_close(-of_velocity / sigma[row], score)  # on the linear path -(x + (1 - t) v) / t


@pytest.mark.parametrize("path", PATHS)
def test_the_loss_is_the_same_with_time_and_velocity_turned_round(path, clean):
    """SiT's code has data at t = 1; a network that answers -v at 1 - t has the same loss."""
    flow = Flow(path=path)
    noised = somewhere(flow, clean)
    answer = noised.noisy.float().tanh()
    turned = 1 - noised.level
    alpha = torch.sin(math.pi * turned / 2) if path == "gvp" else turned
    half = math.pi / 2
    slopes = (half * alpha.arcsin().cos(), -half * alpha) if path == "gvp" else (1 + 0 * turned, -1 + 0 * turned)
    target = column(slopes[0]) * noised.clean + column(slopes[1]) * noised.noise
    torch.testing.assert_close(flow.loss_map(answer, noised).double(), (-answer - target) ** 2)


@pytest.mark.parametrize("path", PATHS)
def test_sampling_with_time_turned_round_draws_the_same_images(path):
    flow, start = Flow(path=path), noise_source(64)()
    network, x = Gaussian(flow), start
    for step in range(20):  # Euler's steps of SiT's code, from t = 0 (noise) to 1 (data)
        x = x + 1 / 20 * -network(x.float(), torch.full((64,), 1 - step / 20), torch.zeros(64))
    found = euler(asked(flow), lambda: start, flow, 20)
    torch.testing.assert_close(found.double(), x, rtol=0, atol=1e-5)


# Sampling ----------------------------------------------------------------------------------------------------------

MOMENTS_ERROR = 0.025  # of 20,000 points: four standard errors of a variance of 0.5 are 0.02; the steps take the rest


@every
@pytest.mark.parametrize(("name", "num_steps", "settings"), [
    ("heun", 30, {}),
    ("euler", 300, {}),
    ("euler-maruyama", 300, {}),
    ("euler-maruyama", 300, {"sde_diffusion": "t", "sde_last_step": 0.01}),
])  # fmt: skip
def test_every_sampler_on_every_path_reaches_the_mean_and_the_covariance_of_a_gaussian(flow, name, num_steps, settings):
    sampled = SAMPLERS[name].draw(asked(flow), noise_source(NUM_POINTS), flow, num_steps, **settings)
    points = sampled.double().flatten(1)
    torch.testing.assert_close(points.mean(0), MEAN, rtol=0, atol=MOMENTS_ERROR)
    torch.testing.assert_close(points.T.cov(), COVARIANCE, rtol=0, atol=MOMENTS_ERROR)


@pytest.mark.parametrize(("draw", "order"), [(euler, 1), (heun, 2)])
@pytest.mark.parametrize("prediction", ["velocity", "data"])
def test_the_ode_on_gvp_takes_each_point_to_its_place_by_the_sampler_s_order(draw, order, prediction):
    """Its marginals are Gaussians with one set of axes, so a point keeps its place: MEAN + COVARIANCE^(1/2) noise."""
    flow, start = Flow(path="gvp", prediction=prediction), noise_source(64)()
    values, axes = torch.linalg.eigh(COVARIANCE)
    exact = MEAN + start.flatten(1) @ axes @ values.sqrt().diag() @ axes.T
    errors = [(draw(asked(flow), lambda: start, flow, n).double().flatten(1) - exact).abs().max() for n in (60, 120)]
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.25)


def test_euler_maruyama_has_the_diffusion_and_the_last_step_it_is_told():
    """One step by hand: drift v - (w / 2) s, noise of variance w |dt|; then the ODE alone, to 0."""
    clean, start, fresh = (noise_source(8, seed)() for seed in (1, 2, 3))
    times = []

    def denoise(x, level):
        times.append(level)
        return Flow().predict(lambda x, time, labels: x - clean.float(), x, 1.0, torch.zeros(8))

    for diffusion, w in (("2t", 2.0), ("t", 1.0)):
        drawn = iter([start, fresh])
        found = euler_maruyama(
            denoise, lambda drawn=drawn: next(drawn), Flow(), 2, sde_diffusion=diffusion, sde_last_step=0.25
        )
        noise = start  # at t = 1
        x = start - 0.75 * ((noise - clean) + w / 2 * noise) + math.sqrt(w * 0.75) * fresh
        x = x - 0.25 * (x - clean) / 0.25 - 0.25 * (w * 0.25 / 2) * (x - 0.75 * clean) / 0.25**2
        torch.testing.assert_close(found.double(), x, rtol=0, atol=1e-5)
    assert times == [1.0, 0.25] * 2


def test_the_sampling_of_a_predicted_noise_starts_just_below_the_time_without_data():
    assert [Flow(prediction=each).levels(4)[0].item() for each in PREDICTIONS] == [1, 0.999, 1]
    assert all(Flow(prediction=each).levels(4)[-1] == 0 for each in PREDICTIONS)


# One question at equal sigma ---------------------------------------------------------------------------------------


@every
def test_denoising_at_equal_sigma_is_bayes_rule_for_every_path_prediction_and_scale(flow):
    sigmas = torch.tensor([0.02, 0.1, 0.5, 2.0, 20.0])
    x = noise_source(5)().float() * 2
    denoised = flow.denoise(Gaussian(flow), x, sigmas, torch.zeros(5)).double().flatten(1)
    wanted = [
        MEAN + COVARIANCE @ torch.linalg.solve(COVARIANCE + sigma**2 * torch.eye(2).double(), point - MEAN)
        for sigma, point in zip(sigmas.double(), x.double().flatten(1), strict=True)
    ]
    torch.testing.assert_close(denoised, torch.stack(wanted), rtol=1e-4, atol=1e-4)


@every
def test_the_sigma_of_a_level_is_what_is_asked_there(flow):
    seen = []

    def network(x, time, labels):
        seen.append((x, time))
        return torch.zeros_like(x)

    x = torch.randn(1, 2, 4, 4)
    for level in (0.1, 0.5, 0.9):
        alpha, sigma, *_ = factors(flow.path, torch.tensor(level, dtype=torch.float64))
        assert flow.sigma_of(level) == pytest.approx((sigma / alpha).item() / flow.data_scale)
        flow.denoise(network, x, torch.tensor([flow.sigma_of(level)]), torch.zeros(1))
        net_input, time = seen.pop()
        assert time.item() == pytest.approx(level, abs=1e-6)
        torch.testing.assert_close(net_input, (alpha * flow.data_scale).float() * x, rtol=1e-5, atol=1e-6)
    assert flow.sigma_of(1.0) == math.inf
    if flow.path == "gvp" and flow.data_scale == 1:
        assert flow.sigma_of(0.5) == pytest.approx(math.tan(math.pi / 4))


# Times and losses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.3])
@pytest.mark.parametrize("times", ["uniform", "logit-normal"])
def test_times_have_the_law_they_are_told(times, shift):
    """A shift moves logit(t) by ln k. The statistic is Kolmogorov's, and 1.63 / sqrt(N) is passed once in a hundred."""
    torch.manual_seed(0)
    many = torch.zeros(NUM_POINTS, 1, 1, 1)
    t = Flow(times=times, shift=shift).noised(many, Draw.all_of(many)).level.double().clamp(1e-12, 1 - 1e-12)
    unshifted = torch.special.logit(t) - math.log(shift)
    law = stats.norm if times == "logit-normal" else stats.logistic  # the logit of a uniform number is logistic
    assert stats.kstest(unshifted.numpy(), law.cdf).statistic < 1.63 / math.sqrt(NUM_POINTS)


def test_without_settings_the_times_are_the_uniform_numbers_themselves(clean):
    torch.manual_seed(0)
    drawn = Draw.all_of(clean).uniform()
    torch.manual_seed(0)
    assert torch.equal(Flow().noised(clean, Draw.all_of(clean)).level, drawn)


@pytest.mark.parametrize("path", PATHS)
def test_the_loss_of_a_predicted_image_is_that_of_the_velocity_but_for_the_least_times(path, clean):
    flow = Flow(path=path, prediction="data")
    times = torch.tensor([0.01, 0.3, 0.9], dtype=torch.float64)
    noised = flow.noised(clean[:3], Draw.all_of(clean[:3]), times)
    alpha, sigma, d_alpha, d_sigma = factors(path, times)
    denominator = (sigma / (alpha * d_sigma - sigma * d_alpha)).clamp(min=0.05)
    wrong = (clean[:3] + 0.1).float()
    wanted = column((0.1 / denominator) ** 2).expand_as(clean[:3])
    torch.testing.assert_close(flow.loss_map(wrong, noised), wanted, rtol=1e-4, atol=0)
    assert denominator[0] == 0.05
    at = noised._replace(clean=wrong.double())  # the velocity with the predicted image and the noise that it leaves
    left = (noised.noisy - column(alpha) * at.clean) / column(sigma)
    velocity = column(d_alpha) * at.clean + column(d_sigma) * left
    error = (velocity - flow.velocity(noised)) ** 2
    torch.testing.assert_close(flow.loss_map(wrong, noised)[1:], error[1:], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("prediction", ["velocity", "data"])
def test_the_direction_term_is_one_minus_the_cosine_over_the_channels_of_each_place(prediction, clean):
    plain, directed = Flow(prediction=prediction), Flow(prediction=prediction, direction=0.5)
    noised = somewhere(plain, clean)
    raw = torch.randn(clean.shape)
    added = (directed.loss_map(raw, noised) - plain.loss_map(raw, noised)).double()
    velocity = raw if prediction == "velocity" else (noised.noisy - raw) / column(noised.level)
    target = noised.noise - clean
    cosine = (velocity * target).sum(1) / (velocity.norm(dim=1) * target.norm(dim=1))
    torch.testing.assert_close(added, 0.5 * (1 - cosine)[:, None].expand_as(clean).double(), rtol=1e-3, atol=1e-3)
    assert directed.loss_map(raw, noised).shape == clean.shape


def test_the_clean_images_that_are_noised_again_are_scaled_once(clean):
    flow = Flow(data_scale=0.5)
    noised = somewhere(flow, clean)
    again = flow.noised(noised.clean, Draw.all_of(clean), noised.level, noise=noised.noise)
    assert torch.equal(noised.clean, clean)
    assert torch.equal(again.noisy, noised.noisy)


# Settings of a run -------------------------------------------------------------------------------------------------

SETTINGS = {
    "path": "gvp", "prediction": "data", "times": "logit-normal", "shift": 2.0, "direction": 1.0, "data_scale": 0.7,
}  # fmt: skip
COLOUR = "input={channels: 3, side: 8, num_classes: 10}"


def test_settings_at_their_defaults_leave_the_id_of_a_run_as_it_was_before_they_came():
    cfg = tiny_config("sit")
    assert cfg.run_id == "seed0-da32c67302"
    old = cfg.model_dump(mode="json")
    del old["flow"], old["sampling"]["sde_diffusion"], old["sampling"]["sde_last_step"]
    assert baselines.configured(old) == cfg
    assert with_later_settings(old) == with_later_settings(cfg.model_dump(mode="json"))


@pytest.mark.parametrize(("name", "value"), SETTINGS.items())
def test_each_setting_reaches_the_method_and_the_run_s_name(name, value):
    cfg = small_config("sit", COLOUR, f"{name}={value}")
    assert cfg.run_id != small_config("sit", COLOUR).run_id
    assert baselines.build(cfg).formulation == Flow(**{name: value}) == formulation_of(cfg)


def test_a_formulation_is_named_with_what_is_not_at_its_default_so_that_others_are_not_taken_for_its_repeats():
    plain, other = (
        small_config("sit", *settings).model_dump(mode="json") for settings in ([], ["path=gvp", "shift=2"])
    )
    assert formulation_title(plain) == formulation_title({"formulation": "flow"}) == "flow"
    assert formulation_title(other) == "flow, path gvp, shift 2.0"


@pytest.mark.parametrize("formulation", ["iddpm", "edm"])
@pytest.mark.parametrize(("name", "value"), SETTINGS.items())
def test_each_setting_is_refused_under_another_formulation(name, value, formulation):
    with pytest.raises(UsageError, match=rf"flow\.{name} is .*formulation is '{formulation}', which does not read it"):
        small_config("dit", f"formulation={formulation}", f"flow.{name}={value}")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["direction=1"], r"direction \(flow.direction\) is 1, and the input has 1 channel"),
        ([COLOUR, "direction=1", "prediction=noise"], "the velocity of a predicted noise is infinite"),
        (["path=vp"], r"path \(flow.path\) is 'vp'"),
        (["shift=0"], r"shift \(flow.shift\) is 0"),
        (["sde_diffusion=t"], r"sde_diffusion \(sampling.sde_diffusion\) is 't', and sampling.sampler is 'heun'"),
        (["sampler=euler-maruyama", "sde_last_step=0"], r"sde_last_step \(sampling.sde_last_step\) is 0"),
    ],
)
def test_what_cannot_be_computed_is_refused_with_the_reason(settings, said):
    with pytest.raises(UsageError, match=said):
        small_config("sit", *settings)


@pytest.mark.parametrize("setting", ["path=gvp", "prediction=noise", "data_scale=2"])
def test_contrastive_is_refused_where_the_velocity_is_not_noise_minus_clean(setting):
    with pytest.raises(UsageError, match="contrastive is defined for"):
        baselines.build(small_config("contrastive", setting))


def test_no_other_formulation_has_changed_its_slope():
    x, clean = torch.randn(2, 1, 2, 2), torch.randn(2, 1, 2, 2)
    assert torch.equal(FORMULATIONS["edm"]().slope(x, clean, 0.7), (x - clean) / 0.7)
    assert FORMULATIONS["edm"].data_scale == 1


def test_drawing_and_the_yardsticks_of_held_out_images_use_the_run_s_own_formulation(digits, tmp_path):
    cfg = small_config("sit", "path=gvp", "prediction=noise", "num_steps=2", "steps=4000")
    data = InMemory("digits", digits.clean[:60], digits.labels[:60], 10)
    data.held_out = InMemory("digits, held out", digits.clean[60:100], digits.labels[60:100], 10)
    network, times, cpu = baselines.build(cfg).network, [], torch.device("cpu")
    network.register_forward_hook(lambda module, args, output: times.append(args[1][0].item()))
    generation.draw_images(tmp_path, network, cfg, torch.zeros(2, dtype=torch.long), seed=0, vae=None, device=cpu)
    assert times == pytest.approx([0.999, 0.4995, 0.4995])
    on_gvp = [2 / math.pi * math.atan(sigma) for sigma in held_out.SIGMAS]
    times.clear()
    held_out.measure(network, cfg, data, cpu)
    assert times[: len(on_gvp)] == pytest.approx(on_gvp)
    times.clear()
    held_out.along_training(cfg, data, cpu)(4000, network)
    assert times == pytest.approx(on_gvp[::2])
