"""Benches in memory, without timing anything."""

from harness.records.bench_record import Bench, Entry, Spread, Window
from harness.records.schema import Device

H200 = Device(name="NVIDIA H200", kind="cuda", count=1, threads=16)


def bench(device: Device = H200, entries: tuple[Entry, ...] = (), flops: float = 100e9) -> Bench:
    return Bench(
        harness_version="0.1.0",
        git_commit=None,
        packages={},
        device=device,
        command="harness bench dit-s",
        measured_at="2026-01-01T00:00:00+00:00",
        rounds=1,
        matrix_flops_per_second={"fp32": flops},
        memory_bytes_per_second=1e9,
        process_peak_rss_bytes=None,
        entries=list(entries),
    )


def contender(recipe: str = "dit-s", *, pipeline: str = "cached", gmacs: float | None = 18.0, **fields) -> Entry:
    method = recipe.partition("-")[0]
    conditions = {"code": "harness", "recipe": recipe, "method": method, "knobs": {}, "precision": "fp32"}
    plain = {
        "name": f"{recipe} {pipeline}",
        "conditions": conditions | {"compiled": False, "pipeline": pipeline, "vae": "random"},
        "num_images": 2,
        "first_step_seconds": 1,
        "warmup_steps": 1,
        "warmup_seconds": 1,
        "windows": [Window(steps=1, seconds=1, data_seconds=0)],
        "steps_per_sec": Spread(median=1, lowest=0.5, highest=2),
        "images_per_sec": Spread(median=2, lowest=1, highest=4),
        "ratio": Spread(median=1, lowest=1, highest=1),
        "data_wait_share": 0,
        "peak_allocated_bytes": None,
        "peak_reserved_bytes": None,
        "gmacs_step": gmacs,
        "bytes_step": None,
        "floors": [],
        "over_floor": None,
        "mfu": None,
        "joules_per_image": None,
    }
    return Entry(**(plain | fields))
