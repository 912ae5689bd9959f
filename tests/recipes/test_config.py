import pytest
from small import DIGITS, small_config, tiny_config

import baselines
from harness.recipes import config
from harness.recipes.config import apply_overrides, parse_count
from harness.recipes.naming import with_later_settings
from harness.recipes.reading import load_recipe
from harness.system.errors import UsageError


@pytest.mark.parametrize(
    ("text", "value"), [("400k", 400_000), ("1.5M", 1_500_000), ("50_000", 50_000), ("250", 250), ("2K", 2000)]
)
def test_counts_may_be_abbreviated(text, value):
    assert parse_count(text) == value


@pytest.mark.parametrize("text", ["abc", "-5", "0", "1.5", "", "k", "nan", "inf", "1e999", "0.0001k"])
def test_a_count_that_is_no_whole_positive_number_is_refused(text):
    with pytest.raises(UsageError, match="whole number of at least 1"):
        parse_count(text)


def resolve(recipe, *assignments):
    return baselines.configured(load_recipe(recipe).document | {"input": DIGITS}, assignments)


@pytest.mark.parametrize("method", baselines.names())
def test_a_saved_configuration_gives_the_same_run(method, tmp_path):
    cfg = small_config(method, "seed=3")
    (tmp_path / "config.yaml").write_text(cfg.to_yaml())
    again = baselines.configured(config.read_config(tmp_path / "config.yaml"))
    assert again == cfg
    assert again.run_id == cfg.run_id


def test_the_run_id_follows_what_changes_the_result_and_nothing_else():
    ids = {
        resolve("sddit-tiny", *a).run_id
        for a in ((), ("seed=1",), ("mask_ratio=0.3",), ("steps=7",), ("num_images=60",))
    }
    assert len(ids) == 5
    assert resolve("sddit-tiny", "log_every=7").run_id == resolve("sddit-tiny").run_id


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("mask_ratio=1.5", "mask_ratio is 1.5; it must be less than 1"),
        ("mask_ratio=often", "mask_ratio is 'often'; it must be a number."),
        ("batch_size=1.5", "batch_size (protocol.batch_size) is 1.5; it must be a whole number."),
        ("protocol.batch_size=0", "protocol.batch_size is 0; it must be greater than or equal to 1"),
        ("sampler=dopri", "(sampling.sampler) is 'dopri'; it must be 'heun' or 'euler' or 'euler-maruyama' or 'ddpm'"),
        ("mask_ration=0.3", "no setting is called 'mask_ration'. Did you mean mask_ratio"),
        ("mask_ratio", "has no '='"),
        ("num_heads=5", "5 attention heads do not divide a width of 64"),
        ("width=98", "a width that is a multiple of 4, not 98"),
        ("patch=3", "network.patch is 3, which does not divide an input of 8 x 8"),
        ("mask_ratio=0.99", "keeps none of 16 tokens"),
        ("betas=[0.9]", "protocol.betas"),
        ("learning_rate=.nan", "protocol.learning_rate"),
        ("method=dit", "no setting is called 'method'"),
        ("steps={", "is not valid YAML"),
    ],
)
def test_a_bad_setting_is_refused_by_name_and_range(assignment, message, digits):
    with pytest.raises(UsageError) as caught:
        baselines.build(resolve("sddit-tiny", assignment))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[" * 5_000 + "]" * 5_000, "- " * 6_000, "? " * 6_000, "a: " + "x" * config.LARGEST_CONFIG]
)
def test_a_configuration_too_deep_or_too_large_is_an_error_and_no_crash(text, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(config.DataError, match="cannot be read as a configuration"):
        config.read_config(tmp_path / "config.yaml")


def test_a_file_that_is_no_mapping_is_no_configuration(tmp_path):
    (tmp_path / "config.yaml").write_text("- a\n- list\n")
    with pytest.raises(config.DataError, match="not a run configuration"):
        config.read_config(tmp_path / "config.yaml")


def test_mdts_guidance_belongs_to_the_sampler_with_steps():
    assert resolve("mdt-tiny", "guidance_power=4").sampling.guidance_power == 4
    with pytest.raises(UsageError, match=r"\(sampling\.guidance_power\) is 4; it must be null: MDT's scale"):
        resolve("sddit-tiny", "guidance_power=4")


def test_a_section_may_be_left_to_the_data():
    document = apply_overrides(load_recipe("dit-s").document, ["input=null"], [])
    assert document["input"] is None


@pytest.mark.parametrize("assignment", ["betas=[1.0, 0.9]", "learning_rate=.inf", "weight_decay=.nan"])
def test_numbers_no_optimizer_takes_are_refused(assignment):
    with pytest.raises(UsageError, match="it must be"):
        resolve("dit-tiny", assignment)


def test_sampling_that_cannot_work_is_told_before_training():
    with pytest.raises(UsageError, match="take at most as many"):
        baselines.build(resolve("dit-tiny", "sampling.num_steps=2000"))
    with pytest.raises(UsageError, match="the input has 1 channels"):
        baselines.build(resolve("dit-tiny", "guidance_channels=3"))


def test_a_setting_that_came_later_leaves_the_ids_of_older_runs_alone():
    """The id that this recipe had before there was a choice of how to decode. Another protocol rightly changes it."""
    assert tiny_config("dit").run_id == "seed0-0bcd109295"
    assert tiny_config("dit", "decode_precision=tf32").run_id != "seed0-0bcd109295"
    old, new = tiny_config("maskdit"), tiny_config("maskdit", "project_start=xavier")
    assert old.run_id != new.run_id
    assert "project_start" not in with_later_settings(old.model_dump())["knobs"]
    assert with_later_settings(new.model_dump())["knobs"]["project_start"] == "xavier"
