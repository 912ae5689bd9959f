"""The clock of a bench: contenders warmed up one by one, then timed in turns, so that what drifts meets all of them."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch

from harness.bench.ceilings import timed
from harness.bench.contender import Contender
from harness.bench.energy import Joules
from harness.records.bench_record import Spread, Window

WARMUP_STEPS = 5  # untimed, with the first: allocators, caches, and kernels chosen by trying
WARMUP_SECONDS = 10.0  # after which slow steps are warm enough
SETTLING_STEPS = 1  # untimed before every window: the contender before has left its own data in the caches


@dataclass
class Timed:
    """A contender with what the clock said of it."""

    contender: Contender
    conditions: dict[str, Any]
    first_step_seconds: float
    warmup_steps: int
    warmup_seconds: float
    last_step_seconds: float  # of the warm-up
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
    """Of two contenders' speeds, round by round: what slows a whole round down cancels."""
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
    before = _held(device)
    contender = make()
    steps = [timed(contender.step, 1, device)]
    while len(steps) < 2 or (len(steps) < WARMUP_STEPS and sum(steps[1:]) < WARMUP_SECONDS):
        steps.append(timed(contender.step, 1, device))
    ready = Timed(contender, contender.conditions(), steps[0], len(steps), sum(steps), steps[-1])
    if before is not None:
        _measure_memory(ready, before, device)
    return ready


class Held(NamedTuple):
    """Of the device's memory by this process, in bytes: in tensors, and with what the allocator keeps for later."""

    allocated: int
    reserved: int


def _held(device: torch.device) -> Held | None:
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()
    return Held(torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device))


def _measure_memory(ready: Timed, before: Held, device: torch.device) -> None:
    """The peak of a step less what others hold: the contenders share the device, but not while one steps.

    What a recorded graph works in is reserved for it and never allocated again, so that its peak is not to be seen.
    """
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    timed(ready.contender.step, 1, device)
    ready.peak_reserved_bytes = torch.cuda.max_memory_reserved(device) - before.reserved
    if not ready.conditions.get("cuda_graphs"):
        ready.peak_allocated_bytes = torch.cuda.max_memory_allocated(device) - before.allocated


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
