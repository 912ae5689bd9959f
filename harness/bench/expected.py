"""What a step should take, from formulas alone: nothing is trained and no device is asked."""

from typing import Any

from harness.config import RunConfig
from harness.experiment import estimate_of
from harness.training import floor, registry
from harness.training.cost import count
from harness.training.devices import DEVICES


def expected(name: str, cfg: RunConfig, processes: int) -> dict[str, Any]:
    """Arithmetic, bytes, memory and the floor of a step on each device of the table, as `bench --estimate` prints."""
    work = floor.work_of(cfg, world_size=processes)
    cost = count(lambda: registry.build(cfg, device="meta"), registry.shape_of(cfg))
    return {
        "name": name,
        "recipe": cfg.recipe,
        "pipeline": cfg.protocol.pipeline,
        "batch_size": cfg.protocol.batch_size,
        "params": cost.params,
        "gmacs_counted": cost.gmacs_step,
        "work": work.as_json(),
        "memory_bytes": estimate_of(cfg, cost, world_size=processes).memory_bytes,
        "floors": [
            floor.floor_of(work, floor.ceiling_of(device, cfg.protocol.precision)).as_json() for device in DEVICES
        ],
    }
