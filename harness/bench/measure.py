"""The clock of a bench: contenders warmed up one by one, then timed in turns, so that what drifts meets all of them."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.bench.ceilings import timed
from harness.bench.contender import Contender
from harness.bench.energy import Joules
from harness.results.bench_record import Spread, Window
from harness.training.telemetry import peak_memory

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
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    windows: list[Window] = field(default_factory=list)

    @property
    def step_seconds(self) -> float:
        """The median over the windows, or what the warm-up let one expect."""
        if self.windows:
            return statistics.median(w.seconds / w.steps for w in self.windows)
        later = self.warmup_steps - 1
        return (self.warmup_seconds - self.first_step_seconds) / later if later else self.first_step_seconds

    @property
    def steps_per_sec(self) -> Spread:
        return spread([w.steps / w.seconds for w in self.windows])

    @property
    def data_wait_share(self) -> float:
        return sum(w.data_seconds for w in self.windows) / sum(w.seconds for w in self.windows)

    @property
    def joules_per_image(self) -> float | None:
        if any(w.joules is None for w in self.windows):
            return None
        images = sum(w.steps for w in self.windows) * self.contender.num_images
        return sum(w.joules for w in self.windows) / images


def spread(values: Sequence[float]) -> Spread:
    return Spread(median=statistics.median(values), lowest=min(values), highest=max(values))


def ratio(of: Timed, to: Timed) -> Spread:
    """Of two contenders' speeds, round by round: what slows a whole round down cancels."""
    pairs = zip(of.windows, to.windows, strict=True)
    return spread([(a.steps / a.seconds) / (b.steps / b.seconds) for a, b in pairs])


def warmed_up(make: Callable[[], Contender], device: torch.device) -> Timed:
    """A contender made and stepped until it is warm, then its memory, with nothing timed."""
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    contender = make()
    first = timed(contender.step, 1, device)
    seconds, steps = first, 1
    while steps < 2 or (steps < WARMUP_STEPS and seconds - first < WARMUP_SECONDS):
        seconds += timed(contender.step, 1, device)
        steps += 1
    ready = Timed(contender, contender.conditions(), first, steps, seconds)
    if device.type == "cuda":
        _measure_memory(ready, before, device)
    return ready


def _measure_memory(ready: Timed, allocated_before: int, device: torch.device) -> None:
    """The peak of a step less what others hold: the contenders share the device, but not while one steps."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_reserved(device) - (torch.cuda.memory_allocated(device) - allocated_before)
    timed(ready.contender.step, 1, device)
    ready.peak_allocated_bytes = peak_memory(device)[0] - allocated_before
    ready.peak_reserved_bytes = torch.cuda.max_memory_reserved(device) - held


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
    waited, spent = contender.data_seconds, joules and joules()
    seconds = timed(contender.step, steps, device)
    return Window(
        steps=steps,
        seconds=seconds,
        data_seconds=contender.data_seconds - waited,
        joules=joules() - spent if joules else None,
    )
