import torch
from torch import nn

from harness.training.ema import Ema


def test_the_average_follows_its_recurrence():
    network = nn.Linear(2, 2)
    ema = Ema(network, 0.9, warmup=False)
    expected = network.weight.detach().clone()
    for step in range(5):
        with torch.no_grad():
            network.weight.add_(1)
        expected = 0.9 * expected + 0.1 * network.weight.detach()
        ema.update(step)
    torch.testing.assert_close(ema.network.weight, expected)


def test_the_warm_up_averages_the_last_part_of_a_short_run_and_ends_at_the_papers_decay():
    ema = Ema(nn.Linear(1, 1), 0.9999, warmup=True)
    assert ema.decay_at(0) == 0.1
    assert ema.decay_at(600) == 601 / 610
    assert ema.decay_at(89_980) < 0.9999
    assert ema.decay_at(90_000) == 0.9999
    assert Ema(nn.Linear(1, 1), 0.9999, warmup=False).decay_at(0) == 0.9999


def test_the_average_is_not_trained():
    assert not any(p.requires_grad for p in Ema(nn.Linear(1, 1), 0.9, warmup=True).network.parameters())
