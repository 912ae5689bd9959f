import numpy as np
import pytest
import torch
from agreement import adm_inception_score, logits_like
from torch import Tensor

from harness.evaluation.metrics.scores import class_accuracy, inception_score, order_suspicion
from harness.system import torchvision_guard

torchvision_guard.install()

from torch_fidelity.metric_isc import isc_features_to_metric  # noqa: E402


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shuffled(logits: Tensor) -> Tensor:
    return logits[torch.randperm(len(logits), generator=torch.Generator().manual_seed(3))]


@pytest.mark.parametrize("count", [700, 5_000, 12_000])
def test_inception_score_is_the_exponent_of_the_information_between_image_and_class(count):
    logits = 3 * noise(count, 10)
    scores = []
    for block in np.split(logits.softmax(1).numpy(), range(5_000, count, 5_000)):
        marginal = block.mean(0)
        scores.append(np.exp((block * np.log(block)).sum(1).mean() - (marginal * np.log(marginal)).sum()))
    assert inception_score(logits) == pytest.approx(np.mean(scores), rel=1e-12)


def test_inception_score_is_torch_fidelity_s_and_adm_s():
    logits = logits_like(torch.arange(10_000) * 7 % 1000, seed=0)
    theirs = isc_features_to_metric(logits, splits=2, shuffle=False)["inception_score_mean"]
    assert inception_score(logits) == pytest.approx(theirs, rel=1e-12)
    assert inception_score(logits) == pytest.approx(adm_inception_score(logits.numpy()), rel=1e-5)


def test_inception_score_runs_from_one_to_the_number_of_classes():
    assert inception_score(torch.zeros(600, 10)) == pytest.approx(1)
    assert inception_score(100 * torch.eye(10).repeat(60, 1)) == pytest.approx(10)
    assert inception_score(1e4 * torch.eye(10).repeat(60, 1)) == pytest.approx(10)  # shares of exactly 0


def test_inception_score_takes_images_in_the_order_given():
    sorted_by_class = 100 * torch.eye(10).repeat_interleave(1_000, 0)
    assert inception_score(sorted_by_class) == pytest.approx(5)  # two blocks of five classes each
    assert inception_score(100 * torch.eye(10).repeat(1_000, 1)) == pytest.approx(10)


@pytest.mark.parametrize("count", [10_000, 11_234])
def test_images_sorted_by_class_are_suspicious_and_both_scores_are_told(count):
    logits = 3 * torch.eye(10)[torch.arange(count) * 10 // count].double() + 0.1 * noise(count, 10)
    sentence = order_suspicion(logits)
    assert f"{inception_score(logits):.2f} in the order given against {inception_score(shuffled(logits)):.2f}" in (
        sentence.replace("\n", " ")
    )
    assert "sorted by class" in sentence


def test_images_sorted_in_part_are_suspicious_too():
    """Ten processes that each drew its own classes and wrote its images one after the other."""
    labels = torch.arange(20_000) // 2_000 * 100 + torch.randint(
        100, (20_000,), generator=torch.Generator().manual_seed(0)
    )
    assert order_suspicion(logits_like(labels, seed=0)) is not None


@pytest.mark.parametrize("seed", range(3))
def test_images_in_random_or_balanced_order_are_not_suspicious(seed):
    generator = torch.Generator().manual_seed(seed)
    for labels in (torch.randint(1000, (12_000,), generator=generator), torch.arange(12_000) % 1000):
        assert order_suspicion(logits_like(labels, seed=seed), seed) is None


def test_a_loss_of_score_too_small_to_matter_is_not_suspicious():
    """52% and 48% of one class in two blocks: 20 times more uneven than chance, and 0.1% of the score."""
    labels = (torch.arange(10_000) % 5_000 >= torch.tensor([2_600, 2_400]).repeat_interleave(5_000)).long()
    logits = 100 * torch.eye(2)[labels]
    assert inception_score(logits) < inception_score(shuffled(logits))
    assert order_suspicion(logits) is None


def test_the_order_of_one_block_cannot_matter():
    assert order_suspicion(100 * torch.eye(10).repeat_interleave(500, 0)) is None


def test_the_order_check_touches_no_global_random_state():
    logits, before = torch.zeros(6_000, 3), torch.get_rng_state()
    order_suspicion(logits)
    assert torch.equal(torch.get_rng_state(), before)


def test_class_accuracy_is_the_share_of_images_of_the_class_asked_for():
    assert class_accuracy(torch.eye(4), torch.tensor([0, 1, 3, 2])) == 0.5
