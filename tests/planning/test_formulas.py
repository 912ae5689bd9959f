"""The formulas of the arithmetic against the FLOP counter."""

import pytest
from counted import configured, counted

import baselines
from harness.planning import formulas
from harness.planning.cost import GIGA, step_cost
from harness.planning.plan import on_shapes
from harness.recipes.reading import recipe_names


def macs(cfg):
    return formulas.macs(cfg, on_shapes(cfg))


SWITCHES = [
    ("sddit-tiny", "discriminate=false"),
    ("sddit-tiny", "mask_ratio=0"),
    ("sddit-tiny", "mask_ratio=0.5"),
    ("sddit-tiny", "shared_prototypes=true"),
    ("sddit-tiny", "teacher_sigma=student"),
    ("sddit-s", "decoder_width=512"),
    ("maskdit-tiny", "mask_ratio=0"),
    ("maskdit-tiny", "mask_ratio=0.75"),
    ("maskdit-tiny", "decoder_depth=1"),
    ("mdt-tiny", "mask_ratio=0"),
    ("mdt-tiny", "mask_ratio=0.5"),
    ("mdt-tiny", "decoder_depth=1"),
    ("mdt-tiny", "relative_position=true"),
    ("dit-tiny", "formulation=edm"),
    ("dit-tiny", "patch=1"),
]


@pytest.mark.parametrize("recipe", recipe_names())
def test_the_formulas_are_within_a_hundredth_of_the_counter_for_every_recipe(recipe):
    found, expected = macs(configured(recipe)), counted(recipe)
    assert found.step.total / GIGA == pytest.approx(expected.gmacs_step, rel=0.01)
    assert found.forward / GIGA == pytest.approx(expected.gmacs_forward, rel=0.01)


@pytest.mark.parametrize(("recipe", "switch"), SWITCHES)
def test_the_formulas_follow_every_switch_that_changes_the_arithmetic(recipe, switch):
    found, expected = macs(configured(recipe, switch)), counted(recipe, switch)
    assert found.step.total / GIGA == pytest.approx(expected.gmacs_step, rel=0.01)
    assert found.forward / GIGA == pytest.approx(expected.gmacs_forward, rel=0.01)


@pytest.mark.parametrize("recipe", ["dit-tiny", "maskdit-tiny", "mdt-tiny", "sddit-tiny"])
def test_no_product_is_missing_from_the_formulas_or_too_much(recipe):
    """Equal to the last one, but for the prototypes of two means: two an image where a batch is one image."""
    cfg = configured(recipe)
    means = 2 * cfg.knobs.head_bottleneck * cfg.knobs.num_prototypes if cfg.method == "sddit" else 0
    assert macs(cfg).step.total + means == round(counted(recipe).gmacs_step * GIGA)
    assert macs(cfg).forward == round(counted(recipe).gmacs_forward * GIGA)


def test_the_parts_of_sddit_are_what_its_switches_take_away():
    full, without = macs(configured("sddit-s")).step, macs(configured("sddit-s", "discriminate=false")).step
    assert (without.head, without.teacher) == (0, 0)
    assert (full.embedding, full.encoder, full.decoder) == (without.embedding, without.encoder, without.decoder)
    assert full.total - without.total == full.head + full.teacher


def test_a_step_of_dit_is_three_forward_passes_but_for_what_data_has_no_gradient_of():
    found = macs(configured("dit-s"))
    missing = 3 * found.forward - found.step.total
    assert missing == (256 * 16 + 256) * 384  # patches of 16 values, a sinusoid of 256
    assert missing / found.step.total < 1e-3


def test_checkpointing_adds_one_forward_of_the_trained_blocks_and_none_of_the_teacher():
    for recipe in ("dit-s", "maskdit-s", "mdt-s", "sddit-s"):
        plain, recomputing = configured(recipe), configured(recipe, "activation_checkpointing=true")
        once, again = (step_cost(cfg, on_shapes(cfg)) for cfg in (plain, recomputing))
        assert once.recomputed == 0
        assert again.parts == once.parts
        trained = once.parts["encoder"] + once.parts["decoder"]
        assert 0.97 < again.recomputed / (trained / 3) < 1  # projection and readout are no blocks


def test_a_method_without_a_formula_is_counted_and_the_cost_says_so(monkeypatch):
    cfg = configured("mdt-tiny")
    from_formulas = step_cost(cfg, on_shapes(cfg))
    monkeypatch.delattr(baselines.load("mdt").Method, "passes")
    by_counter = step_cost(cfg, on_shapes(cfg))
    assert macs(cfg) is None
    assert (from_formulas.source, by_counter.source) == ("formulas", "counted")
    assert by_counter.parts.keys() == {"step"}
    assert by_counter.total == pytest.approx(from_formulas.total)
