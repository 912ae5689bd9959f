"""Every file in baselines/ keeps the promises the engine relies on; a fifth method is tested by being there."""

import copy

import pytest
import torch
from small import small_config, trained_a_little

import baselines
from harness.data.order import batch_indices
from harness.evaluation.generation import choose_labels, generate
from harness.model.formulations import FORMULATIONS
from harness.model.method import Batch, Method, Progress
from harness.model.nn.blocks import DiTBlock
from harness.model.randomness import Draw, seed_step
from harness.recipes.config import Knobs

METHODS = baselines.names()
CPU = torch.device("cpu")


def build(name, digits, *assignments):
    method = baselines.build(small_config(name, *assignments))
    for frozen in method.frozen.values():
        frozen.load(CPU)
    return method


def loss(method, digits, step=0):
    seed_step(0, step)
    clean, labels = digits.read(batch_indices(len(digits), 0, 0, 8))
    return method(Batch(clean, labels), Progress(0.5, 2.0), Draw.all_of(clean))


def optimise(method, digits, steps, *, after_step=True):
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], 3e-3)
    values = []
    for _ in range(steps):
        losses = loss(method, digits)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        if after_step:
            method.after_step(Progress(0.5, 2.0))
        values.append(losses["loss"].item())
    return values


@pytest.mark.parametrize("name", METHODS)
def test_a_baseline_defines_config_and_method(name):
    module = baselines.load(name)
    assert issubclass(module.Config, Knobs)
    assert issubclass(module.Method, Method)


@pytest.mark.parametrize("name", METHODS)
def test_every_transformer_block_is_the_shared_one(name, digits):
    blocks = [m for m in build(name, digits).network.modules() if hasattr(m, "attn")]
    assert len(blocks) >= 3
    assert {type(block) for block in blocks} == {DiTBlock}


@pytest.mark.parametrize("name", METHODS)
def test_every_trainable_parameter_gets_a_gradient(name, digits):
    method = build(name, digits)
    trained_a_little(method)  # at the zero start, gates stop the gradient
    loss(method, digits)["loss"].backward()
    without = [n for n, p in method.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_falls_on_one_batch(name, digits):
    """With a teacher's targets held still: centring moves them so that they get harder, which is its purpose."""
    values = optimise(build(name, digits), digits, 40, after_step=False)
    assert values[-1] < 0.9 * values[0]


@pytest.mark.parametrize("name", METHODS)
def test_a_state_dict_carries_the_whole_method(name, digits):
    method = build(name, digits)
    optimise(method, digits, 2)
    twin = build(name, digits)
    assert loss(twin, digits, 7)["loss"] != loss(method, digits, 7)["loss"]
    twin.load_state_dict(copy.deepcopy(method.state_dict()))
    assert torch.equal(loss(twin, digits, 7)["loss"], loss(method, digits, 7)["loss"])


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_is_a_function_of_the_seed(name, digits):
    method = build(name, digits)
    trained_a_little(method)
    assert torch.equal(loss(method, digits, 1)["loss"], loss(method, digits, 1)["loss"])
    assert not torch.equal(loss(method, digits, 1)["loss"], loss(method, digits, 2)["loss"])


@pytest.mark.parametrize("name", METHODS)
def test_parts_of_the_loss_carry_no_gradient(name, digits):
    losses = loss(build(name, digits), digits)
    assert losses["loss"].requires_grad
    assert losses["loss"].shape == ()
    assert not any(value.requires_grad for part, value in losses.items() if part != "loss")


@pytest.mark.parametrize("name", METHODS)
def test_a_network_is_sampled_without_its_method(name, digits):
    cfg = small_config(name, "sampling.num_steps=3")
    network = trained_a_little(baselines.build(cfg).network)
    generated = generate(
        network, FORMULATIONS[cfg.formulation](), cfg.sampling, choose_labels("balanced", 5, 10, 0),
        image_shape=(1, 8, 8), null_label=10, seed=0, batch_size=4, device=CPU,
    )  # fmt: skip
    assert generated.images.shape == (5, 8, 8, 1)
    assert generated.images.dtype == torch.uint8


@pytest.mark.parametrize("name", METHODS)
def test_an_untrained_network_outputs_zero(name, digits):
    network = build(name, digits).network
    assert not network(torch.randn(2, 1, 8, 8), torch.zeros(2), torch.tensor([0, 10])).any()


@pytest.mark.parametrize("name", METHODS)
def test_the_label_and_the_noise_level_reach_the_output(name, digits):
    network = trained_a_little(build(name, digits).network)
    x = torch.randn(1, 1, 8, 8).expand(3, -1, -1, -1)
    out = network(x, torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0, 10, 0]))
    assert not torch.allclose(out[0], out[1])
    assert not torch.allclose(out[0], out[2])


@pytest.mark.parametrize("name", METHODS)
def test_each_method_trains_with_every_formulation_it_names(name, digits):
    for formulation in baselines.load(name).Method.formulations:
        method = build(name, digits, f"formulation={formulation}")
        assert torch.isfinite(loss(method, digits)["loss"])
