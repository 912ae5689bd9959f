import math

import pytest
import torch

from harness.model.nn.embeddings import Condition, patchify, sincos_positions, unpatchify


def test_patches_round_trip():
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(unpatchify(patchify(x, 2), 2), x)


def test_patches_follow_rows_and_keep_their_values_together():
    x = torch.arange(2 * 4 * 4.0).reshape(1, 2, 4, 4)
    second = patchify(x, 2)[0, 1]  # the patch right of the first
    assert second.tolist() == [2, 3, 6, 7, 18, 19, 22, 23]


def test_positions_put_the_column_first_and_are_sines_then_cosines():
    width, grid = 16, 4
    positions = sincos_positions(width, grid)[0]
    for row in range(grid):
        for column in range(grid):
            frequency = [10_000 ** -(i / 4) for i in range(4)]
            expected = [f(index * w) for index in (column, row) for f in (math.sin, math.cos) for w in frequency]
            torch.testing.assert_close(positions[row * grid + column], torch.tensor(expected), atol=1e-6, rtol=0)


def test_positions_refuse_a_width_that_two_axes_cannot_share():
    with pytest.raises(ValueError, match="multiple of 4, not 18"):
        sincos_positions(18, 4)


def test_the_noise_level_enters_as_cosines_then_sines():
    condition = Condition(8, 3)
    seen = []
    condition.noise[0].register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    condition(torch.tensor([0.5]), torch.tensor([0]))
    frequency = [math.exp(-math.log(10_000) * i / 128) for i in range(128)]
    expected = [f(0.5 * w) for f in (math.cos, math.sin) for w in frequency]
    torch.testing.assert_close(seen[0][0], torch.tensor(expected))


def test_no_label_is_a_learned_row_or_exactly_zero():
    level, none, first = torch.zeros(1), torch.tensor([3]), torch.tensor([0])
    learned, zero = Condition(8, 3), Condition(8, 3, null_label_learned=False)
    assert learned.label.num_embeddings == 4
    assert zero.label.num_embeddings == 3
    without_any = zero.noise(torch.cat([torch.ones(1, 128), torch.zeros(1, 128)], 1))
    assert torch.equal(zero(level, none), without_any)
    assert not torch.equal(zero(level, first), without_any)
    assert not torch.equal(learned(level, none), learned(level, first))
