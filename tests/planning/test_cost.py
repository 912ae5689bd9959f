"""The counted arithmetic of a step against formulas that are written here a second time, from the papers' networks."""

from functools import cache

import pytest
from counted import configured, counted

from harness.model.nn.embeddings import SINUSOID_WIDTH
from harness.planning.cost import GIGA, StepCost, step_cost
from harness.planning.plan import on_shapes

TOKENS, WIDTH, DEPTH, PATCH_VALUES = 256, 384, 12, 16  # S/2 on latents of 4 x 32 x 32
EMBEDDING = TOKENS * PATCH_VALUES * WIDTH + SINUSOID_WIDTH * WIDTH + WIDTH**2  # patches, and the noise level's MLP
FROM_DATA = TOKENS * PATCH_VALUES * WIDTH + SINUSOID_WIDTH * WIDTH  # these two layers' inputs need no gradient


def blocks(depth: int, tokens: int, width: int = WIDTH) -> int:
    """Queries, keys, values, output and MLP take 12 n D^2, attention 2 n^2 D, adaLN 6 E D."""
    return depth * (12 * tokens * width**2 + 2 * tokens**2 * width + 6 * WIDTH * width)


def modulated(tokens: int, width: int, outputs: int) -> int:
    return tokens * width * outputs + 2 * WIDTH * width


def trained(forward: int, passes: int = 1) -> int:
    """Forward and backward: three products for each layer, two for the layers that read data."""
    return 3 * forward - passes * FROM_DATA


@cache
def costs(recipe: str, *assignments: str) -> StepCost:
    cfg = configured(recipe, *assignments)
    return step_cost(cfg, on_shapes(cfg))


def dit() -> int:
    return trained(EMBEDDING + blocks(DEPTH, TOKENS) + modulated(TOKENS, WIDTH, 2 * PATCH_VALUES))


def mdt() -> int:
    """All tokens; then 179 of 256 in the first ten blocks, and all in the side-interpolator and in the last two."""
    readout = modulated(TOKENS, WIDTH, 2 * PATCH_VALUES)
    masked = blocks(DEPTH - 2, 179) + blocks(3, TOKENS)
    return trained(2 * EMBEDDING + blocks(DEPTH, TOKENS) + masked + 2 * readout, passes=2)


def maskdit() -> int:
    """Half of the tokens in the encoder; a decoder of 8 blocks, 512 wide."""
    decoder = modulated(128, WIDTH, 512) + blocks(8, TOKENS, 512) + modulated(TOKENS, 512, PATCH_VALUES)
    return trained(EMBEDDING + blocks(DEPTH, 128) + decoder)


def sddit(teacher: bool) -> int:
    """204 of 256 tokens and [CLS] in the encoder; a decoder of 8 blocks, 192 wide; the teacher sees all tokens."""
    decoder = modulated(TOKENS, WIDTH, 192) + blocks(8, TOKENS, 192) + modulated(TOKENS, 192, PATCH_VALUES)
    student = trained(EMBEDDING + blocks(DEPTH, 205) + decoder)
    if not teacher:
        return student
    mlp = WIDTH * 2048 + 2048**2 + 2048 * 256
    prototypes = 205 * 256 * 8192
    means = 2 * 256 * 8192  # the mean of all tokens through the last layer, for the centre
    ours = 3 * (205 * mlp + prototypes)
    theirs = EMBEDDING + blocks(DEPTH, 257) + 257 * mlp + prototypes + means
    return student + ours + theirs


@pytest.mark.parametrize(
    ("recipe", "assignments", "expected"),
    [
        ("dit-s", [], dit()),
        ("mdt-s", [], mdt()),
        ("maskdit-s", [], maskdit()),
        ("sddit-s", [], sddit(teacher=True)),
        ("sddit-s", ["discriminate=false"], sddit(teacher=False)),
    ],
)
def test_the_counter_finds_what_the_formula_says(recipe, assignments, expected):
    assert counted(recipe, *assignments).gmacs_step * GIGA == pytest.approx(expected, rel=1e-12)


def test_checkpointing_adds_one_forward_pass_of_the_trained_blocks_and_none_of_the_teacher():
    cost = costs("sddit-s", "activation_checkpointing=true")
    assert cost.total == pytest.approx(counted("sddit-s").gmacs_step)
    expected = blocks(DEPTH, 205) + blocks(8, TOKENS, 192)
    assert cost.recomputed * GIGA == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("recipe", ["dit-s", "mdt-s", "maskdit-s", "sddit-s"])
def test_nearly_all_of_the_forward_pass_belongs_to_a_module(recipe):
    parts = costs(recipe).forward_parts
    assert all(gmacs >= 0 for gmacs in parts.values())
    rest = parts["other"] / sum(parts.values())
    assert rest < 0.01 if recipe != "sddit-s" else rest < 0.2  # the loss makes SD-DiT's logits over the prototypes


def test_the_parts_of_the_forward_pass_name_the_modules():
    parts = costs("sddit-s").forward_parts
    assert parts["network.encoder"] * GIGA == pytest.approx(blocks(DEPTH, 205))
    assert parts["discrimination.teacher"] > parts["network.encoder"]
    assert parts["network.decoder"] > 0
