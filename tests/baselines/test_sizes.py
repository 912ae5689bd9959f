"""Parameters and arithmetic of the recipes' networks against the papers' tables, counted without memory."""

import math

import pytest
from counted import configured, counted

from harness.model.shape import shape_of


@pytest.mark.parametrize(("size", "millions"), [("s", 32.96), ("b", 130.51), ("xl", 675.13)])
def test_dit_has_the_published_parameters(size, millions):
    """DiT Table 4 counts its fixed position table, which is not trained."""
    shape = shape_of(configured(f"dit-{size}"))
    positions = shape.num_tokens * shape.width
    assert (counted(f"dit-{size}").params + positions) / 1e6 == pytest.approx(millions, abs=0.006)


def test_maskdit_xl_has_the_published_parameters():
    assert counted("maskdit-xl").params / 1e6 == pytest.approx(730.1, abs=0.05)


def test_sddit_xl_has_the_published_parameters_with_a_decoder_of_half_the_width_and_no_other():
    assert counted("sddit-xl").params / 1e6 == pytest.approx(740.6, abs=0.05)
    assert counted("sddit-xl", "decoder_width=512").params / 1e6 == pytest.approx(730.1, abs=0.05)


@pytest.mark.parametrize(
    ("size", "gmacs"), [("s", 6.06), ("b", 23.01), ("l", 80.71), ("xl", 118.64), ("xl-512", 524.6)]
)
def test_dit_has_the_published_arithmetic(size, gmacs):
    """DiT Table 4. Its "Gflops" are multiply-accumulates; which small layers count makes 0.02 for 256 tokens."""
    tokens = shape_of(configured(f"dit-{size}")).num_tokens
    assert counted(f"dit-{size}").gmacs_forward == pytest.approx(gmacs, abs=0.025 * tokens / 256)


@pytest.mark.parametrize("size", ["s", "b", "l", "xl"])
def test_sit_is_dit_s_network_without_the_learned_variance(size):
    dit, sit = configured(f"dit-{size}"), counted(f"sit-{size}")
    half_the_readout = 4 * dit.network.patch**2 * (dit.network.width + 1)  # weights and biases of four channels
    assert counted(f"dit-{size}").params - sit.params == half_the_readout


@pytest.mark.parametrize(
    ("size", "maskdit", "mdt", "sddit"), [("s", 1.64, 1.83, 1.67), ("b", 0.80, 1.83, 1.41), ("xl", 0.55, 1.76, 1.23)]
)
def test_a_step_costs_what_the_formulas_say_relative_to_dit(size, maskdit, mdt, sddit):
    """From 3 x forward for what is trained and 1 x forward for the teacher; SD-DiT with its K = 8192 head."""
    dit = counted(f"dit-{size}").gmacs_step
    for name, ratio in (("maskdit", maskdit), ("mdt", mdt), ("sddit", sddit)):
        assert counted(f"{name}-{size}").gmacs_step / dit == pytest.approx(ratio, abs=0.015)


@pytest.mark.parametrize(("size", "depth", "route"), [("s", 12, 7), ("xl", 28, 23)])
def test_tokens_that_go_round_a_block_cost_nothing_there(size, depth, route):
    """TREAD's route halves the tokens, and SPRINT's middle quarters them: less still, for attention is quadratic."""
    dit = counted(f"dit-{size}").gmacs_step
    for name, share in (("tread", route / depth * 0.5), ("sprint", (depth - 4) / depth * 0.75)):
        saved = 1 - counted(f"{name}-{size}").gmacs_step / dit
        assert share - 0.06 < saved < share + 0.06  # attention, and the joint of SPRINT


@pytest.mark.parametrize("size", ["s", "xl"])
def test_sra_adds_the_forward_pass_of_its_teacher_and_a_head(size):
    teacher = {"s": 8 / 12, "xl": 20 / 28}[size] / 3
    added = counted(f"sra-{size}").gmacs_step / counted(f"sit-{size}").gmacs_step - 1
    assert teacher - 0.01 < added < teacher + 0.04


def test_the_teacher_and_head_cost_nothing_at_inference_and_nothing_without_the_objective():
    full, without = counted("sddit-s"), counted("sddit-s", "discriminate=false")
    assert full.params == without.params
    assert full.gmacs_forward == without.gmacs_forward
    dit = counted("dit-s").gmacs_step
    assert without.gmacs_step / dit == pytest.approx(1.30 - 1 / 3 * 256 / 256, abs=0.03)  # 1.30 has the teacher


def test_mdt_with_relative_positions_has_a_table_for_every_block():
    lite, full = counted("mdt-s"), counted("mdt-s", "relative_position=true")
    assert full.params - lite.params == 13 * (math.prod((31, 31)) + 3) * 6  # 12 blocks and the side-interpolator
