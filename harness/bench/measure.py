"""The clock of a bench and what else it reads: memory, energy, the rates that the machine reaches, top operators.

Contenders are warmed up one by one, then timed in turns, so that what drifts meets all of them.
"""

import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch.profiler import ProfilerActivity, profile

from harness.records.bench_record import Spread, Window
from harness.system.precision import set_precision

WARMUP_STEPS = 5  # untimed, with the first: allocators, caches, and kernels chosen by trying
WARMUP_SECONDS = 10.0  # after which slow steps are warm enough
SETTLING_STEPS = 1  # untimed before every window: the contender before has left its own data in the caches
SIDE = {"cpu": 2048, "cuda": 8192}  # rows and columns of the matrices whose product is timed
COPIED = {"cpu": 2**28, "cuda": 2**30}  # bytes; far more than any cache
REPEATS, SECONDS = 5, 1.0  # at least so often and so long a product and a copy are timed
PROFILED_STEPS, TOP = 3, 15

Joules = Callable[[], float]  # since some moment in the past


class Contender(Protocol):
    """One way to train, ready to step.

    Building it may be slow. A step waits for the device only where the code that it stands for does: then the wait is
    part of what is measured.
    """

    name: str  # unique in a bench: "sddit-s bf16 compiled", "official DiT"
    num_images: int  # in one step
    data_seconds: float  # spent waiting for data since the contender was made

    def step(self) -> None:
        """Take one training step: forward, backward, optimizer, averages."""

    def conditions(self) -> dict[str, Any]:
        """How the step is made, for the record: precision, compiled, pipeline, attention, ..."""


@dataclass
class Timed:
    """A contender with what the clock said of it."""

    contender: Contender
    conditions: dict[str, Any]
    first_step_seconds: float
    warmup_steps: int
    warmup_seconds: float
    last_step_seconds: float  # the warm-up's last
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    windows: list[Window] = field(default_factory=list)

    @property
    def step_seconds(self) -> float:
        """The median over the windows; before the first, the last step of the warm-up."""
        return statistics.median(w.seconds / w.steps for w in self.windows) if self.windows else self.last_step_seconds

    @property
    def steps_per_sec(self) -> Spread:
        return spread([w.steps / w.seconds for w in self.windows])

    @property
    def data_wait_share(self) -> float:
        return sum(w.data_seconds for w in self.windows) / sum(w.seconds for w in self.windows)

    @property
    def joules_per_image(self) -> float | None:
        spent = [w.joules for w in self.windows if w.joules is not None]
        if len(spent) < len(self.windows):
            return None
        images = sum(w.steps for w in self.windows) * self.contender.num_images
        return sum(spent) / images


def spread(values: Sequence[float]) -> Spread:
    return Spread(median=statistics.median(values), lowest=min(values), highest=max(values))


def ratio(of: Timed, to: Timed) -> Spread:
    """The ratio of two contenders' speeds, round by round: what slows a whole round down cancels."""
    pairs = zip(of.windows, to.windows, strict=True)
    return spread([(a.steps / a.seconds) / (b.steps / b.seconds) for a, b in pairs])


def equal_rounds(contenders: Sequence[Timed]) -> list[Timed]:
    """The contenders with the windows of the rounds that all of them have been timed in.

    Before the end of the first round, the last step of each warm-up stands for a window.
    """
    num_rounds = min(len(ready.windows) for ready in contenders)
    if num_rounds:
        return [replace(ready, windows=ready.windows[:num_rounds]) for ready in contenders]
    return [
        replace(ready, windows=[Window(steps=1, seconds=ready.last_step_seconds, data_seconds=0.0)])
        for ready in contenders
    ]


