"""Arithmetic of a method: counted by running it on shapes alone, and from formulas where it has them.

The papers' "Gflops" are multiply-accumulates; so are the numbers here (one MAC is two FLOPs).
"""

from typing import Literal, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.model.method import Method, Progress, batch_of_shapes
from harness.model.randomness import Draw
from harness.model.shape import Shape, shape_of
from harness.planning import formulas
from harness.recipes.config import RunConfig

GIGA = 1e9


class Cost(NamedTuple):
    params: int  # trainable, of the network that is sampled
    gmacs_forward: float  # per image, one forward of that network with all tokens
    gmacs_step: float  # per image, one training step: the method's forward and backward


class StepCost(NamedTuple):
    """GMACs of one image's training step, by part."""

    source: Literal["formulas", "counted"]  # counted: of a method without a formula, whose parts are not known
    parts: dict[str, float]  # formulas.StepMacs, or the "step" as one
    recomputed: float  # besides the step, by activation checkpointing; 0 also where that is not known

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def count(method: Method, shape: Shape) -> Cost:
    """Cost per image of a method that was built on the meta device: no memory is touched.

    On this device attention is made of plain matrix products, which the counter knows; fused CPU kernels count as 0.
    """
    batch = batch_of_shapes(method, shape, 1)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        method.network(batch.clean, torch.zeros(1, device="meta"), batch.labels)
    with FlopCounterMode(display=False) as step:
        method(batch, Progress(0.0, 0.0), Draw.all_of(batch.clean))["loss"].backward()
    params = sum(p.numel() for p in method.network.parameters() if p.requires_grad)
    return Cost(params, forward.get_total_flops() / 2 / GIGA, step.get_total_flops() / 2 / GIGA)


def step_cost(cfg: RunConfig, method: Method) -> StepCost:
    """Cost of a step from the formulas of the method; without formulas, `method` on the meta device is counted."""
    known = formulas.macs(cfg, method)
    if known is None:
        counted = count(method, shape_of(cfg))
        return StepCost("counted", {"step": counted.gmacs_step}, 0.0)
    recomputed = known.recomputed if cfg.execution.activation_checkpointing else 0
    return StepCost(
        "formulas",
        {name: part / GIGA for name, part in known.step._asdict().items()},
        recomputed / GIGA,
    )
