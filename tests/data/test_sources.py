import pytest
import torch

from harness.data import sources
from harness.system.errors import UsageError


def test_the_digits_are_the_real_ones_scaled_to_the_unit_range(digits):
    assert digits.clean.shape == (1797, 1, 8, 8)
    assert digits.real
    assert digits.clean.min() == -1
    assert digits.clean.max() == 1
    assert torch.equal((digits.clean + 1) * 8, ((digits.clean + 1) * 8).round())  # 17 grey levels
    assert torch.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_synthetic_latents_have_the_paper_shape_and_are_marked_as_not_real():
    synthetic = sources.load("synthetic")
    assert (synthetic.channels, synthetic.side, synthetic.num_classes) == (4, 32, 1000)
    assert not synthetic.real


def test_the_hash_follows_the_values():
    assert sources.load("digits").sha256 == sources.load("digits").sha256 != sources.load("synthetic").sha256


def test_an_unknown_set_names_the_nearest():
    with pytest.raises(UsageError, match="Did you mean digits"):
        sources.load("digit")


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_no_folder(name):
    with pytest.raises(UsageError, match=r"no data set is called '.*Available: .*digits"):
        sources.load(name)
