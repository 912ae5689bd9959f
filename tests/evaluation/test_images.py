import numpy as np
import pytest
import torch
from PIL import Image

from harness.data.images.uint8 import to_uint8
from harness.data.sources import Dataset
from harness.evaluation.images.uint8 import class_grid, grid, save_png, square_grid
from harness.system.errors import DataError


def pixels(*values: float) -> list[int]:
    return to_uint8(torch.tensor(values, dtype=torch.float64).reshape(1, 1, 1, -1)).flatten().tolist()


def test_every_grey_level_of_the_digits_becomes_the_nearest_of_256(digits: Dataset):
    nearest = {k / 8 - 1: (2 * 255 * k + 16) // 32 for k in range(17)}  # round(255 k / 16), in whole numbers
    assert pixels(*nearest) == list(nearest.values())
    assert to_uint8(digits.clean).unique().tolist() == list(nearest.values())


def test_every_one_of_256_levels_survives_the_way_to_floats_and_back():
    assert pixels(*(level / 127.5 - 1 for level in range(256))) == list(range(256))


def test_values_are_rounded_not_truncated_and_clipped_not_wrapped():
    assert pixels(-1 + 0.4 / 127.5, -1 + 0.6 / 127.5) == [0, 1]
    assert pixels(-7.0, -1.01, 1.01, 300.0) == [0, 0, 255, 255]


def test_channels_come_last():
    x = torch.stack([torch.full((2, 4), -1.0), torch.full((2, 4), 0.0), torch.full((2, 4), 1.0)])[None]
    image = to_uint8(x)
    assert image.shape == (1, 2, 4, 3)
    assert image[0, 1, 2].tolist() == [0, 128, 255]


def test_values_that_are_not_finite_are_counted_in_the_error():
    x = torch.zeros(2, 1, 4, 4)
    x[0, 0, 0] = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.5])
    with pytest.raises(DataError, match="3 of the 32 values"):
        to_uint8(x)


def test_a_grid_holds_the_images_row_after_row():
    images = torch.arange(6, dtype=torch.uint8).reshape(6, 1, 1, 1).expand(6, 2, 3, 1)
    sheet = grid(images, 2)
    assert sheet.shape == (4, 9, 1)
    assert sheet[::2, ::3, 0].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_grid_refuses_images_that_do_not_fill_its_rows():
    with pytest.raises(ValueError, match="7 images do not fill 2 rows"):
        grid(torch.zeros(7, 8, 8, 1, dtype=torch.uint8), 2)


def test_a_class_grid_has_a_row_for_each_class_and_black_where_images_are_missing():
    labels = torch.tensor([4, 2, 4, 2, 4])
    images = torch.arange(1, 6, dtype=torch.uint8).reshape(5, 1, 1, 1)
    sheet = class_grid(images, labels)[..., 0]
    assert sheet[::2, ::2].tolist() == [[2, 4, 0], [1, 3, 5]]
    assert sheet[1, :4].tolist() == sheet[:4, 1].tolist()[:1] * 4 == [128] * 4  # a grey line ends every image


def test_a_grey_line_parts_the_images_of_a_square_grid_too():
    sheet = square_grid(torch.full((3, 4, 4, 1), 255, dtype=torch.uint8))[..., 0]
    assert sheet.shape == (10, 10)
    assert set(sheet[4].tolist()) == {128}
    assert set(sheet[:4, 4].tolist()) == set(sheet[:4, 9].tolist()) == {128}
    assert set(sheet[:4, :4].flatten().tolist()) == {255}
    assert set(sheet[5:, 5:].flatten().tolist()) == {0}  # no image there


def test_a_class_grid_stays_small_however_many_images_and_classes_there_are():
    labels = torch.arange(1_000) % 20
    assert class_grid(torch.ones(1_000, 2, 2, 3, dtype=torch.uint8), labels).shape == (30, 30, 3)


def test_a_tiny_image_is_written_enlarged_in_whole_pixels(tmp_path):
    image = torch.tensor([[0, 255, 7], [9, 100, 200]], dtype=torch.uint8)[..., None]
    save_png(tmp_path / "grid.png", image)
    with Image.open(tmp_path / "grid.png") as written:
        assert written.size == (513, 342)
        assert [[written.getpixel((171 * x, 171 * y)) for x in range(3)] for y in range(2)] == image[..., 0].tolist()
        assert len(np.unique(np.asarray(written))) == 6  # no colour in between


def test_a_large_colour_image_is_written_as_it_is(tmp_path):
    image = torch.arange(600 * 2 * 3).reshape(600, 2, 3).to(torch.uint8)
    save_png(tmp_path / "grid.png", image)
    with Image.open(tmp_path / "grid.png") as written:
        assert written.size == (2, 600)
        assert written.getpixel((1, 599)) == tuple(image[599, 1].tolist())


def test_latents_cannot_be_written_as_a_picture(tmp_path):
    with pytest.raises(ValueError, match="has 4 channels"):
        save_png(tmp_path / "grid.png", torch.zeros(8, 8, 4, dtype=torch.uint8))
