import pytest
import torch

from harness.data import names, sources
from harness.data.images import named
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


def test_the_names_known_without_torch_are_those_of_the_sets_that_can_be_loaded():
    assert sorted([*sources._MADE, *named.SETS, *names.LATENT_SETS]) == list(names.ALL) == sources.names()
    assert set(names.MADE_HERE) == set(sources._MADE)


def test_a_bare_word_that_is_no_set_and_no_folder_is_told_as_both_with_what_to_give(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"no data set or folder is called 'nowhere'\. Give a folder of images or of"):
        sources.load("nowhere")
    with pytest.raises(UsageError, match=r"no data set or folder is called 'mnits'\. Did you mean mnist"):
        sources.load("mnits")


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_no_folder(name):
    with pytest.raises(UsageError, match=r"no data set is called '.*Available: .*digits"):
        sources.load(name)
