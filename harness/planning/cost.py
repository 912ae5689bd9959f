"""Arithmetic of a method, counted by running it on shapes alone.

The papers' "Gflops" are multiply-accumulates; so are the numbers here (one MAC is two FLOPs).
"""

from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from harness.model.method import Method, Progress, batch_of_shapes
from harness.model.nn.blocks import DiTBlock, checkpointing
from harness.model.randomness import Draw
from harness.model.shape import Shape, shape_of
from harness.recipes.config import RunConfig
from harness.records.evidence import Count

GIGA = 1e9


class StepCost(NamedTuple):
    """GMACs of one image's training step."""

    total: float  # forward and backward, each product once
    forward_parts: dict[str, float]  # the forward pass's by module: network.encoder, discrimination.teacher, ...
    recomputed: float  # what activation checkpointing computes again, not part of the total


def count(method: Method, shape: Shape) -> Count:
    """Parameters and arithmetic of a method that was built on the meta device: no memory is touched.

    On this device attention is made of plain matrix products, which the counter knows; fused CPU kernels count as 0.
    """
    batch = batch_of_shapes(method, shape, 1)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        method.network(batch.clean, torch.zeros(1, device="meta"), batch.labels)
    params = sum(p.numel() for p in method.network.parameters() if p.requires_grad)
    forward_macs = forward.get_total_flops() / 2
    return Count(params=params, gmacs_forward=forward_macs / GIGA, gmacs_step=_count_step(method, shape))


def step_cost(cfg: RunConfig, method: Method) -> StepCost:
    """Cost of a step of this run. `method` is the run's, on the meta device."""
    shape = shape_of(cfg)
    step = _count_step(method, shape)
    again = 0.0
    if cfg.execution.activation_checkpointing:
        blocks = [module for module in method.network.modules() if isinstance(module, DiTBlock)]
        with checkpointing(blocks, on=True):
            again = _count_step(method, shape) - step
    return StepCost(step, _forward_parts(method, shape), again)


def _count_step(method: Method, shape: Shape) -> float:
    """GMACs of one image, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        _loss(method, shape).backward()
    return counter.get_total_flops() / 2 / GIGA


def _forward_parts(method: Method, shape: Shape) -> dict[str, float]:
    """GMACs of one image's forward pass by the method's modules, two levels deep.

    What no module of the method computes, like a frozen network's products, is under "other".
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _loss(method, shape)
    root = f"{type(method).__name__}."
    # The counter adds a product to every module that is being called: a module's own are its count less its children's.
    counts = {name: sum(flops.values()) for name, flops in counter.get_flop_counts().items() if name.startswith(root)}
    own = dict(counts)
    for name, flops in counts.items():
        above = name.rpartition(".")[0]
        while above and above not in counts:
            above = above.rpartition(".")[0]
        if above:
            own[above] -= flops
    parts: Counter[str] = Counter()
    for name, flops in own.items():
        parts[".".join(name.removeprefix(root).split(".")[:2])] += flops
    parts["other"] = counter.get_total_flops() - parts.total()
    return {part: flops / 2 / GIGA for part, flops in parts.items()}


def _loss(method: Method, shape: Shape) -> Tensor:
    batch = batch_of_shapes(method, shape, 1)
    return method(batch, Progress(0.0, 0.0), Draw.all_of(batch.clean))["loss"]
