"""What is refused before torch is imported is what would be refused with it, in the same words."""

import pytest

import baselines
from harness.planning.beforehand import refuse_wrong_settings
from harness.planning.plan import resolve
from harness.recipes import plugins
from harness.recipes.reading import recipe_names
from harness.records.folders.departures import knob_names
from harness.system.errors import HarnessError

WRONG = [
    "mask_raio=0.3", "depth=0", "network.depth=0", "steps=many", "betas=[2, 0.9]", "formulation=ddpm", "seed=-1",
    "learning_rate=.inf", "metrics=[fidd]", "features=inceptio", "no_equals_sign", "evaluate_every=7",
    "guidance_scale=[", "data=nowhere", "data=a/b", "data=own.npz", "data=digit", "data=\" \"",
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_refused_beforehand_is_refused_in_the_words_of_resolving(wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HarnessError) as beforehand:
        refuse_wrong_settings("maskdit-tiny", [wrong], reads_data=True)
    with pytest.raises(HarnessError) as resolving:
        resolve("maskdit-tiny", [wrong])
    assert (type(beforehand.value), str(beforehand.value)) == (type(resolving.value), str(resolving.value))


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_as_it_is_passes_where_its_data_are_elsewhere(recipe):
    refuse_wrong_settings(recipe, ["steps=10", "mask_ratio=0.3"] if "mask" in recipe else [], reads_data=False)


def test_data_are_looked_for_where_they_are_read_or_give_the_input_its_shape_and_else_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    refuse_wrong_settings("dit-s", [])
    with pytest.raises(HarnessError, match="the latents of imagenet-256 are not in"):
        refuse_wrong_settings("dit-s", [], reads_data=True)
    with pytest.raises(HarnessError, match="no data set or folder is called 'photos'"):
        refuse_wrong_settings("dit-tiny", ["data=photos"])
    refuse_wrong_settings("dit-tiny", ["data=photos"], reads_data=False)
    (tmp_path / "photos").mkdir()
    refuse_wrong_settings("dit-tiny", ["data=photos"])


@pytest.mark.parametrize("method", plugins.built_in())
def test_the_names_of_knobs_read_in_the_text_of_a_method_are_those_of_its_config(method):
    assert knob_names(method) == list(baselines.load(method).Config.model_fields)


def test_a_setting_is_called_as_it_was_typed_and_by_its_full_name():
    with pytest.raises(HarnessError, match=r"^depth \(network\.depth\) is 0; it must be greater"):
        resolve("dit-tiny", ["depth=0"])
    with pytest.raises(HarnessError, match=r"^network\.depth is 0; it must be greater"):
        resolve("dit-tiny", ["network.depth=0"])
    with pytest.raises(HarnessError, match=r"^betas \(protocol\.betas\.0\) is 2; it must be less"):
        resolve("dit-tiny", ["betas=[2, 0.9]"])
    with pytest.raises(HarnessError, match=r"^sampler \(sampling\.sampler\) is 'x'; it must be"):
        resolve("dit-tiny", ["sampler=x"])
    with pytest.raises(HarnessError, match=r"^mask_ratio \(knobs\.mask_ratio\) is|^mask_ratio is 2"):
        resolve("maskdit-tiny", ["mask_ratio=2"])
