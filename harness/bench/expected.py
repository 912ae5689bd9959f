"""What a step should take, from formulas alone: nothing is trained and no device is asked."""

from typing import Any

from harness.planning import floor
from harness.planning.plan import cost_of, estimate_of, on_shapes
from harness.recipes.config import RunConfig


def expected(name: str, cfg: RunConfig, processes: int) -> dict[str, Any]:
    """Arithmetic, bytes, memory and the floor of a step on each device of the table, as `bench --estimate` prints."""
    work = floor.work_of(cfg, on_shapes(cfg), world_size=processes)
    cost = cost_of(cfg)
    return {
        "name": name,
        "recipe": cfg.recipe,
        "pipeline": cfg.protocol.pipeline,
        "batch_size": cfg.protocol.batch_size,
        "params": cost.params,
        "gmacs_counted": cost.gmacs_step,
        "work": work.as_json(),
        "memory_bytes": estimate_of(cfg, cost, world_size=processes).memory_bytes,
        "floors": [known.as_json() for known in floor.floors_of(work)],
    }
