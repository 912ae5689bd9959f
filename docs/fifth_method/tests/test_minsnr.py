"""What min-SNR adds to DiT. The harness's own tests/baselines/test_contract.py tests the contract of every method.

From a checkout of the harness, with this package installed, both in one command:
    pytest tests/baselines/test_contract.py docs/fifth_method/tests -k minsnr
"""

import math

import torch
from minsnr_method.minsnr import Config, Method, weights

from baselines.dit import Config as DiTConfig
from baselines.dit import Method as DiTMethod
from harness.model.formulations import IDDPM
from harness.model.method import Batch, Progress
from harness.model.randomness import Draw, seed_step
from harness.model.shape import Shape

SHAPE = Shape(channels=1, side=8, num_classes=10, patch=2, width=16, depth=4, num_heads=2)


class OneStep(IDDPM):
    """Every image gets the noise of step 100."""

    def noised(self, clean, draw, level=None, *, noise=None):
        return super().noised(clean, draw, torch.full((len(clean),), 100), noise=noise)


def methods(gamma: float, formulation: IDDPM) -> tuple[Method, DiTMethod]:
    """Min-SNR and DiT with equal weights, none of them zero as before training."""
    ours, dit = Method(Config(snr_gamma=gamma), SHAPE, formulation), DiTMethod(DiTConfig(), SHAPE, formulation)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in dit.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    ours.network.load_state_dict(dit.network.state_dict())
    return ours, dit


def loss_and_gradient(method) -> tuple[torch.Tensor, list[torch.Tensor]]:
    clean, labels = torch.linspace(-1, 1, 8 * 64).reshape(8, 1, 8, 8), torch.arange(8)
    seed_step(0, 0)
    loss = method(Batch(clean, labels), Progress(0.0, 0.0), Draw.all_of(clean))["loss"]
    return loss, list(torch.autograd.grad(loss, list(method.network.parameters())))


def test_minsnr_weighs_a_step_by_one_up_to_gamma_and_by_gamma_over_its_snr_above():
    snr = torch.tensor([0.01, 1.0, 5.0, 10.0, 500.0], dtype=torch.float64)
    found = weights(snr / (1 + snr), 5.0)
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, 1.0, 0.5, 0.01], dtype=torch.float64))


def test_minsnr_takes_the_snr_from_the_steps_of_the_diffusion():
    """Step 0 has the least noise and the least weight; the last step has the most noise and weighs 1."""
    weight, sigmas = Method(Config(), SHAPE, IDDPM()).weight, [IDDPM().sigma_of(step) for step in range(0, 1000, 50)]
    torch.testing.assert_close(weight[::50], torch.tensor([min(s**-2, 5) * s**2 for s in sigmas]))
    assert weight[0] < 0.001
    assert weight[-1] == 1


def test_minsnr_with_an_infinite_gamma_is_dit():
    ours, dit = (loss_and_gradient(method) for method in methods(math.inf, IDDPM()))
    assert torch.equal(ours[0], dit[0])
    assert all(torch.equal(a, b) for a, b in zip(ours[1], dit[1], strict=True))


def test_minsnr_weighs_the_error_of_the_noise_and_leaves_the_term_of_the_variance_as_it_is():
    """The readout's bias has 4 numbers for the noise, a patch of 2 x 2 pixels, and then 4 for the variance."""
    (_, ours), (_, dit) = (loss_and_gradient(method) for method in methods(5.0, OneStep()))
    weight = 5 * IDDPM().sigma_of(100) ** 2
    assert weight < 0.9
    torch.testing.assert_close(ours[-1][:4], weight * dit[-1][:4])
    torch.testing.assert_close(ours[-1][4:], dit[-1][4:])
