import torch
from small import small_config, trained_a_little

import baselines
from harness.model.method import Batch, Progress
from harness.model.nn import tokens
from harness.model.randomness import Draw


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
