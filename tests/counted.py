"""Recipes and what the FLOP counter says of them, counted once for all tests."""

from functools import cache

from small import tiny_config

import baselines
from harness.model.shape import shape_of
from harness.planning.cost import count
from harness.planning.plan import on_shapes
from harness.recipes.config import RunConfig, apply_overrides, validate
from harness.recipes.reading import load_recipe
from harness.records.evidence import Count


def configured(recipe: str, *assignments: str) -> RunConfig:
    """A recipe with `--set` assignments; the tiny ones for the digits."""
    method, size = recipe.split("-", 1)
    if size == "tiny":
        return tiny_config(method, *assignments)
    document = load_recipe(recipe).document
    knobs = baselines.load(method).Config
    return validate(apply_overrides(document, assignments, knobs.model_fields), knobs)


@cache
def counted(recipe: str, *assignments: str) -> Count:
    """GMACs and parameters by running the method on shapes: a second for S/2, three for XL/2."""
    cfg = configured(recipe, *assignments)
    return count(on_shapes(cfg), shape_of(cfg))
