"""Where a contender's step spends its time: a trace to open in a browser, and its top operators."""

import re
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from harness.bench.contender import Contender

STEPS, ROWS = 3, 15


def profiled(contender: Contender, out: Path, device: torch.device) -> list[dict[str, Any]]:
    """The operators that take most of a step themselves; the trace goes to `out`/trace-<name>.json.gz."""
    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as seen:
        for _ in range(STEPS):
            contender.step()
        if cuda:
            torch.cuda.synchronize(device)
    out.mkdir(parents=True, exist_ok=True)
    seen.export_chrome_trace(str(out / f"trace-{_slug(contender.name)}.json.gz"))
    own = "self_device_time_total" if cuda else "self_cpu_time_total"
    events = [event for event in seen.key_averages() if getattr(event, own) > 0]
    total = sum(getattr(event, own) for event in events)
    top = sorted(events, key=lambda event: -getattr(event, own))[:ROWS]
    return [
        {
            "operator": event.key,
            "calls_a_step": event.count / STEPS,
            "milliseconds_a_step": getattr(event, own) / STEPS / 1e3,
            "share": getattr(event, own) / total,
        }
        for event in top
    ]


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
