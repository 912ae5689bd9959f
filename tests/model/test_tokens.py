import pytest
import torch

from harness.model.nn import tokens
from harness.model.randomness import Draw


@pytest.mark.parametrize(
    ("length", "ratio", "kept"), [(256, 0.5, 128), (256, 0.2, 204), (256, 0.3, 179), (256, 0.9, 25), (16, 0.0, 16)]
)
def test_the_number_kept_is_rounded_down_as_the_papers_do(length, ratio, kept):
    assert tokens.num_kept(length, ratio) == kept


def test_keeping_no_token_is_refused_with_the_largest_ratio_that_keeps_one():
    with pytest.raises(ValueError, match=r"keeps none of 16 tokens; keep at least one: 0\.938"):
        tokens.num_kept(16, 0.95)


def test_kept_indices_are_ascending_distinct_and_differ_between_images():
    keep = tokens.random_keep(Draw(64, 0, 64, torch.device("cpu")), 16, 5)
    assert (keep.diff(dim=1) > 0).all()
    assert len({tuple(row) for row in keep.tolist()}) > 50


def test_every_token_is_kept_equally_often():
    torch.manual_seed(0)
    keep = tokens.random_keep(Draw(8000, 0, 8000, torch.device("cpu")), 16, 8)
    share = tokens.visible(keep, 16).mean(0)
    assert (share - 0.5).abs().max() < 0.03  # five standard deviations


def test_scatter_undoes_gather_and_leaves_the_other_places_alone():
    x, other = torch.randn(2, 16, 3), torch.randn(2, 16, 3)
    keep = tokens.random_keep(Draw.all_of(x), 16, 6)
    seen = tokens.visible(keep, 16)[..., None].bool()
    assert torch.equal(tokens.scatter(tokens.gather(x, keep), keep, onto=other), torch.where(seen, x, other))
