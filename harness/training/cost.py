"""Arithmetic of a method, counted by running it on shapes alone.

The papers' "Gflops" are multiply-accumulates; so are the numbers here (one MAC is two FLOPs).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.nn.shape import Shape
from harness.randomness import Draw
from harness.training.method import Method, Progress

GIGA = 1e9


class Cost(NamedTuple):
    params: int  # trainable, of the network that is sampled
    gmacs_forward: float  # per image, one forward of that network with all tokens
    gmacs_step: float  # per image, one training step: the method's forward and backward


def count(build: Callable[[], Method], shape: Shape) -> Cost:
    """Cost per image of the method that `build` returns on the meta device: no memory is touched.

    On this device attention is made of plain matrix products, which the counter knows; fused CPU kernels count as 0.
    """
    method = build()
    clean = torch.zeros(1, shape.channels, shape.side, shape.side, device="meta")
    noise, labels = torch.zeros(1, device="meta"), torch.zeros(1, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        method.network(clean, noise, labels)
    with FlopCounterMode(display=False) as step:
        method(clean, labels, Progress(0.0, 0.0), Draw.all_of(clean))["loss"].backward()
    params = sum(p.numel() for p in method.network.parameters() if p.requires_grad)
    return Cost(params, forward.get_total_flops() / 2 / GIGA, step.get_total_flops() / 2 / GIGA)
