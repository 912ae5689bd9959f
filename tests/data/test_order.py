import pytest
import torch

from harness.data.order import batch_indices, mirrored


def test_an_epoch_visits_every_image_once_across_batches_that_do_not_fit():
    seen = torch.cat([batch_indices(10, 0, step, 4) for step in range(5)])
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()


def test_a_step_sees_the_same_data_whenever_it_is_asked_for():
    in_order = [batch_indices(100, 3, step, 7) for step in range(40)]
    assert all(torch.equal(in_order[step], batch_indices(100, 3, step, 7)) for step in (39, 0, 17))


def test_seeds_give_different_orders():
    assert batch_indices(1000, 0, 0, 64).tolist() != batch_indices(1000, 1, 0, 64).tolist()


def test_about_half_of_the_images_are_mirrored_and_which_is_a_function_of_the_step():
    flips = torch.stack([mirrored(0, step, 64) for step in range(100)])
    assert flips.float().mean() == pytest.approx(0.5, abs=0.02)
    assert torch.equal(mirrored(0, 7, 64), flips[7])
    assert not torch.equal(flips[7], flips[8])


def test_a_batch_may_be_larger_than_the_set():
    assert torch.bincount(batch_indices(5, 0, 0, 12)).tolist() in ([2, 2, 2, 3, 3], *_permutations_of_two_and_three())


def _permutations_of_two_and_three():
    from itertools import permutations

    return [list(p) for p in set(permutations([2, 2, 2, 3, 3]))]
