"""What a step of the proxy's size costs a CPU, in each way to carry it out. Recorded, never gated.

    python -m pytest tests/benchmarks/test_step_on_cpu.py --benchmark-only --benchmark-json=steps.json

The ways are processes that take turns, A B C, then C B A: what drifts meets all of them, and each has an allocator and
compiled code of its own. Wall time is the machine's, which others may share; CPU time is the process's own.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import torch

PROXY = (  # an image of 28 x 28 padded to 32 x 32: 64 tokens
    "data=synthetic", "input={channels: 1, side: 32, num_classes: 10}", "patch=4", "width=96", "depth=4",
    "batch_size=64", "learning_rate=1e-3", "steps=1000",
)  # fmt: skip
WAYS = {  # name -> what is set besides; "kept" and "bf16 attention" are no settings
    "fp32": (),
    "fp32, memory kept": ("kept",),
    "fp32, memory kept, compiled": ("kept", "compile=true"),
    "bf16, attention in bf16": ("bf16 attention", "precision=bf16"),
    "bf16": ("precision=bf16",),
    "bf16, memory kept": ("kept", "precision=bf16"),
    "bf16, memory kept, compiled": ("kept", "precision=bf16", "compile=true"),
}
ROUNDS, STEPS, SETTLING, WARMUP = 5, 4, 1, 3
SHOWN = ("wall", "cpu")


@pytest.mark.parametrize("method", ["dit", "sddit"])
def test_ways_to_carry_out_a_step(benchmark, method):
    children = {name: _started(method, ways) for name, ways in WAYS.items()}
    first = {name: json.loads(child.stdout.readline()) for name, child in children.items()}
    turns = {name: [] for name in WAYS}

    def take_turns():
        backwards = len(turns["fp32"]) % 2
        for name, child in reversed(children.items()) if backwards else children.items():
            child.stdin.write("go\n")
            child.stdin.flush()
            turns[name].append(json.loads(child.stdout.readline()))

    benchmark.pedantic(take_turns, rounds=ROUNDS)
    for name, child in children.items():
        child.communicate()
        benchmark.extra_info[name] = {
            "first_step_seconds": first[name]["seconds"],
            "threads": first[name]["threads"],
            **{f"{kind}_ms": _spread([turn[kind] for turn in turns[name]]) for kind in (*SHOWN, "faults")},
            **{
                f"{kind}_speed": _spread([a[kind] / b[kind] for a, b in zip(turns["fp32"], turns[name], strict=True)])
                for kind in SHOWN
            },
            "losses": [turn["loss"] for turn in turns[name]],
        }
        print(f"{method}, {name}: {benchmark.extra_info[name]}")


def _spread(values: list[float]) -> dict[str, float]:
    named = {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
    return {name: round(value, 3) for name, value in named.items()}


def _started(method: str, ways: tuple[str, ...]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, __file__, method, *ways], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )  # fmt: skip


def _steps(method: str, ways: list[str]) -> Callable[[int], float]:
    """Takes so many steps and returns the last loss."""
    from torch.nn import functional as F

    import baselines
    from harness.data import sources
    from harness.data.loader import StoredBatch
    from harness.data.order import batch_indices
    from harness.model.nn import blocks
    from harness.planning.plan import resolve
    from harness.system.allocator import keep_freed_memory
    from harness.system.processes.world import World
    from harness.training.step import TrainStep

    if "kept" in ways:
        keep_freed_memory()
    if "bf16 attention" in ways:
        blocks._attention = lambda q, k, v, bias: F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    cfg = resolve(f"{method}-tiny", [*PROXY, *(way for way in ways if "=" in way)])
    data = sources.of(cfg)
    step = TrainStep(baselines.build(cfg), cfg, data, world=World(), device=torch.device("cpu"))
    taken = 0

    def take(count: int) -> float:
        nonlocal taken
        loss = torch.nan
        for _ in range(count):
            indices = batch_indices(len(data), cfg.seed, taken, cfg.protocol.batch_size)
            losses, _ = step(StoredBatch(*data.read(indices)), taken, measure_gradient=False)
            loss, taken = losses["loss"].item(), taken + 1
        return loss

    return take


def _child(method: str, *ways: str) -> None:
    take, began = _steps(method, list(ways)), time.perf_counter()
    take(1)
    print(json.dumps({"seconds": time.perf_counter() - began, "threads": torch.get_num_threads()}), flush=True)
    take(WARMUP)
    for _ in sys.stdin:
        take(SETTLING)
        wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        loss = take(STEPS)
        wall, after = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        answer = {
            "wall": 1e3 * wall / STEPS,
            "cpu": 1e3 * cpu / STEPS,
            "faults": (after.ru_minflt - before.ru_minflt) / STEPS,
            "loss": loss,
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _child(*sys.argv[1:])
