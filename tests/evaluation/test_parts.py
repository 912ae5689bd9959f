"""Images drawn in parts: shared out, kept over an interruption, the same however they were cut."""

import pytest
import torch

from harness.evaluation.parts import draw_in_parts
from harness.world import World


class Drawer:
    """Image i is full of the number i."""

    def __init__(self, fails_at=None):
        self.calls, self.fails_at = [], fails_at

    def __call__(self, first, stop):
        if first == self.fails_at:
            raise KeyboardInterrupt
        self.calls.append((first, stop))
        return torch.arange(first, stop, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 2, 2, 3).contiguous()


def drawn(folder, drawer, part_images=4, world=World()):
    return draw_in_parts(folder, 10, part_images, drawer, world=world)[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("part_images", [1, 3, 10, 99])
def test_all_images_come_in_order_however_they_are_cut(part_images, tmp_path):
    assert drawn(tmp_path, Drawer(), part_images) == list(range(10))


def test_after_an_interruption_only_the_missing_parts_are_drawn(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        drawn(tmp_path, Drawer(fails_at=8))
    again = Drawer()
    assert drawn(tmp_path, again) == list(range(10))
    assert again.calls == [(8, 10)]


def test_parts_of_another_cut_are_not_mistaken_for_these(tmp_path):
    drawn(tmp_path, Drawer(), 5)
    assert drawn(tmp_path, Drawer(), 4) == list(range(10))


def test_each_process_draws_every_other_part_and_none_twice(tmp_path):
    """What two processes do, one after the other: the main one finds the other's parts, and has all images."""
    zero, one = Drawer(), Drawer()
    assert draw_in_parts(tmp_path, 10, 4, one, world=Alone(1, 2)) is None
    assert drawn(tmp_path, zero, world=Alone(0, 2)) == list(range(10))
    assert (zero.calls, one.calls) == ([(0, 4), (8, 10)], [(4, 8)])


class Alone(World):
    """A process of two that has nobody to wait for."""

    def wait(self):
        pass
