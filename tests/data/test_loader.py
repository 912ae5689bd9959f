"""Batches come in the order of their steps, whoever reads them, and each process gets its own rows."""

import pytest
import torch

from harness.data.dataset import Dataset
from harness.data.loader import Loader
from harness.data.order import batch_indices
from harness.model.randomness import Draw
from harness.system.errors import DataError, UsageError

CPU = torch.device("cpu")


class OnDisk(Dataset):
    """A set that has to be read: image i holds the number i, its mirror image -i."""

    name, num_classes, channels, side, real, has_flips = "on disk", 10, 1, 1, True, True
    sha256 = "0" * 64

    def __init__(self, fails_at=None):
        self.labels, self.fails_at, self.reads = torch.arange(100) % 10, fails_at, 0

    def __len__(self):
        return 100

    def read(self, indices):
        self.reads += 1
        if self.reads == self.fails_at:
            raise DataError("image 7 cannot be read.")
        image = indices % 100
        return torch.where(indices < 100, image, -image), self.labels[image]

    def everything(self):
        return torch.cat([torch.arange(100), -torch.arange(100)])


def loader(data, first_step=0, *, rows=slice(0, 8), flips=False, resident=False):
    return Loader(
        data,
        seed=0,
        batch_size=8,
        flips=flips,
        rows=rows,
        first_step=first_step,
        device=CPU,
        resident=resident,
    )


def batches(count, *args, **kwargs):
    with loader(*args, **kwargs) as reader:
        return [reader.next() for _ in range(count)]


def test_what_is_read_ahead_comes_in_the_order_of_the_steps():
    for step, batch in enumerate(batches(30, OnDisk())):
        assert torch.equal(batch.stored, batch_indices(100, 0, step, 8))
        assert torch.equal(batch.labels, batch.stored % 10)


def test_reading_from_the_middle_gives_what_came_there():
    whole, rest = batches(20, OnDisk()), batches(8, OnDisk(), first_step=12)
    assert all(torch.equal(one.stored, other.stored) for one, other in zip(whole[12:], rest, strict=True))


@pytest.mark.parametrize("flips", [False, True])
def test_a_set_held_whole_gives_the_same_batches(flips):
    read, held = batches(20, OnDisk(), flips=flips), batches(20, OnDisk(), flips=flips, resident=True)
    for one, other in zip(read, held, strict=True):
        assert torch.equal(one.stored, other.stored)
        assert torch.equal(one.labels, other.labels)


def test_processes_share_a_batch_without_overlap_and_without_changing_it():
    whole = batches(5, OnDisk(), flips=True)
    halves = [batches(5, OnDisk(), flips=True, rows=rows) for rows in (slice(0, 4), slice(4, 8))]
    for batch, *parts in zip(whole, *halves, strict=True):
        assert torch.equal(batch.stored, torch.cat([part.stored for part in parts]))


def test_mirror_images_are_drawn_for_about_half_of_the_images():
    stored = torch.cat([batch.stored for batch in batches(100, OnDisk(), flips=True)])
    assert (stored < 0).float().mean() == pytest.approx(0.5, abs=0.06)


def test_digits_are_mirrored_left_to_right(digits):
    straight, mirrored = digits.read(torch.tensor([3]))[0], digits.read(torch.tensor([3 + len(digits)]))[0]
    assert torch.equal(mirrored, straight.flip(-1))
    assert torch.equal(digits.everything()[3 + len(digits)], mirrored[0])


def test_what_reading_ahead_raised_is_raised_at_its_step():
    with loader(OnDisk(fails_at=3)) as reader:
        reader.next()
        reader.next()
        with pytest.raises(DataError, match="image 7 cannot be read"):
            reader.next()


def test_mirror_images_of_a_set_without_them_are_refused():
    data = OnDisk()
    data.has_flips = False
    with pytest.raises(UsageError, match="Encode it with --flips"):
        loader(data, flips=True)


def test_the_rows_of_a_draw_are_the_rows_of_the_whole_batch():
    torch.manual_seed(0)
    whole = Draw(8, 0, 8, CPU)
    expected = whole.normal(3), whole.uniform(2), whole.integers(100)
    for start, stop in ((0, 4), (4, 8), (2, 3)):
        torch.manual_seed(0)
        part = Draw(8, start, stop, CPU)
        for values, rows in zip(expected, (part.normal(3), part.uniform(2), part.integers(100)), strict=True):
            assert torch.equal(values[start:stop], rows)
    assert Draw(8, 2, 4, CPU).share == 0.25


def test_shared_numbers_are_the_same_for_all_rows_and_do_not_disturb_what_is_drawn_after_them():
    drawn = []
    for start, stop in ((0, 8), (0, 4), (6, 7)):
        torch.manual_seed(0)
        part = Draw(8, start, stop, CPU)
        drawn.append((part.shared(), part.shared(2), part.uniform(2)))
        assert torch.equal(drawn[-1][0], drawn[0][0])
        assert torch.equal(drawn[-1][1], drawn[0][1])
        assert torch.equal(drawn[-1][2], drawn[0][2][start:stop])
    assert drawn[0][0].shape == ()