def warmed_up(make: Callable[[], Contender], device: torch.device) -> Timed:
    """A contender made and stepped until it is warm, then its memory, with nothing timed."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    contender = make()
    steps = [timed(contender.step, 1, device)]
    while len(steps) < 2 or (len(steps) < WARMUP_STEPS and sum(steps[1:]) < WARMUP_SECONDS):
        steps.append(timed(contender.step, 1, device))
    ready = Timed(contender, contender.conditions(), steps[0], len(steps), sum(steps), steps[-1])
    if device.type == "cuda":
        _measure_memory(ready, before, device)
    return ready


def _measure_memory(ready: Timed, before: tuple[int, int], device: torch.device) -> None:
    """The peak of a step less what others hold: the contenders share the device, but not while one steps.

    `before` it was made this process held so many bytes in tensors, and with what the allocator keeps for later.

    What a recorded graph works in is reserved for it and never allocated again, so that its peak is not to be seen.
    """
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    timed(ready.contender.step, 1, device)
    ready.peak_reserved_bytes = torch.cuda.max_memory_reserved(device) - before[1]
    if not ready.conditions.get("cuda_graphs"):
        ready.peak_allocated_bytes = torch.cuda.max_memory_allocated(device) - before[0]


def take_turns(
    contenders: Sequence[Timed],
    *,
    rounds: int,
    window_seconds: float,
    device: torch.device,
    joules: Joules | None,
    advance: Callable[[int], None],
) -> None:
    """`rounds` windows of each: A B C, then C B A, then A B C, each window about `window_seconds` long."""
    for number in range(rounds):
        for place, ready in enumerate(contenders if number % 2 == 0 else reversed(contenders)):
            steps = max(1, round(window_seconds / ready.step_seconds))
            ready.windows.append(_window(ready.contender, steps, device, joules))
            advance(number * len(contenders) + place + 1)


def _window(contender: Contender, steps: int, device: torch.device, joules: Joules | None) -> Window:
    timed(contender.step, SETTLING_STEPS, device)
    waited, before = contender.data_seconds, joules() if joules else 0.0
    seconds = timed(contender.step, steps, device)
    return Window(
        steps=steps,
        seconds=seconds,
        data_seconds=contender.data_seconds - waited,
        joules=joules() - before if joules else None,
    )


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


# The machine ------------------------------------------------------------------------------------------------------


class Ceilings(NamedTuple):
    """Each is the best of many repeats, so that no step, whose median is compared with it, is faster by luck."""

    flops_per_second: dict[str, float]  # a rate for each precision
    bytes_per_second: float  # read and written together


def best_ceilings(a: Ceilings, b: Ceilings) -> Ceilings:
    """What the machine reached at the better of two times: another program may have slowed one of them down."""
    rates = {name: max(rate, b.flops_per_second[name]) for name, rate in a.flops_per_second.items()}
    return Ceilings(rates, max(a.bytes_per_second, b.bytes_per_second))


def ceilings(precisions: list[str], device: torch.device) -> Ceilings:
    """The rates of this moment; the flags for TF32 are left as the last precision wants them."""
    return Ceilings({name: _matrix_rate(name, device) for name in precisions}, _bandwidth(device))


def _matrix_rate(precision: str, device: torch.device) -> float:
    set_precision(precision)
    side, dtype = SIDE[device.type], torch.bfloat16 if precision == "bf16" else torch.float32
    generator = torch.Generator(device).manual_seed(0)  # products of zeros would draw less power
    a, b = (torch.randn(side, side, generator=generator, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * side**3 / _least_seconds(lambda: torch.mm(a, b, out=out), device)


def _bandwidth(device: torch.device) -> float:
    source = torch.ones(COPIED[device.type] // 4, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED[device.type] / _least_seconds(lambda: target.copy_(source), device)


def _least_seconds(work: Callable[[], object], device: torch.device) -> float:
    work()
    seen: list[float] = []
    while len(seen) < REPEATS or sum(seen) < SECONDS:
        seen.append(timed(work, 1, device))
    return min(seen)


def energy_counter(device: torch.device) -> Joules | None:
    """A reading of the device's energy counter, or None where there is none: a CPU, no NVML, a GPU without one.

    NVML is in the package nvidia-ml-py (the extra "energy").
    """
    if device.type != "cuda":
        return None
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return None
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3


def profiled(contender: Contender, out: Path, device: torch.device) -> list[dict[str, Any]]:
    """The operators that take most of a step themselves; the trace goes to `out`/trace-<name>.json.gz."""
    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as seen:
        for _ in range(PROFILED_STEPS):
            contender.step()
        if cuda:
            torch.cuda.synchronize(device)
    out.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", contender.name.lower()).strip("-")
    seen.export_chrome_trace(str(out / f"trace-{slug}.json.gz"))
    own = "self_device_time_total" if cuda else "self_cpu_time_total"
    events = [event for event in seen.key_averages() if getattr(event, own) > 0]
    total = sum(getattr(event, own) for event in events)
    top = sorted(events, key=lambda event: -getattr(event, own))[:TOP]
    return [
        {
            "operator": event.key,
            "calls_a_step": event.count / PROFILED_STEPS,
            "milliseconds_a_step": getattr(event, own) / PROFILED_STEPS / 1e3,
            "share": getattr(event, own) / total,
        }
        for event in top
    ]
