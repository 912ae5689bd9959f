"""What can be said against a run before torch is imported, which takes seconds: settings and names.

The values of knobs, and what needs a method, the data or the machine, `harness.planning.plan.resolve` refuses later.
"""

from collections.abc import Sequence
from typing import Any

from harness.data import names
from harness.recipes import metric_names, plugins
from harness.recipes.config import ADDITIONS, InputShape, Knobs, apply_overrides, as_typed, validate
from harness.recipes.reading import load_recipe
from harness.records.folders.departures import knob_names

ANY_INPUT = InputShape(channels=1, side=8, num_classes=10).model_dump()  # where a recipe leaves it to the data


def refuse_wrong_settings(recipe: str, assignments: Sequence[str], *, reads_data: bool | None = None) -> None:
    """Raises UsageError for a recipe, a setting, a value or a data set's name that `resolve` would refuse.

    Raises DataError for data that are not there, where the command reads them: `reads_data` None is only where the
    recipe leaves the input's shape to them, False is never, as for a run on another machine.
    """
    document = recipe_with(recipe, assignments)
    if document["method"] not in plugins.built_in():
        return  # what its knobs are called, only importing it tells
    adds = any(assignment.partition("=")[0].rpartition(".")[2] == ADDITIONS for assignment in assignments)
    methods = plugins.built_in() if adds else [document["method"]]  # which of them are added, is read later
    knobs = {name for method in methods for name in knob_names(method)} | ({ADDITIONS} if adds else set())
    document = apply_overrides(document, assignments, knobs)
    open_input = document.get("input") is None
    with as_typed(assignments):
        cfg = validate({**document, "input": ANY_INPUT if open_input else document["input"], "knobs": {}}, Knobs)
    metric_names.require_network(cfg.evaluation.features)
    metric_names.require(cfg.evaluation.metrics)
    reads_data = open_input if reads_data is None else reads_data
    if reads_data and cfg.protocol.pipeline == "cached":
        names.require(cfg.protocol.data)


def recipe_with(recipe: str, assignments: Sequence[str]) -> dict[str, Any]:
    """The recipe's document; another formulation among the assignments brings its sampler with it."""
    formulations = [a.partition("=")[2] for a in assignments if a.startswith("formulation=")]
    return load_recipe(recipe, formulations[-1] if formulations else None).document
