"""EDT's stages, what enters them, and its masks.   B batch, L tokens, D width."""

import pytest
import torch
from counted import counted
from small import small_config, trained_a_little

import baselines
from harness.model.method import Batch, Progress
from harness.model.nn.blocks import modulate
from harness.model.nn.pyramid import merged, spread
from harness.model.randomness import Draw, seed_step
from harness.system.errors import UsageError

THREE = ("stage_widths=[12,16,20]", "stage_heads=[3,4,5]", "stage_depths=[1,1,1,1,1]")
CPU = torch.device("cpu")


def method(*assignments):
    return trained_a_little(baselines.build(small_config("edt", *assignments)))


def inputs(side=8):
    return torch.randn(2, 1, side, side), torch.tensor([3.0, 900.0]), torch.tensor([1, 10])


def test_merging_takes_the_four_tokens_of_a_square_and_spreading_is_its_inverse():
    x = torch.randn(2, 16, 3)
    square = x.reshape(2, 4, 4, 3)
    merge = merged(x)
    assert torch.equal(merge[:, 1], torch.cat([square[:, row, column] for row in (0, 1) for column in (2, 3)], dim=-1))
    assert torch.equal(spread(merge), x)


def test_before_training_the_stages_are_a_chain_of_linear_layers():
    """Blocks start as the identity, so the U of two stages can be written down."""
    network = baselines.build(small_config("edt")).network
    x, cond = torch.randn(2, 16, 12), torch.randn(2, 12)
    merge, join, silu = network.merges[0], network.joins[0], torch.nn.functional.silu(cond)

    def normalised(tokens, layer):
        return modulate(layer.norm(tokens), *layer.adaln(silu).chunk(2, dim=-1))

    down = normalised(merged(x), merge) @ merge.out.weight.T + network.position1
    up = torch.cat([spread(down @ network.spreads[0].weight.T), x], dim=-1)
    torch.testing.assert_close(network.process(x, cond)[0], join.out(normalised(up, join)) + network.position)
    assert merge.out.bias is None
    assert merge.adaln.weight.any()


def test_each_stage_up_joins_what_entered_the_stage_down_of_its_width():
    network = method(*THREE).network
    entered, joined = [], []
    for stage in network.stages[:2]:
        stage[0].register_forward_hook(lambda block, args, output: entered.append(args[0]))
    for join in network.joins:
        join.register_forward_hook(lambda layer, args, output: joined.append(args[0].chunk(2, dim=-1)[1]))
    network(*inputs())
    assert [x.shape[1:] for x in entered] == [(16, 12), (4, 16)]
    assert all(torch.equal(one, other) for one, other in zip(joined, reversed(entered), strict=True))


@pytest.mark.parametrize("relative", ["true", "false"])
def test_a_masked_pass_that_masks_nothing_is_the_full_pass(relative):
    network = method(*THREE, f"relative_position={relative}").network
    args, all_seen = inputs(), [torch.ones(2, 16, dtype=torch.bool), torch.ones(2, 4, dtype=torch.bool)]
    torch.testing.assert_close(network(*args, *all_seen), network(*args))


def test_a_token_that_is_masked_does_not_enter_the_linear_layer_of_a_down_sampling():
    network = method().network
    merge, cond = network.merges[0], torch.randn(1, 12)
    x, seen = torch.randn(1, 16, 12), torch.rand(1, 16) < 0.5
    shift, scale = merge.adaln(torch.nn.functional.silu(cond)).chunk(2, dim=-1)
    whole = modulate(merge.norm(merged(x)), shift, scale)
    without = torch.where(seen[..., None], spread(whole), 0.0)
    torch.testing.assert_close(merge(x, cond, seen), merged(without) @ merge.out.weight.T)


def test_the_mask_within_the_first_stage_leaves_positions_alone():
    network = method("stage_depths=[6,1,1]", "stage_mask=[0.15,0.25]").network
    args, all_seen = inputs(), torch.ones(2, 16, dtype=torch.bool)
    seen = torch.arange(16).expand(2, -1) % 3 > 0
    entered = []
    network.stages[0][4].register_forward_hook(lambda block, arguments, output: entered.append(arguments[0]))
    network(*args)
    network(*args, all_seen, seen)
    assert torch.equal(entered[1], torch.where(seen[..., None], entered[0], network.position))


def test_ratios_lie_in_their_ranges_and_are_the_same_for_every_process():
    edt = method(*THREE, "side=64", "stage_depths=[5,1,1,1,1]", "stage_mask=[0.15,0.25]")
    shares = []
    for step in range(200):
        seed_step(0, step)
        masks = edt.drawn(Draw(16, 0, 16, CPU))
        assert [mask.shape for mask in masks] == [(16, 1024), (16, 256), (16, 1024)]
        shares.append([1 - mask.float().mean().item() for mask in masks])
        seed_step(0, step)
        mine = edt.drawn(Draw(16, 4, 7, CPU))
        assert all(torch.equal(one, other[4:7]) for one, other in zip(mine, masks, strict=True))
    for values, (low, high) in zip(zip(*shares, strict=True), ((0.4, 0.5), (0.1, 0.2), (0.15, 0.25)), strict=True):
        assert low - 0.02 < min(values) < low + 0.02
        assert high - 0.02 < max(values) < high + 0.02


def test_the_loss_is_the_sum_of_a_full_and_a_masked_pass_over_the_same_noise(digits):
    edt = method()
    clean, labels = digits.clean[:4], digits.labels[:4]
    torch.manual_seed(3)
    losses = edt(Batch(clean, labels), Progress(0.0, 0.0), Draw.all_of(clean))
    torch.manual_seed(3)
    noised = edt.formulation.noised(clean, Draw.all_of(clean))
    ratio = 0.4 + 0.1 * torch.rand(())
    seen = torch.rand(4, 16) >= ratio
    args = noised.net_input, noised.net_noise, labels
    full, masked = (edt.formulation.loss_map(edt.network(*args, *masks), noised).mean() for masks in ([], [seen]))
    torch.testing.assert_close(losses["loss"], full + masked)
    assert not torch.isclose(full, masked)


@pytest.mark.parametrize(
    ("size", "millions", "gmacs", "depths"),
    [
        ("s", 38.32, 2.66, []),
        ("b", 152.2, 10.2, []),
        ("xl", 708.44, 51.83, ["stage_depths=[6,4,4,8,6]"]),  # the recipe says why these
    ],
)
def test_edt_has_the_published_parameters_and_arithmetic(size, millions, gmacs, depths):
    """EDT repository, models_edt.py, of the network with relative positions; its README calls them GFLOPs."""
    network = counted(f"edt-{size}", "relative_position=true", *depths)
    assert network.params / 1e6 == pytest.approx(millions, rel=0.005)
    assert network.gmacs_forward == pytest.approx(gmacs, rel=0.005)


def test_stages_that_do_not_go_together_are_refused():
    with pytest.raises(UsageError, match="a stage_depths for each down and up"):
        small_config("edt", "stage_depths=[1,1]")
    with pytest.raises(UsageError, match="3 down-samplings do not halve 4 x 4 tokens evenly"):
        baselines.build(
            small_config("edt", "stage_widths=[12,16,20,24]", "stage_heads=[3,4,5,6]", "stage_depths=[1,1,1,1,1,1,1]")
        )
    with pytest.raises(UsageError, match="stage_mask comes after 4 blocks"):
        baselines.build(small_config("edt", "stage_mask=[0.1,0.2]"))
