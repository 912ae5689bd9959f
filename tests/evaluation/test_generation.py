"""From a network to images: what a sampler is told, and what an image depends on."""

import pytest
import torch
from small import small_config, trained_a_little

from harness.diffusion.formulations import EDM, FORMULATIONS, IDDPM
from harness.evaluation.generation import choose_labels, generate
from harness.randomness import Draw
from harness.training import registry


@pytest.mark.parametrize(("formulation", "level"), [(EDM(), 0.7), (IDDPM(), 640)])
def test_a_sampler_is_told_what_training_would_have_told_it(formulation, level):
    """predict at a level equals denoised of what the network says of the same noisy images in training."""
    clean = torch.randn(3, 2, 4, 4)
    noised = formulation.noised(clean, Draw.all_of(clean), torch.full((3,), level))
    seen = []

    def network(net_input, net_noise, labels):
        seen.append((net_input, net_noise, labels))
        return torch.sin(3 * net_input.repeat(1, formulation.out_channels(1), 1, 1)) * net_noise.reshape(-1, 1, 1, 1)

    labels = torch.tensor([0, 1, 2])
    prediction = formulation.predict(network, noised.noisy, level, labels)
    torch.testing.assert_close(seen[0][0], noised.net_input)
    torch.testing.assert_close(seen[0][1], noised.net_noise)
    assert torch.equal(seen[0][2], labels)
    raw = network(noised.net_input, noised.net_noise, labels)
    torch.testing.assert_close(prediction.clean, formulation.denoised(raw, noised))


def draw(digits, name, *assignments, seed=0, batch_size=7, labels=None, precision="fp32"):
    cfg = small_config(name, "sampling.num_steps=4", *assignments)
    network = trained_a_little(registry.build(cfg).network)
    labels = choose_labels("random", 11, 10, seed) if labels is None else labels
    return generate(
        network, FORMULATIONS[cfg.formulation](), cfg.sampling, labels,
        image_shape=(1, 8, 8), null_label=10, seed=seed, batch_size=batch_size, device=torch.device("cpu"),
        precision=precision,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["dit", "sddit"])
def test_an_image_depends_on_the_seed_and_its_place_not_on_the_batch(digits, name):
    whole = draw(digits, name, batch_size=11)
    assert torch.equal(whole.labels, draw(digits, name, batch_size=3).labels)
    difference = whole.images.int() - draw(digits, name, batch_size=3).images.int()
    assert difference.abs().max() <= 1  # sums of another size of batch round differently
    assert (difference != 0).float().mean() < 0.01
    assert not torch.equal(whole.images, draw(digits, name, seed=1, batch_size=11).images)


def test_more_images_begin_with_the_same_ones(digits):
    few = draw(digits, "sddit", labels=choose_labels("random", 5, 10, 0)).images
    many = draw(digits, "sddit", labels=choose_labels("random", 9, 10, 0)).images
    assert (few.int() - many[:5].int()).abs().max() <= 1


def test_guidance_at_one_changes_nothing_and_above_one_does(digits):
    plain = draw(digits, "sddit")
    one, three = draw(digits, "sddit", "guidance_scale=1"), draw(digits, "sddit", "guidance_scale=3")
    assert (plain.images.int() - one.images.int()).abs().max() <= 1
    assert (plain.images.int() - three.images.int()).abs().max() > 10


def test_guidance_of_an_image_without_a_label_changes_nothing(digits):
    """The unconditional half asks for "no label": for images that asked for none, both halves are the same."""
    nobody = torch.full((5,), 10)
    plain = draw(digits, "sddit", labels=nobody)
    guided = draw(digits, "sddit", "guidance_scale=5", labels=nobody)
    assert (plain.images.int() - guided.images.int()).abs().max() <= 1


def test_guidance_in_an_interval_that_holds_all_levels_is_guidance_and_in_one_that_holds_none_is_not(digits):
    guided = draw(digits, "sddit", "guidance_scale=5")
    everywhere = draw(digits, "sddit", "guidance_scale=5", "guidance_interval=[0, 100]")
    nowhere = draw(digits, "sddit", "guidance_scale=5", "guidance_interval=[100, 200]")
    middle = draw(digits, "sddit", "guidance_scale=5", "guidance_interval=[0.1, 2]")
    assert torch.equal(guided.images, everywhere.images)
    assert torch.equal(nowhere.images, draw(digits, "sddit").images)
    assert not torch.equal(middle.images, guided.images)
    assert not torch.equal(middle.images, nowhere.images)


@pytest.mark.parametrize("name", ["dit", "sddit"])
def test_a_network_in_bf16_draws_nearly_the_same_images_and_the_sampler_stays_float(digits, name):
    plain, half = draw(digits, name), draw(digits, name, precision="bf16")
    difference = (plain.images.int() - half.images.int()).abs().float()
    assert 0 < difference.mean() < 3


def test_labels_are_random_or_balanced_and_a_function_of_the_seed():
    assert choose_labels("balanced", 12, 10, 0).tolist() == [*range(10), 0, 1]
    labels = choose_labels("random", 5000, 10, 0)
    assert torch.bincount(labels, minlength=10).min() > 420
    assert torch.equal(labels[:100], choose_labels("random", 100, 10, 0))
    assert not torch.equal(labels[:100], choose_labels("random", 100, 10, 1))
