"""The clock of a bench: turns, windows, ratios."""

import time

import pytest
import torch

from harness.bench import measure
from harness.bench.measure import Ceilings, Timed, take_turns, warmed_up
from harness.records.bench_record import Window

CPU = torch.device("cpu")


class Sleeper:
    """A contender whose steps take a known time."""

    num_images = 4

    def __init__(self, name, seconds, seen=None, first=None):
        self.name, self.seconds, self.seen, self.first = name, seconds, [] if seen is None else seen, first
        self.data_seconds, self.taken = 0.0, 0

    def step(self):
        self.seen.append(self.name)
        time.sleep(self.first if self.first and not self.taken else self.seconds)
        self.data_seconds += self.seconds / 4
        self.taken += 1

    def conditions(self):
        return {"code": "sleep"}


def turns(sleepers, rounds, window_seconds=1e-9):
    ready = [Timed(sleeper, {}, 0.0, 2, sleeper.seconds, sleeper.seconds) for sleeper in sleepers]
    take_turns(ready, rounds=rounds, window_seconds=window_seconds, device=CPU, joules=None, advance=lambda done: None)
    return ready


def test_contenders_take_turns_and_every_second_round_runs_backwards():
    seen = []
    turns([Sleeper(name, 0.001, seen) for name in "ABC"], rounds=3)
    settling_and_timed = 2
    assert seen == [name for name in "ABCCBAABC" for _ in range(settling_and_timed)]


def test_a_window_holds_as_many_steps_as_fill_it_and_never_none():
    fast, slow = turns([Sleeper("fast", 0.004), Sleeper("slow", 0.05)], rounds=2, window_seconds=0.03)
    assert all(2 <= w.steps <= 8 for w in fast.windows)
    assert [w.steps for w in slow.windows] == [1, 1]


def test_speed_and_waiting_are_those_of_the_timed_steps():
    (ready,) = turns([Sleeper("one", 0.01)], rounds=3, window_seconds=0.03)
    speeds = sorted(w.steps / w.seconds for w in ready.windows)
    assert ready.steps_per_sec.median == speeds[1] <= 100  # a sleep of 0.01 s is never shorter
    waited = sum(w.data_seconds for w in ready.windows) / sum(w.seconds for w in ready.windows)
    assert ready.data_wait_share == pytest.approx(waited)
    assert 0 < waited < 1
    assert ready.step_seconds == pytest.approx(1 / speeds[1])


def test_a_ratio_is_taken_round_by_round_so_that_a_slow_round_cancels():
    def timed(*seconds):
        return Timed(
            Sleeper("x", 0), {}, 0, 2, 0, 0, windows=[Window(steps=1, seconds=s, data_seconds=0) for s in seconds]
        )

    found = measure.ratio(timed(1, 2, 10), timed(2, 4, 20))
    assert (found.median, found.lowest, found.highest) == (2, 2, 2)


def test_the_first_step_is_told_apart_from_the_warm_ones():
    ready = warmed_up(lambda: Sleeper("one", 0.002, first=0.1), CPU)
    assert ready.first_step_seconds >= 0.1
    assert ready.warmup_steps == measure.WARMUP_STEPS
    assert ready.step_seconds < 0.05
    assert ready.windows == []


def test_the_ceilings_are_rates_that_a_large_product_and_a_large_copy_reach(monkeypatch):
    monkeypatch.setattr(measure, "SIDE", {"cpu": 256})
    monkeypatch.setattr(measure, "COPIED", {"cpu": 2**22})
    monkeypatch.setattr(measure, "SECONDS", 0.01)
    reached = measure.ceilings(["bf16", "fp32"], CPU)
    assert 1e8 < reached.flops_per_second["fp32"] < 1e14
    assert reached.flops_per_second.keys() == {"bf16", "fp32"}
    assert 1e8 < reached.bytes_per_second < 1e13


def test_of_two_measurements_of_a_machine_the_better_rate_is_its_ceiling():
    a, b = Ceilings({"fp32": 2.0, "bf16": 3.0}, 5.0), Ceilings({"fp32": 4.0, "bf16": 1.0}, 4.0)
    assert measure.best_ceilings(a, b) == Ceilings({"fp32": 4.0, "bf16": 3.0}, 5.0)


def test_a_processor_counts_no_energy():
    assert measure.energy_counter(CPU) is None
