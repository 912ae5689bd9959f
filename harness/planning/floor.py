"""The shortest time that a training step can take on a device: what it computes, and what it moves, at full rate.

A floor, not a forecast: no step reaches both limits, and none can be faster than either. A measured step stands beside
it as a multiple.

Bytes are the fewest that a step must move through the device's memory. Weights, gradients, the optimizer's moments,
averages and the batch are each read and written so often. Activations are not counted, because a fused kernel may
avoid moving them; at the papers' sizes arithmetic takes longer than these bytes do.
"""

import copy
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from harness.data.latents import vae
from harness.model.method import Method
from harness.planning.cost import GIGA, StepCost, step_cost
from harness.planning.devices import DEVICES, Device
from harness.recipes.config import RunConfig
from harness.system.errors import UsageError

FLOAT, LABEL = 4, 8  # bytes
# The VAE's precision by the step's: a process whose step is bf16 allows no TF32, and the VAE knows no autocast.
VAE_PRECISION = {"fp32": "fp32", "tf32": "tf32", "bf16": "fp32"}


# What a step does -------------------------------------------------------------------------------------------------


class EncoderCost(NamedTuple):
    """What the VAE's encoder takes."""

    macs: int  # for one image
    weights: int  # numbers in its products
    side: int  # an image's, in pixels


class Traffic(NamedTuple):
    """Bytes that one process reads and writes in a step."""

    weights: int  # read for the forward pass and for the backward pass, in every micro-batch
    gradients: int  # written and read, in every micro-batch
    optimizer: int  # AdamW: weights and both moments, read and written
    average: int  # EMA, read and written; the optimizer has just read the weights
    teacher: int  # weights read for its forward pass; its own average read and written
    frozen: int  # weights of frozen networks, read for their forward pass, in every micro-batch
    vae: int  # weights read, where the step encodes its images
    batch: int

    @property
    def total(self) -> int:
        return sum(self)


class Work(NamedTuple):
    """What one of a run's processes does in one step."""

    precision: str
    processes: int
    images: float
    cost: StepCost
    vae_gmacs: float  # for one image, in float32 or TF32; 0 where latents are read
    traffic: Traffic

    @property
    def flops(self) -> float:
        """In the step's precision, what activation checkpointing does twice included."""
        return 2 * GIGA * self.images * (self.cost.total + self.cost.recomputed)

    @property
    def vae_flops(self) -> float:
        return 2 * GIGA * self.images * self.vae_gmacs

    def as_json(self) -> dict[str, Any]:
        """As `harness bench --estimate` prints it: GMACs of an image, bytes of a process."""
        return {
            "precision": self.precision,
            "processes": self.processes,
            "images": self.images,
            "gmacs_step": self.cost.total,
            "gmacs_forward_parts": self.cost.forward_parts,
            "gmacs_recomputed": self.cost.recomputed,
            "gmacs_vae": self.vae_gmacs,
            "traffic_bytes": self.traffic.total,
            "traffic_parts": self.traffic._asdict(),
        }


def work_of(cfg: RunConfig, method: Method, *, world_size: int = 1) -> Work:
    """What a step of this run takes each of `world_size` processes. `method` is the run's, on the meta device."""
    encoder = online_encoder(cfg)
    return Work(
        precision=cfg.protocol.precision,
        processes=world_size,
        images=cfg.protocol.batch_size / world_size,
        cost=step_cost(cfg, method),
        vae_gmacs=encoder.macs / GIGA if encoder else 0.0,
        traffic=traffic(cfg, method, encoder=encoder, world_size=world_size),
    )


