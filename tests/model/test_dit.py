import pytest
import torch
from small import trained_a_little

from harness.model.nn.dit import DiT
from harness.model.shape import Shape

SHAPE = Shape(channels=1, side=8, num_classes=10, patch=2, width=16, depth=4, num_heads=2)  # 16 tokens
INPUTS = torch.randn(2, 1, 8, 8), torch.tensor([0.5, -0.5]), torch.tensor([3, 10])


def test_taps_are_the_outputs_of_their_blocks_and_change_nothing_else():
    torch.manual_seed(0)
    network = trained_a_little(DiT(SHAPE, 1, taps=(0, 2)))
    seen = {}
    for number, block in enumerate(network.blocks):
        block.register_forward_hook(lambda block, args, out, number=number: seen.update({number: out}))
    raw, tapped = network.tapped(*INPUTS)
    assert [t.shape for t in tapped] == [(2, 16, 16)] * 2
    assert torch.equal(tapped[0], seen[0])
    assert torch.equal(tapped[1], seen[2])
    torch.manual_seed(0)
    assert torch.equal(raw, trained_a_little(DiT(SHAPE, 1))(*INPUTS))


def test_a_tap_without_a_block_is_refused():
    with pytest.raises(ValueError, match=r"no block 4 to tap: the network's blocks are 0 to 3"):
        DiT(SHAPE, 1, taps=(0, 4))
