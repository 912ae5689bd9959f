"""The fewest bytes that a training step must move through a device's memory.

Weights, gradients, the optimizer's moments, averages and the batch are each read and written so often. Activations are
not counted, because a fused kernel may avoid moving them; at the papers' sizes arithmetic takes longer than these bytes
do. B images of the global batch.
"""

from collections.abc import Iterable
from typing import NamedTuple

from torch import nn

from harness.model.method import Method
from harness.planning.vae_cost import EncoderCost
from harness.recipes.config import RunConfig

FLOAT, LABEL = 4, 8  # bytes


class Traffic(NamedTuple):
    """Bytes that one process reads and writes in a step."""

    weights: int  # read for the forward pass and for the backward pass, in every micro-batch
    gradients: int  # written and read, in every micro-batch
    optimizer: int  # AdamW: weights and both moments, read and written
    average: int  # EMA, read and written; the optimizer has just read the weights
    teacher: int  # weights read for its forward pass; its own average read and written
    vae: int  # weights read, where the step encodes its images
    batch: int

    @property
    def total(self) -> int:
        return sum(self)


def traffic(cfg: RunConfig, method: Method, *, encoder: EncoderCost | None = None, world_size: int = 1) -> Traffic:
    """Of one of `world_size` processes. `method` is only looked at; `encoder` is the VAE's, where the step encodes.

    Left out: fixed positions and centres, under a thousandth; and what processes send each other.
    """
    images = cfg.protocol.batch_size / world_size
    pieces = max(1.0, images / (cfg.execution.micro_batch or images))
    product = 2 if cfg.protocol.precision == "bf16" else FLOAT  # TF32 is stored as float32
    copied = product if product < FLOAT else 0  # written once, as the weights change
    trained = _numbers(p for p in method.parameters() if p.requires_grad)
    fixed = _numbers(p for p in method.parameters() if not p.requires_grad)
    return Traffic(
        weights=round(trained * (copied + 2 * pieces * product)),
        gradients=round(trained * 2 * pieces * FLOAT),
        optimizer=trained * 6 * FLOAT,
        average=_numbers(method.network.parameters()) * 2 * FLOAT,
        teacher=round(fixed * (copied + pieces * product + 2 * FLOAT)),
        vae=round(encoder.weights * pieces * FLOAT) if encoder else 0,
        batch=round(images * _image_bytes(cfg, encoder)),
    )


def _numbers(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _image_bytes(cfg: RunConfig, encoder: EncoderCost | None) -> int:
    """An image as the step gets it, its label, and its noise, which is written and read.

    A latent is stored as mean and deviation in half precision, a small image as float32: 4 bytes a value either way.
    """
    values = cfg.input.channels * cfg.input.side**2
    stored = 3 * encoder.side**2 if encoder else values * FLOAT
    return stored + LABEL + 2 * values * FLOAT
