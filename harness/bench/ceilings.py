"""What this machine reaches at most, by a large matrix product and a large copy: data sheets only promise."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from harness.system.precision import set_precision

SIDE = {"cpu": 2048, "cuda": 8192}  # of the square matrices
COPIED = {"cpu": 2**28, "cuda": 2**30}  # bytes; far more than any cache
REPEATS, SECONDS = 5, 1.0  # at least so often and so long


class Ceilings(NamedTuple):
    """Each is the best of many repeats, so that no step, whose median is compared with it, is faster by luck."""

    flops_per_second: dict[str, float]  # by precision
    bytes_per_second: float  # read and written together


def best(a: Ceilings, b: Ceilings) -> Ceilings:
    """What the machine reached at the better of two times: another program may have slowed one of them down."""
    rates = {name: max(rate, b.flops_per_second[name]) for name, rate in a.flops_per_second.items()}
    return Ceilings(rates, max(a.bytes_per_second, b.bytes_per_second))


def measure(precisions: list[str], device: torch.device) -> Ceilings:
    """The rates of this moment; the flags for TF32 are left as the last precision wants them."""
    return Ceilings({name: _matrix_rate(name, device) for name in precisions}, _bandwidth(device))


def _matrix_rate(precision: str, device: torch.device) -> float:
    set_precision(precision)
    side, dtype = SIDE[device.type], torch.bfloat16 if precision == "bf16" else torch.float32
    generator = torch.Generator(device).manual_seed(0)  # of random numbers: products of zeros draw less power
    a, b = (torch.randn(side, side, generator=generator, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * side**3 / _seconds(lambda: torch.mm(a, b, out=out), device)


def _bandwidth(device: torch.device) -> float:
    source = torch.ones(COPIED[device.type] // 4, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED[device.type] / _seconds(lambda: target.copy_(source), device)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    work()
    seen: list[float] = []
    while len(seen) < REPEATS or sum(seen) < SECONDS:
        seen.append(timed(work, 1, device))
    return min(seen)


def timed(work: Callable[[], object], times: int, device: torch.device) -> float:
    """Seconds that `times` calls take on the device, its own events around them; on a CPU, by its clock."""
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(times):
            work()
        return time.perf_counter() - start
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    before.record()
    for _ in range(times):
        work()
    after.record()
    torch.cuda.synchronize(device)
    return before.elapsed_time(after) / 1e3
