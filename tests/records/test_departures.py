"""What a run's settings are told to differ in from its recipe, without importing its method."""

import pytest

import baselines
from harness.recipes.reading import load_recipe, recipe_names
from harness.records.folders.departures import UNSAID, departures, knob_defaults


def resolved(recipe: str, formulation: str | None = None) -> dict:
    """A run's configuration as the recipe alone gives it."""
    document = load_recipe(recipe, formulation).document
    knobs = baselines.load(document["method"]).Config.model_validate(document["knobs"])
    shape = {"channels": 1, "side": 8, "num_classes": 10}
    return {**document, "input": document["input"] or shape, "knobs": knobs.model_dump(mode="json")}


@pytest.mark.parametrize("method", baselines.names())
def test_the_defaults_read_from_a_method_are_those_it_has(method):
    config, found = baselines.load(method).Config, knob_defaults(method)
    assert {name: value for name, (value, _) in found.items()} == config().model_dump(mode="json")
    assert {name: words for name, (_, words) in found.items()} == {
        name: field.description or "" for name, field in config.model_fields.items()
    }


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_does_not_depart_from_itself(name):
    found = departures(resolved(name))
    assert (found.recipe, found.differing, found.absent) == (name, (), ())
    assert found.equal > 40


def test_a_changed_setting_is_told_with_both_values_and_where_the_command_says_it():
    config = resolved("sddit-tiny")
    config["knobs"]["mask_ratio"], config["protocol"]["steps"] = 0.5, 300
    config["execution"]["micro_batch"] = 16
    command = "harness run sddit-tiny --set mask_ratio=0.3 --set mask_ratio=0.5 --set decoder_depth=4"
    found = {d.setting: d for d in departures(config, command).differing}
    assert set(found) == {"knobs.mask_ratio", "protocol.steps", "execution.micro_batch"}
    ratio = found["knobs.mask_ratio"]
    assert (ratio.value, ratio.recipe, ratio.source) == (0.5, 0.2, "its command: --set mask_ratio=0.5")
    assert found["protocol.steps"].source == UNSAID
    assert "fits into memory" in found["execution.micro_batch"].source


def test_the_sampler_that_a_formulation_brings_is_no_departure_of_its_own():
    config = resolved("mdt-tiny", "edm")
    found = departures(config, "harness run mdt-tiny --set formulation=edm")
    assert [(d.setting, d.value, d.recipe) for d in found.differing] == [("formulation", "edm", "iddpm")]


def test_settings_that_only_one_side_has_are_told_apart_from_null():
    config = resolved("dit-tiny")
    del config["execution"]["evaluate_every"]
    config["execution"]["later"] = None
    found = departures(config)
    assert found.absent == ("execution.evaluate_every",)
    assert [(d.setting, d.value, d.known) for d in found.differing] == [("execution.later", None, False)]


@pytest.mark.parametrize("name", ["no-such", "dit", "../dit-tiny", "", None, 3, ["dit-tiny"]])
def test_without_its_recipe_a_run_is_compared_with_nothing(name):
    found = departures({**resolved("dit-tiny"), "recipe": name})
    assert (found.recipe, found.differing, found.equal) == (None, (), 0)
