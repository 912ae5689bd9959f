"""What the loop costs over a bare forward, backward and optimizer step of the same method. Recorded, never gated."""

import statistics
import time

import pytest
import torch
from small import tiny_config

import baselines
from harness.data import sources
from harness.model.method import Batch, Progress
from harness.model.randomness import Draw, seed_step
from harness.planning.plan import resolve
from harness.training import engine

CPU = torch.device("cpu")
PAIRS = 5  # a bare one and a loop in turn, so that what drifts meets both
STEPS = {"tiny": 60, "s": 4}  # timed, of each


def config(name, size):
    if size == "tiny":
        return tiny_config(name, "log_every=20", "checkpoint_every=1000000")
    return resolve(f"{name}-s", ["data=synthetic", "batch_size=8", "log_every=2", "checkpoint_every=1000000"])


def seconds_of_bare_steps(method, cfg, data, num_steps):
    """Per step: fixed images, no data reading, no label dropout, no average, no log."""
    parameters = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, cfg.protocol.learning_rate, fused=True)
    clean, labels = data.read(torch.arange(cfg.protocol.batch_size))
    progress, draw = Progress(0.1, 1.0), Draw.all_of(clean)
    for step in range(num_steps + 2):
        if step == 2:
            start = time.perf_counter()
        seed_step(0, step)
        optimizer.zero_grad(set_to_none=True)
        method(Batch(clean, labels), progress, draw)["loss"].backward()
        optimizer.step()
        method.after_step(progress)
    return (time.perf_counter() - start) / num_steps


def seconds_of_the_loop(method, cfg, data, num_steps, folder):
    """Per step, from the first log line to the last: reading, label dropout, average, logging and all."""
    every = cfg.execution.log_every
    cfg = cfg.model_copy(update={"protocol": cfg.protocol.model_copy(update={"steps": num_steps + 2 * every})})
    times = {}

    def report(line):
        times[line["step"]] = time.perf_counter()

    folder.mkdir()
    engine.train(method, cfg, data, folder, device=CPU, report=report, note=print)
    return (times[num_steps + every] - times[every]) / num_steps


@pytest.mark.parametrize("size", STEPS)
@pytest.mark.parametrize("name", baselines.names())
def test_loop_over_bare_step(benchmark, name, size, tmp_path):
    cfg = config(name, size)
    data = sources.of(cfg)
    pairs = []

    def pair():
        bare = seconds_of_bare_steps(baselines.build(cfg), cfg, data, STEPS[size])
        pairs.append(
            (bare, seconds_of_the_loop(baselines.build(cfg), cfg, data, STEPS[size], tmp_path / str(len(pairs))))
        )

    benchmark.pedantic(pair, rounds=PAIRS)
    ratios = [loop / bare for bare, loop in pairs]
    benchmark.extra_info["loop over bare step"] = {
        "median": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "bare_seconds": [bare for bare, _ in pairs],
        "loop_seconds": [loop for _, loop in pairs],
    }
    print(f"{name}-{size}: loop / bare = {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