def traffic(cfg: RunConfig, method: Method, *, encoder: EncoderCost | None = None, world_size: int = 1) -> Traffic:
    """The bytes of one of `world_size` processes. `encoder` is the VAE's, where the step encodes.

    Left out: fixed positions and centres, under a thousandth; and what processes send each other.
    """
    images = cfg.protocol.batch_size / world_size
    pieces = max(1.0, images / (cfg.execution.micro_batch or images))
    product = 2 if cfg.protocol.precision == "bf16" else FLOAT  # TF32 is stored as float32
    copied = product if product < FLOAT else 0  # written once, as the weights change
    trained = _numbers(p for p in method.parameters() if p.requires_grad)
    fixed = _numbers(p for p in method.parameters() if not p.requires_grad)
    frozen = _numbers(p for known in method.frozen.values() for p in known.network.parameters())
    return Traffic(
        weights=round(trained * (copied + 2 * pieces * product)),
        gradients=round(trained * 2 * pieces * FLOAT),
        optimizer=trained * 6 * FLOAT,
        average=_numbers(method.network.parameters()) * 2 * FLOAT,
        teacher=round(fixed * (copied + pieces * product + 2 * FLOAT)),
        frozen=round(frozen * pieces * FLOAT),
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


def online_encoder(cfg: RunConfig) -> EncoderCost | None:
    """The encoder inside a step of this run; None where latents are read. It is run on shapes and counted.

    Raises UsageError for a run that should encode and names no VAE; as harness.data.latents.vae.load for a folder.
    """
    protocol = cfg.protocol
    if protocol.pipeline != "online-vae":
        return None
    if protocol.vae is None:
        raise UsageError(
            f"{cfg.recipe} has pipeline online-vae and no VAE; name it with --set vae=stabilityai/sd-vae-ft-ema."
        )
    known = vae.SD_VAE if protocol.vae in vae.PUBLISHED else vae.RANDOM.get(protocol.vae)
    model = vae.load(protocol.vae).model if known is None else vae.on_shapes(known)
    return counted_encoder(model, cfg.input.side)


def counted_encoder(model: Any, latent_side: int) -> EncoderCost:
    """What the encoder of a diffusers AutoencoderKL takes whose latents have this side, run on shapes alone."""
    side = latent_side * 2 ** (len(model.config.block_out_channels) - 1)
    shapes = copy.deepcopy(model).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shapes.encode(torch.zeros(1, model.config.in_channels, side, side, device="meta"))
    weights = [p for part in (shapes.encoder, shapes.quant_conv) if part is not None for p in part.parameters()]
    return EncoderCost(counter.get_total_flops() // 2, sum(p.numel() for p in weights if p.dim() > 1), side)


# The time it takes ------------------------------------------------------------------------------------------------


class Ceiling(NamedTuple):
    """What a device can do at most: a data sheet's, or measured with large products and copies."""

    name: str
    flops: float | None  # a second, of products in the step's precision; None: it has no such products
    bytes_per_second: float
    vae_flops: float | None = None  # a second, of the VAE's products; None: the same rate


class Floor(NamedTuple):
    device: str
    precision: str
    processes: int  # each on a device of its own
    arithmetic_seconds: float | None  # None where the device lacks the precision
    memory_seconds: float

    @property
    def seconds(self) -> float | None:
        """The least time of one step."""
        return None if self.arithmetic_seconds is None else max(self.arithmetic_seconds, self.memory_seconds)

    @property
    def binds(self) -> Literal["arithmetic", "memory"] | None:
        """Which of the two the other one hides behind."""
        if self.arithmetic_seconds is None:
            return None
        return "arithmetic" if self.arithmetic_seconds >= self.memory_seconds else "memory"

    @property
    def steps_per_second(self) -> float | None:
        return None if self.seconds is None else 1 / self.seconds

    def as_json(self) -> dict[str, Any]:
        return {
            **self._asdict(),
            "seconds": self.seconds,
            "binds": self.binds,
            "steps_per_second": self.steps_per_second,
        }


def ceiling_of(device: Device, precision: str) -> Ceiling:
    return Ceiling(device.name, device.peak(precision), device.bytes_per_second, device.peak(VAE_PRECISION[precision]))


def floor_of(work: Work, ceiling: Ceiling) -> Floor:
    """The least time of this work on a device with this ceiling."""
    arithmetic = None
    if ceiling.flops is not None:
        arithmetic = work.flops / ceiling.flops + work.vae_flops / (ceiling.vae_flops or ceiling.flops)
    memory = work.traffic.total / ceiling.bytes_per_second
    return Floor(ceiling.name, work.precision, work.processes, arithmetic, memory)


def floors_of(work: Work) -> list[Floor]:
    """The least time of this work on each device of the table."""
    return [floor_of(work, ceiling_of(device, work.precision)) for device in DEVICES]
