"""Images drawn in parts: shared out, kept over an interruption, the same however they were cut."""

import threading

import numpy as np
import pytest
import torch

from harness.data import npy
from harness.evaluation.images.image_sets import PartImages
from harness.evaluation.images.parts import draw_in_parts
from harness.system.errors import DataError
from harness.system.processes.world import World

SHAPE = (2, 2, 3)


class Drawer:
    """Image i is full of the number i."""

    def __init__(self, fails_at=None):
        self.calls, self.fails_at = [], fails_at

    def __call__(self, first, stop):
        if first == self.fails_at:
            raise KeyboardInterrupt
        self.calls.append((first, stop))
        return torch.arange(first, stop, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, *SHAPE)


def drawn(folder, drawer, part_images=4, world=World(), **options):
    paths = draw_in_parts(folder, 10, part_images, SHAPE, drawer, world=world, **options)
    return PartImages("drawn", paths, SHAPE).read(0, 10)[:, 1, 0, 2].tolist()


@pytest.mark.parametrize("part_images", [1, 3, 10, 99])
def test_all_images_come_in_order_however_they_are_cut(part_images, tmp_path):
    assert drawn(tmp_path, Drawer(), part_images) == list(range(10))


def test_after_an_interruption_only_the_missing_parts_are_drawn(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        drawn(tmp_path, Drawer(fails_at=8))
    again = Drawer()
    assert drawn(tmp_path, again) == list(range(10))
    assert again.calls == [(8, 10)]


DAMAGES = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "cut in its header": lambda path: path.write_bytes(path.read_bytes()[:20]),
    "empty": lambda path: path.write_bytes(b""),
    "of another shape": lambda path: np.save(path, np.zeros((4, 2, 2, 1), np.uint8)),
    "of another kind": lambda path: np.save(path, np.zeros((4, *SHAPE), np.int8)),
    "with a flipped bit": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x47"),
    "without its hash": lambda path: path.with_suffix(".sha256").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_part_is_drawn_again_and_the_others_are_not(damage, tmp_path):
    drawn(tmp_path, Drawer())
    damage(sorted(tmp_path.glob("*.npy"))[1])
    again = Drawer()
    assert drawn(tmp_path, again) == list(range(10))
    assert again.calls == [(4, 8)]


def test_parts_of_another_cut_are_not_mistaken_for_these(tmp_path):
    drawn(tmp_path, Drawer(), 5)
    assert drawn(tmp_path, Drawer(), 4) == list(range(10))


def test_each_process_draws_every_other_part_and_none_twice_and_all_get_all(tmp_path):
    """What two processes do, one after the other: the main one finds the other's parts."""
    zero, one = Drawer(), Drawer()
    paths = draw_in_parts(tmp_path, 10, 4, SHAPE, one, world=Alone(1, 2))
    assert drawn(tmp_path, zero, world=Alone(0, 2)) == list(range(10))
    assert PartImages("drawn", paths, SHAPE).read(0, 10)[:, 0, 0, 0].tolist() == list(range(10))
    assert (zero.calls, one.calls) == ([(0, 4), (8, 10)], [(4, 8)])


def test_progress_counts_images_up_to_the_last(tmp_path):
    told = []
    drawn(tmp_path, Drawer(), advance=told.append)
    assert told == [4, 8, 10]


def test_a_part_is_written_while_the_next_one_is_drawn(tmp_path, monkeypatch):
    """Each write but the last waits until the next part is asked for, which would last for ever one after the other."""
    asked, saved, save = [threading.Event() for _ in range(4)], [], npy.save

    def waiting(path, array):
        saved.append(asked[len(saved) + 1].wait(timeout=10))
        return save(path, array)

    class Asked(Drawer):
        def __call__(self, first, stop):
            asked[first // 4].set()
            return super().__call__(first, stop)

    monkeypatch.setattr(npy, "save", waiting)
    asked[3].set()
    assert drawn(tmp_path, Asked()) == list(range(10))
    assert saved == [True, True, True]


@pytest.mark.parametrize("failing", [0, 2])
def test_a_part_that_cannot_be_written_is_told(failing, tmp_path, monkeypatch):
    drawer, save = Drawer(), npy.save

    def full(path, array):
        if path.name.startswith(f"images-{4 * failing:07d}"):
            raise DataError(f"{path} cannot be written: No space left on device.")
        return save(path, array)

    monkeypatch.setattr(npy, "save", full)
    with pytest.raises(DataError, match="No space left"):
        drawn(tmp_path, drawer)
    assert len(drawer.calls) == min(failing + 2, 3)  # one part more is drawn meanwhile, and no other


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="parts cannot be written"):
        drawn(tmp_path / "file" / "parts", Drawer())


class Alone(World):
    """A process of two that has nobody to wait for."""

    def wait(self):
        pass
