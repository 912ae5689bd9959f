import pytest
import torch
from small import small_config, trained_a_little

import baselines
from harness.model.method import Batch, Progress
from harness.model.nn import tokens
from harness.model.nn.embeddings import patchify
from harness.model.randomness import Draw

PROGRESS = Progress(0.0, 0.0)


def method(digits, *assignments):
    return trained_a_little(baselines.build(small_config("maskdit", *assignments)))


def test_the_loss_is_the_visible_denoising_error_plus_a_tenth_of_the_reconstruction(digits):
    maskdit = method(digits)
    clean, labels = digits.clean[:4], digits.labels[:4]
    torch.manual_seed(3)
    losses = maskdit(Batch(clean, labels), PROGRESS, Draw.all_of(clean))

    torch.manual_seed(3)  # the same noise, level and mask, drawn in the same order
    noised = maskdit.formulation.noised(clean, Draw.all_of(clean))
    keep = tokens.random_keep(Draw.all_of(clean), 16, 8)
    raw = maskdit.network(noised.net_input, noised.net_noise, labels, keep)
    per_token = patchify(maskdit.formulation.loss_map(raw, noised), 2).mean(-1)
    denoised, noisy = patchify(maskdit.formulation.denoised(raw, noised), 2), patchify(noised.noisy, 2)
    visible, masked = [], []
    for image in range(4):
        for token in range(16):
            if token in keep[image].tolist():
                visible.append(per_token[image, token])
            else:
                patch = noisy[image, token]
                target = (patch - patch.mean()) / (patch.var(unbiased=True) + 1e-6).sqrt()
                masked.append(((denoised[image, token] - target) ** 2).mean())
    expected = torch.stack(visible).mean() + 0.1 * torch.stack(masked).mean()
    torch.testing.assert_close(losses["loss"], expected)


def test_masked_patches_cannot_be_seen(digits):
    network = method(digits).network
    keep = torch.tensor([[0, 3, 7, 12]])
    x = torch.randn(1, 1, 8, 8)
    hidden = torch.ones(1, 16, 1)
    hidden[0, keep[0]] = 0
    from harness.model.nn.embeddings import unpatchify

    changed = x + unpatchify(hidden.expand(-1, -1, 4).contiguous(), 2)
    args = torch.zeros(1), torch.tensor([2])
    assert torch.equal(network(x, *args, keep), network(changed, *args, keep))
    assert not torch.equal(network(x, *args), network(changed, *args))


def test_unmasked_tuning_has_no_reconstruction_loss(digits):
    losses = method(digits, "mask_ratio=0")(
        Batch(digits.clean[:4], digits.labels[:4]), PROGRESS, Draw.all_of(digits.clean[:4])
    )
    assert set(losses) == {"loss"}


@pytest.mark.parametrize(("method", "alone"), [("maskdit", []), ("sddit", ["discriminate=false"])])
@pytest.mark.parametrize(("start", "steps_without_gradient"), [("zero", 2), ("xavier", 1)])
def test_a_projection_that_starts_at_zero_keeps_the_gradient_from_the_encoder_one_step_longer(
    method, alone, start, steps_without_gradient, digits
):
    """The readout's zero start costs the encoder one step; the projection's costs it one more."""
    torch.manual_seed(0)
    built = baselines.build(small_config(method, *alone, f"project_start={start}"))
    batch = Batch(digits.clean[:8], digits.labels[:8])
    optimizer, reached = torch.optim.SGD(built.parameters(), 0.01), []
    for _ in range(3):
        optimizer.zero_grad()
        built(batch, PROGRESS, Draw.all_of(batch.clean))["loss"].backward()
        reached.append(bool(built.network.encoder.patches.proj.weight.grad.any()))
        optimizer.step()
    assert reached.index(True) == steps_without_gradient
