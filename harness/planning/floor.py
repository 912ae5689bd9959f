"""The shortest time that a training step can take on a device: what it computes, and what it moves, at full rate.

A floor, not a forecast: no step reaches both limits, and none can be faster than either. A measured step stands beside
it as a multiple.
"""

from typing import Any, Literal, NamedTuple

from harness.model.method import Method
from harness.planning.cost import GIGA, StepCost, step_cost
from harness.planning.devices import DEVICES, Device
from harness.planning.traffic import Traffic, traffic
from harness.planning.vae_cost import PRECISION, online_encoder
from harness.recipes.config import RunConfig


class Work(NamedTuple):
    """What one of a run's processes does in one step."""

    precision: str
    processes: int
    images: float
    cost: StepCost
    vae_gmacs: float  # of one image, in float32 or TF32; 0 where latents are read
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


class Ceiling(NamedTuple):
    """What a device can do at most: a data sheet's, or measured with large products and copies."""

    name: str
    flops: float | None  # a second, of products in the step's precision; None: it has no such products
    bytes_per_second: float
    vae_flops: float | None = None  # of the VAE's products; None: the same rate


class Floor(NamedTuple):
    device: str
    precision: str
    processes: int  # each on a device of its own
    arithmetic_seconds: float | None  # None where the device lacks the precision
    memory_seconds: float

    @property
    def seconds(self) -> float | None:
        """Of one step."""
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


def ceiling_of(device: Device, precision: str) -> Ceiling:
    return Ceiling(device.name, device.peak(precision), device.bytes_per_second, device.peak(PRECISION[precision]))


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
