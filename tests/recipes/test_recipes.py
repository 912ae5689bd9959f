"""What every recipe promises: a source for each value, valid settings, one protocol a size, conflicts that are true."""

from collections.abc import Iterator
from importlib.resources import files

import pytest
import yaml
from small import DIGITS

import baselines
from harness.model.shape import shape_of
from harness.recipes.config import RunConfig, validate
from harness.recipes.reading import NAMES, Recipe, about, families, load_recipe, recipe_names, settings
from harness.system.errors import UsageError

FORMULATIONS = {"dit": "iddpm", "maskdit": "edm", "mdt": "iddpm", "sddit": "edm", "sit": "flow"}  # as published
SIZES = ("tiny", "mini", "s", "b", "l", "xl", "xl-512")
FILES = [*(f"{family}.yaml" for family in families()), "protocols.yaml"]
SHARED = ("input", "network", "protocol", "evaluation", "execution")


def of_size(size: str) -> list[str]:
    return [name for name in recipe_names() if name.partition("-")[2] == size]


def knobs_of(recipe: Recipe):
    return baselines.load(recipe.document["method"]).Config


def resolved(recipe: Recipe) -> RunConfig:
    """The configuration as a run has it: an input that the recipe leaves to the data set is the digits'."""
    document = recipe.document
    return validate({**document, "input": document["input"] or DIGITS}, knobs_of(recipe))


def read(name: str) -> dict:
    return yaml.safe_load((files("harness") / "recipes" / name).read_text(encoding="utf-8"))


def annotated(node) -> Iterator[dict]:
    """Every {value, source} of a document."""
    if isinstance(node, list):
        for part in node:
            yield from annotated(part)
    elif isinstance(node, dict):
        if "value" in node or "source" in node:
            yield node
        else:
            yield from annotated(list(node.values()))


def leaves(document: dict, prefix: str = "") -> set[str]:
    return {
        path
        for key, value in document.items()
        for path in (leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}"})
    }


def test_the_published_methods_have_every_size_and_every_method_has_a_recipe():
    assert {f"{method}-{size}" for method in FORMULATIONS for size in SIZES} <= set(recipe_names())
    assert families() == baselines.names()
    assert {name.partition("-")[2] for name in recipe_names()} == set(SIZES)


@pytest.mark.parametrize("name", FILES)
def test_every_value_that_is_written_has_a_source(name):
    found = list(annotated(read(name)))
    assert found
    for leaf in found:
        assert set(leaf) == {"value", "source"}, leaf
        assert len(leaf["source"].strip("? ")) > 3, leaf


@pytest.mark.parametrize("method", baselines.names())
def test_every_knob_says_where_its_default_comes_from(method):
    for name, field in baselines.load(method).Config.model_fields.items():
        assert len((field.description or "").strip("? ")) > 3, name


@pytest.mark.parametrize("name", recipe_names())
def test_every_setting_of_the_run_is_shown_with_its_value_and_source(name):
    recipe = load_recipe(name)
    shown = {setting.path: setting.value for setting in settings(recipe, knobs_of(recipe))}
    run = resolved(recipe).model_dump(mode="json")
    if recipe.document["input"] is None:
        run["input"] = None
    assert set(shown) == leaves(run) - set(NAMES)
    for path, value in shown.items():
        found = run
        for key in path.split("."):
            found = found[key]
        assert value == found, path
    assert all(setting.source for setting in settings(recipe, knobs_of(recipe)))


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid_with_each_formulation_of_its_method(name):
    own = load_recipe(name)
    assert resolved(own).recipe == name
    formulations = baselines.load(own.document["method"]).Method.formulations
    assert own.document["formulation"] in formulations
    for formulation in formulations:
        assert resolved(load_recipe(name, formulation)).formulation == formulation


@pytest.mark.parametrize(
    ("name", "formulation", "sampler", "num_steps"),
    [
        ("dit-s", "edm", "heun", 40),
        ("dit-tiny", "edm", "heun", 18),
        ("maskdit-xl", "iddpm", "ddpm", 250),
        ("maskdit-tiny", "iddpm", "ddpm", 50),
        ("sddit-s", "edm", "heun", 40),
    ],
)
def test_a_formulation_brings_its_sampler_and_changes_nothing_else(name, formulation, sampler, num_steps):
    recipe, own = load_recipe(name, formulation), load_recipe(name)
    assert recipe.document["formulation"] == formulation
    assert (recipe.document["sampling"]["sampler"], recipe.document["sampling"]["num_steps"]) == (sampler, num_steps)
    assert recipe.sources["formulation"] == "asked for"
    same = {key: value for key, value in recipe.document.items() if key not in ("formulation", "sampling")}
    assert same == {key: own.document[key] for key in same}


def test_without_a_formulation_the_recipe_has_its_papers():
    assert {name: load_recipe(f"{name}-s").document["formulation"] for name in FORMULATIONS} == FORMULATIONS
    assert "asked for" not in load_recipe("dit-s").sources.values()


def test_an_unknown_formulation_or_recipe_names_the_choices():
    with pytest.raises(UsageError, match="formulation is 'ddim'; it must be edm or flow or iddpm"):
        load_recipe("dit-s", "ddim")
    with pytest.raises(UsageError, match="Did you mean sddit-s"):
        load_recipe("sdit-s")


