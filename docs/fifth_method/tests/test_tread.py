"""What TREAD adds to DiT. The harness's own tests/baselines/test_contract.py tests the contract of every method.

From a checkout of the harness, with this package installed, both in one command:
    pytest tests/baselines/test_contract.py docs/fifth_method/tests -k tread
"""

import pytest
import torch
from tread_method.tread import Config, Method, Network

from harness.model.formulations import EDM
from harness.model.method import Batch, Progress
from harness.model.nn import tokens
from harness.model.randomness import Draw, seed_step
from harness.model.shape import Shape

SHAPE = Shape(channels=1, side=8, num_classes=10, patch=2, width=16, depth=4, num_heads=2)  # 16 tokens
KNOBS = Config(blocks_before=1, blocks_after=1)
LEVEL, LABELS = torch.tensor([0.5, -0.5]), torch.tensor([3, 7])


def network() -> Network:
    """With noise on every weight: as it starts, each block is the identity, and a route would change nothing."""
    torch.manual_seed(0)
    made = Network(KNOBS, SHAPE, out_channels=1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def test_tread_gives_routed_tokens_back_as_they_left():
    """Without blocks after the route, a routed token would be read out as the blocks before it made it."""
    net = network()
    seen = {}
    net.blocks[0].register_forward_hook(lambda block, args, out: seen.update(left=out))
    net.blocks[1].register_forward_hook(lambda block, args, out: seen.update(inside=args[0]))
    net.blocks[3].register_forward_hook(lambda block, args, out: seen.update(rejoined=args[0]))
    keep = torch.tensor([[0, 5, 9], [1, 2, 15]])
    net(torch.randn(2, 1, 8, 8), LEVEL, LABELS, keep)
    routed = tokens.visible(keep, 16) == 0  # (B, L)
    assert seen["inside"].shape == (2, 3, 16)
    assert torch.equal(seen["rejoined"][routed], seen["left"][routed])
    assert not torch.isclose(seen["rejoined"][~routed], seen["left"][~routed]).all()


def test_tread_is_dit_when_every_token_stays():
    net, x = network(), torch.randn(2, 1, 8, 8)
    everything = torch.arange(16).expand(2, -1)
    assert torch.equal(net(x, LEVEL, LABELS), net(x, LEVEL, LABELS, everything))
    assert not torch.allclose(net(x, LEVEL, LABELS), net(x, LEVEL, LABELS, everything[:, ::2]))


def test_tread_routes_half_of_the_tokens_while_it_trains():
    method = Method(KNOBS, SHAPE, EDM())
    lengths = []
    for block in method.network.blocks:
        block.register_forward_hook(lambda block, args, out: lengths.append(out.shape[1]))
    seed_step(0, 0)
    clean = torch.randn(2, 1, 8, 8)
    method(Batch(clean, LABELS), Progress(0.0, 0.0), Draw.all_of(clean))
    assert lengths == [16, 8, 8, 16]


def test_tread_without_blocks_to_skip_says_so():
    with pytest.raises(ValueError, match="leave none of 4 blocks to skip"):
        Network(Config(blocks_before=2, blocks_after=2), SHAPE, out_channels=1)
