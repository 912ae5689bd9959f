import math

import pytest
import torch

from harness.model.nn.soft_cross_entropy import Logits
from harness.model.nn.targets import entropy_and_information, mean_target_and_entropy

ONE = torch.tensor(1.0)


def measured(logits: torch.Tensor, centre: torch.Tensor | None = None, temperature: torch.Tensor = ONE):
    """Of rows whose logits these are: the prototypes are the axes."""
    axes = torch.eye(logits.shape[1])
    centre = torch.zeros(len(axes)) if centre is None else centre
    means = mean_target_and_entropy(Logits(logits, axes), centre, temperature)
    found = entropy_and_information(means[None], ("cls",))
    return found["entropy/cls"].item(), found["information/cls"].item()


def test_targets_that_are_alike_tell_nothing_and_uniform_ones_have_the_entropy_ln_k():
    assert measured(torch.zeros(6, 16)) == pytest.approx((math.log(16), 0), abs=1e-6)
    assert measured(torch.randn(1, 16).expand(6, -1))[1] == pytest.approx(0, abs=1e-6)


def test_targets_of_one_prototype_each_tell_the_whole_of_it():
    assert measured(1e4 * torch.eye(8)) == pytest.approx((0, math.log(8)), abs=1e-5)
    assert measured(1e4 * torch.eye(8)[[0, 0, 1, 1]]) == pytest.approx((0, math.log(2)), abs=1e-5)


def test_entropies_are_of_the_targets_that_the_loss_takes():
    logits, centre, temperature = torch.randn(5, 7), torch.randn(7), torch.tensor(0.3)
    targets = ((logits - centre) / 0.3).double().softmax(-1)
    rows = -(targets * targets.log()).sum(-1).mean()
    mean = targets.mean(0)
    assert measured(logits, centre, temperature) == pytest.approx(
        (rows.item(), (-(mean * mean.log()).sum() - rows).item()), abs=1e-6
    )


def test_the_parts_of_a_batch_add_up_to_the_batch():
    teacher = Logits(torch.randn(8, 4), torch.randn(6, 4))
    whole = mean_target_and_entropy(teacher, torch.zeros(6), ONE)
    parts = [
        mean_target_and_entropy(Logits(rows, teacher.prototypes), torch.zeros(6), ONE) for rows in teacher[0].split(2)
    ]
    torch.testing.assert_close(sum(parts) / 4, whole)