@pytest.mark.parametrize("size", SIZES)
def test_methods_of_a_size_share_everything_but_formulation_sampling_and_knobs(size):
    first, *others = map(load_recipe, of_size(size))
    assert others
    for other in others:
        for section in SHARED:
            assert other.document[section] == first.document[section]
        assert {p for p in other.sources if p.split(".")[0] in SHARED} <= set(first.sources)


@pytest.mark.parametrize("formulation", ["edm", "iddpm"])
@pytest.mark.parametrize("size", SIZES)
def test_methods_with_one_formulation_share_its_sampling(size, formulation):
    recipes = [load_recipe(name, formulation) for name in of_size(size)]
    assert all(recipe.document["sampling"] == recipes[0].document["sampling"] for recipe in recipes)


@pytest.mark.parametrize("name", recipe_names())
def test_every_conflict_is_about_a_setting_and_says_what_is_taken_and_why(name):
    recipe = load_recipe(name)
    values = {setting.path: setting.value for setting in settings(recipe, knobs_of(recipe))}
    for conflict in recipe.conflicts:
        assert set(conflict) == {"setting", "taken", "others", "why"}
        assert conflict["setting"] in values
        assert conflict["taken"] == values[conflict["setting"]], conflict["setting"]
        assert conflict["others"]
        assert all(other["value"] != conflict["taken"] for other in conflict["others"]), conflict["setting"]
        assert conflict["why"].endswith(".")
    about = [conflict["setting"] for conflict in recipe.conflicts]
    assert len(about) == len(set(about)), "a setting's conflict is told once"


@pytest.mark.parametrize("name", FILES)
def test_every_conflict_belongs_to_a_recipe(name):
    for conflict in read(name).get("conflicts", []):
        assert set(conflict.get("sizes", SIZES)) <= set(SIZES), conflict["setting"]
        assert len(conflict["others"]) == len(list(annotated(conflict["others"])))


@pytest.mark.parametrize(
    ("recipe", "setting"),
    [
        ("dit-s", "protocol.flips"),
        ("dit-xl", "protocol.steps"),
        ("maskdit-xl", "protocol.batch_size"),
        ("maskdit-xl-512", "protocol.steps"),
        ("mdt-s", "protocol.learning_rate"),
        ("mdt-s", "protocol.betas"),
        ("sddit-s", "protocol.precision"),
        ("sddit-s", "protocol.vae"),
        ("sddit-xl", "knobs.decoder_width"),
        ("sddit-s", "knobs.mask_ratio"),
        ("sddit-s", "knobs.teacher_momentum"),
        ("sddit-s", "protocol.ema_decay"),
        ("dit-xl", "sampling.guidance_channels"),
        ("dit-tiny", "protocol.ema_warmup"),
    ],
)
def test_a_known_conflict_is_told(recipe, setting):
    assert setting in [conflict["setting"] for conflict in load_recipe(recipe).conflicts]


@pytest.mark.parametrize(
    ("recipe", "published"),
    [
        ("sddit-s", {"steps": 400_000, "batch_size": 256, "learning_rate": 1e-4, "weight_decay": 0, "flips": "none"}),
        ("sddit-b", {"steps": 400_000, "batch_size": 256, "learning_rate": 1e-4, "betas": [0.9, 0.999]}),
        ("sddit-xl", {"steps": 2_400_000, "batch_size": 256, "learning_rate": 1e-4, "precision": "fp32"}),
        ("dit-xl-512", {"steps": 3_000_000, "batch_size": 256, "learning_rate": 1e-4}),
    ],
)
def test_the_protocol_is_the_published_one(recipe, published):
    """SD-DiT Table 4 and Sec. 4.1; DiT Table 4 for 512 x 512."""
    protocol = load_recipe(recipe).document["protocol"]
    assert {key: protocol[key] for key in published} == published


def test_the_knobs_of_sddit_are_the_published_ones():
    """SD-DiT Table 4 and Sec. 4.1, but for those that a description calls assumed or inferred."""
    recipe = load_recipe("sddit-xl")
    knobs = {s.path: s.value for s in settings(recipe, knobs_of(recipe))}
    assert knobs["knobs.mask_ratio"] == 0.2
    assert knobs["knobs.teacher_momentum"] == [0.996, 0.999]
    assert knobs["knobs.student_temperature"] == 0.1
    assert knobs["knobs.teacher_temperature"] == [0.09, 0.099]
    assert knobs["knobs.teacher_temperature_epochs"] == 5
    assert knobs["knobs.num_prototypes"] == 8192
    assert knobs["knobs.decoder_depth"] == 8


def test_512_pixels_are_1024_tokens():
    shape = shape_of(resolved(load_recipe("dit-xl-512")))
    assert (shape.side, shape.num_tokens) == (64, 1024)


def test_every_method_says_how_it_is_called_and_drawn_and_no_two_alike():
    said = [about(method) for method in families()]
    for field in ("title", "colour", "marker"):
        assert len({getattr(each, field) for each in said} - {None}) == len(said)
    for method in families():
        assert about(method).printed_knobs.keys() <= knobs_of(load_recipe(f"{method}-s")).model_fields.keys()


def test_a_method_that_is_not_on_this_machine_is_called_by_its_name():
    assert about("absent").title == "absent"
