import pytest
import torch
from small import small_config, tiny_config, trained_a_little

import baselines
from baselines.mdt import Config
from harness.model.method import Batch, Progress
from harness.model.nn import tokens
from harness.model.nn.blocks import through
from harness.model.randomness import Draw, seed_step
from harness.records.looks import measured_title
from harness.system.errors import UsageError


def method(digits, *assignments):
    return trained_a_little(baselines.build(small_config("mdt", *assignments)))


def test_the_loss_is_the_sum_of_a_full_and_a_masked_pass_over_the_same_noise(digits):
    mdt = method(digits)
    clean, labels = digits.clean[:4], digits.labels[:4]
    torch.manual_seed(3)
    losses = mdt(Batch(clean, labels), Progress(0.0, 0.0), Draw.all_of(clean))

    torch.manual_seed(3)  # the same noise, step and mask, drawn in the same order
    noised = mdt.formulation.noised(clean, Draw.all_of(clean))
    keep = tokens.random_keep(Draw.all_of(clean), 16, 11)  # int(16 x 0.7)
    inputs = noised.net_input, noised.net_noise, labels
    full = mdt.formulation.loss_map(mdt.network(*inputs), noised).mean()
    masked = mdt.formulation.loss_map(mdt.network(*inputs, keep), noised).mean()
    torch.testing.assert_close(losses["loss"], full + masked)


def test_a_masked_pass_that_keeps_everything_is_the_full_pass(digits):
    network = method(digits).network
    args = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 900.0]), torch.tensor([1, 10])
    everything = torch.arange(16).expand(2, -1)
    torch.testing.assert_close(network(*args, everything), network(*args))


def test_the_side_interpolator_works_on_masked_tokens_only_and_only_in_training(digits):
    network = method(digits).network
    args = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 900.0]), torch.tensor([1, 10])
    keep = torch.arange(8).expand(2, -1)
    seen = []
    network.decoder[0].register_forward_hook(lambda block, inputs, output: seen.append(inputs[0]))
    full, masked = network(*args), network(*args, keep)
    with torch.no_grad():
        for parameter in network.interpolator.parameters():
            parameter.add_(0.3)
    assert torch.equal(network(*args), full)
    assert not torch.equal(network(*args, keep), masked)
    before, after = seen[1], seen[3]
    assert torch.equal(before[:, :8], after[:, :8])
    assert not torch.equal(before[:, 8:], after[:, 8:])


def test_positions_start_at_sines_and_cosines_and_are_learned(digits):
    network = baselines.build(small_config("mdt")).network
    assert torch.equal(network.position, network.decoder_position)
    assert network.position.requires_grad
    assert network.decoder_position.requires_grad


def test_relative_positions_depend_on_the_difference_of_places_alone(digits):
    network = method(digits, "relative_position=true").network
    bias = network.encoder[0].bias(None)[0, 0].reshape(4, 4, 4, 4)
    torch.testing.assert_close(bias[1, 1, 0, 3], bias[3, 0, 2, 2])  # one up, two right
    assert bias[1, 1, 0, 3] != bias[0, 3, 1, 1]


def test_relative_positions_follow_the_kept_tokens(digits):
    relative = method(digits, "relative_position=true").network.encoder[0].bias
    keep = torch.tensor([[0, 5, 9], [1, 2, 15]])
    whole, kept = relative(None), relative(keep)
    for image in range(2):
        rows = keep[image]
        assert torch.equal(kept[image], whole[0][:, rows][:, :, rows])


# Version 2 ---------------------------------------------------------------------------------------------------------

DEEPER = ("version=2", "depth=6", "decoder_depth=2")  # an encoder of two and two blocks


def inputs():
    return torch.randn(2, 1, 8, 8), torch.tensor([3.0, 900.0]), torch.tensor([1, 10])


def test_version_1_is_what_it_was_before_there_were_two(digits):
    """The run's id of then, its layers' names, and the same operations in the same order: equal bits."""
    assert tiny_config("mdt").run_id == tiny_config("mdt", "version=1").run_id == "seed0-c644d472d0"
    mdt = method(digits, "relative_position=true")
    network = mdt.network
    assert not any("join" in name for name, _ in network.named_parameters())
    args, keep = inputs(), torch.arange(11).expand(2, -1)
    x, cond = network.embed(args[0]), network.condition(*args[1:])
    encoded, _ = through(network.encoder, tokens.gather(x, keep), cond, keep)
    filled = tokens.scatter(encoded, keep, onto=network.mask_token.expand(2, 16, -1)) + network.decoder_position
    filled[:, 11:] = network.interpolator(filled, cond, None)[:, 11:]
    assert torch.equal(network.process(x, cond, keep)[0], through(network.decoder, filled, cond, None)[0])
    torch.manual_seed(5)
    (kept,) = mdt.drawn(Draw.all_of(args[0]))
    torch.manual_seed(5)
    assert torch.equal(kept, torch.rand(2, 16).argsort(dim=1)[:, :11].sort(dim=1).values)


def test_version_2_before_training_is_a_chain_of_its_skips(digits):
    """Blocks start as the identity: each join is a linear layer on the tokens and what an earlier place put out."""
    network = baselines.build(small_config("mdt", *DEEPER)).network
    x, cond = torch.randn(2, 16, 16), torch.randn(2, 16)
    expected = x
    for block in network.encoder[2:]:
        expected = block.join.linear(torch.cat([expected, x], dim=-1))
    expected = expected + network.decoder_position
    for block in network.decoder:
        expected = block.join.linear(torch.cat([expected, x], dim=-1))
    torch.testing.assert_close(network.process(x, cond)[0], expected)
    assert [block.join is None for block in network.encoder] == [True, True, False, False]


