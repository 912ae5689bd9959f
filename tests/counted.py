"""Recipes and what the FLOP counter says of them, counted once for all tests."""

from functools import cache

from small import tiny_config

from harness.config import RunConfig, apply_overrides, validate
from harness.recipes import load_recipe
from harness.training import registry
from harness.training.cost import Cost, count


def configured(recipe: str, *assignments: str) -> RunConfig:
    """A recipe with `--set` assignments; the tiny ones for the digits."""
    method, size = recipe.split("-", 1)
    if size == "tiny":
        return tiny_config(method, *assignments)
    document = load_recipe(recipe).document
    knobs = registry.load(method).Config
    return validate(apply_overrides(document, assignments, knobs.model_fields), knobs)


@cache
def counted(recipe: str, *assignments: str) -> Cost:
    """GMACs and parameters by running the method on shapes: a second for S/2, three for XL/2."""
    cfg = configured(recipe, *assignments)
    return count(lambda: registry.build(cfg, device="meta"), registry.shape_of(cfg))