def test_a_block_of_the_second_half_joins_its_mirror_image_in_the_first(digits):
    network = method(digits, *DEEPER).network
    put_out, joined = [], []
    for block in network.encoder:
        block.register_forward_hook(lambda block, args, output: put_out.append(output))
    for block in [*network.encoder[2:], *network.decoder]:
        block.join.register_forward_hook(lambda join, args, output: joined.append(args[1]))
    args = inputs()
    network(*args)
    embedded = network.embed(args[0])
    expected = [put_out[1], put_out[0], embedded, embedded]
    assert all(torch.equal(one, other) for one, other in zip(joined, expected, strict=True))


def test_a_masked_pass_of_version_2_that_keeps_everything_is_the_full_pass(digits):
    network = method(digits, *DEEPER, "relative_position=true").network
    args, everything = inputs(), torch.randperm(16).expand(2, -1)
    full = network(*args)
    torch.testing.assert_close(network(*args, everything, torch.ones(16, dtype=torch.bool)), full)
    torch.testing.assert_close(network(*args, everything), full)


@pytest.mark.parametrize("relative", ["true", "false"])
def test_a_place_that_is_not_seen_is_as_if_it_had_not_been_kept(digits, relative):
    network = method(digits, *DEEPER, f"relative_position={relative}").network
    args, keep = inputs(), torch.rand(2, 16).argsort(dim=1)[:, :11]
    torch.testing.assert_close(network(*args, keep, torch.arange(11) < 8), network(*args, keep[:, :8]))
    changed = keep.clone()
    changed[:, 8:] = changed[:, 8:].flip(1)
    assert torch.equal(network(*args, keep, torch.arange(11) < 8), network(*args, changed, torch.arange(11) < 8))


def test_ratios_lie_between_the_knob_and_so_much_more_and_reach_both_ends(digits):
    mdt = baselines.build(small_config("mdt", "version=2", "side=32", "patch=2", "mask_ratio=0.3"))
    kept = []
    for step in range(300):
        seed_step(0, step)
        keep, seen = mdt.drawn(Draw(8, 0, 8, torch.device("cpu")))
        assert keep.shape == (8, 179)
        assert seen.diff().int().sum() <= 1
        kept.append(int(seen.sum()))
    assert min(kept) in (128, 129)
    assert max(kept) in (178, 179)
    assert 150 < sum(kept) / len(kept) < 157  # 153.1


def test_every_process_and_micro_batch_draws_the_same_ratio_and_its_rows_of_the_masks(digits):
    mdt = baselines.build(small_config("mdt", "version=2"))
    seed_step(0, 7)
    keep, seen = mdt.drawn(Draw(8, 0, 8, torch.device("cpu")))
    for start, stop in ((0, 4), (4, 8), (6, 7)):
        seed_step(0, 7)
        mine, count = mdt.drawn(Draw(8, start, stop, torch.device("cpu")))
        assert torch.equal(count, seen)
        assert torch.equal(mine, keep[start:stop])


def test_the_loss_of_version_2_is_that_of_both_passes_at_the_drawn_ratio(digits):
    mdt = method(digits, *DEEPER)
    clean, labels = digits.clean[:4], digits.labels[:4]
    torch.manual_seed(3)
    losses = mdt(Batch(clean, labels), Progress(0.0, 0.0), Draw.all_of(clean))
    torch.manual_seed(3)
    noised = mdt.formulation.noised(clean, Draw.all_of(clean))
    count = int(16 * (1 - (0.3 + 0.2 * torch.rand(()).item())))
    keep = torch.rand(4, 16).argsort(dim=1)[:, :count]
    args = noised.net_input, noised.net_noise, labels
    full = mdt.formulation.loss_map(mdt.network(*args), noised).mean()
    masked = mdt.formulation.loss_map(mdt.network(*args, keep), noised).mean()
    torch.testing.assert_close(losses["loss"], full + masked)


def test_every_weight_of_version_2_gets_a_gradient(digits):
    mdt = method(digits, *DEEPER)
    clean, labels = digits.clean[:8], digits.labels[:8]
    mdt(Batch(clean, labels), Progress(0.0, 0.0), Draw.all_of(clean))["loss"].backward()
    assert [name for name, p in mdt.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(("depth", "decoder"), [(12, 6), (28, 4), (24, 4), (4, 2)])
def test_the_decoder_of_version_2_is_the_published_one_for_its_depth(depth, decoder):
    assert Config(version=2).blocks_of_decoder(depth) == decoder
    assert Config(version=2, decoder_depth=2).blocks_of_decoder(depth) == 2
    assert Config().blocks_of_decoder(depth) == 2


def test_knobs_that_do_not_go_with_the_version_are_refused():
    with pytest.raises(UsageError, match="encoder of 3; with version 2 the encoder must have two halves"):
        baselines.build(small_config("mdt", "version=2", "depth=4", "decoder_depth=1"))
    with pytest.raises(UsageError, match="null is version 2's"):
        small_config("mdt", "decoder_depth=null")
    with pytest.raises(UsageError, match="keeps none of 16 tokens"):
        baselines.build(small_config("mdt", "version=2", "mask_ratio=0.79"))
    assert Config(version=2).input_patches == "100% + 50% to 70%"


def test_a_figure_tells_the_versions_apart():
    assert measured_title("mdt", {}) == measured_title("mdt", {"version": 1}) == "MDT-lite"
    assert measured_title("mdt", {"version": 2}) == "MDT-lite v2"
    assert measured_title("mdt", {"version": 2, "relative_position": True}) == "MDT v2"
