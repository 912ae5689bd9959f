"""What the blocks can be made of besides DiT's parts: SwiGLU, RMSNorm, rotary positions, normalised queries and keys.

B batch, H heads, L tokens, E width of a head.
"""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from small import small_config, tiny_config, trained_a_little

import baselines
from harness.data.order import batch_indices
from harness.model.method import Batch, Progress
from harness.model.nn import blocks, rotary
from harness.model.nn.asymmetric import Encoder
from harness.model.nn.blocks import Attention, DiTBlock, RMSNorm, SwiGLU
from harness.model.nn.rotary import Rotary
from harness.model.randomness import Draw, seed_step
from harness.model.shape import Shape, shape_of
from harness.records.looks import formulation_title
from harness.system.errors import UsageError

SHAPE = Shape(channels=1, side=8, num_classes=10, patch=2, width=16, depth=3, num_heads=2)  # 16 tokens
SETTINGS = {"mlp": "swiglu", "norm": "rms", "rotary": True, "qk_norm": True}
ALL = [f"{name}={str(value).lower()}" for name, value in SETTINGS.items()]
ROOMY = {  # heads of every block four or more wide, which rotary positions need
    "edt": ["stage_heads=[1,1]"], "maskdit": ["decoder_heads=1"], "sddit": ["decoder_heads=1"],
}  # fmt: skip


def with_all(name: str, *assignments: str):
    return small_config(name, *ROOMY.get(name, []), *assignments, *ALL)


# Each by itself ----------------------------------------------------------------------------------------------------


def test_rms_norm_divides_by_the_root_of_the_mean_square_and_multiplies_by_its_scale():
    norm, x = trained_a_little(RMSNorm(8)), torch.randn(3, 5, 8) * 4 + 2
    expected = norm.weight * x / (x.square().sum(-1, keepdim=True) / 8 + 1e-6).sqrt()
    torch.testing.assert_close(norm(x), expected)


def test_rms_norm_computes_in_float32_and_gives_the_precision_it_got():
    norm, x = trained_a_little(RMSNorm(8)), torch.randn(3, 8).bfloat16()
    assert norm(x).dtype == torch.bfloat16
    assert torch.equal(norm(x), norm(x.float()).bfloat16())


def test_swiglu_is_its_formula():
    mlp, x = trained_a_little(SwiGLU(9)), torch.randn(2, 5, 9)
    (w1, w2), (b1, b2) = mlp.gates.weight.chunk(2), mlp.gates.bias.chunk(2)
    gate = x @ w1.T + b1
    hidden = gate / (1 + torch.exp(-gate)) * (x @ w2.T + b2)
    torch.testing.assert_close(mlp(x), hidden @ mlp.out.weight.T + mlp.out.bias)


@pytest.mark.parametrize("width", [16, 64, 384, 768, 1024, 1152])
def test_a_swiglu_block_has_the_weights_of_three_matrices_two_thirds_as_wide(width):
    """LightningDiT's repository: int(2 / 3 x int(4 D))."""
    hidden = int(2 / 3 * int(4.0 * width))
    shape = replace(SHAPE, width=width, mlp="swiglu")
    with torch.device("meta"):
        counted = sum(p.numel() for p in DiTBlock(shape).parameters())
    attention, modulation = 4 * width**2 + 4 * width, 6 * width**2 + 6 * width
    assert counted == attention + modulation + 3 * width * hidden + 2 * hidden + width


def test_queries_and_keys_are_normalised_head_by_head_before_they_meet():
    attention, x = trained_a_little(Attention(replace(SHAPE, qk_norm=True))), torch.randn(2, 5, 16)
    q, k, v = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in attention.qkv(x).chunk(3, -1))  # (B, H, L, E)
    q, k = (
        scale.weight * part / (part.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        for scale, part in ((attention.norm_q, q), (attention.norm_k, k))
    )
    out = (q @ k.transpose(-1, -2) / math.sqrt(8)).softmax(-1) @ v
    torch.testing.assert_close(attention(x), attention.out(out.transpose(1, 2).flatten(2)))


def test_normalised_queries_and_keys_do_not_care_how_long_they_were():
    attention, x = trained_a_little(Attention(replace(SHAPE, qk_norm=True))), torch.randn(2, 5, 16)
    with torch.no_grad():
        before = attention(x)
        attention.qkv.weight[:32] *= 100
        attention.qkv.bias[:32] *= 100
    torch.testing.assert_close(attention(x), before)


# Rotary positions --------------------------------------------------------------------------------------------------


def products(query: torch.Tensor, key: torch.Tensor, grid: int) -> torch.Tensor:
    """Of this query and this key at every two places.   (E,), (E,) -> (L, L)"""
    turned = Rotary(grid, len(query))
    q, k = (turned(part.expand(1, 1, grid**2, -1), None)[0, 0] for part in (query, key))
    return q @ k.T


def test_a_product_of_turned_queries_and_keys_depends_on_the_difference_of_their_places_alone():
    torch.manual_seed(0)
    grid, found = 4, {}
    logits = products(torch.randn(8), torch.randn(8), grid)
    for a in range(grid**2):
        for b in range(grid**2):
            difference = (a // grid - b // grid, a % grid - b % grid)
            found.setdefault(difference, []).append(logits[a, b].item())
    assert len(found) == 49
    for values in found.values():
        assert values == pytest.approx([values[0]] * len(values), abs=1e-5)
    means = sorted(values[0] for values in found.values())
    assert min(b - a for a, b in pairwise(means)) > 1e-5  # and no two differences are alike


def test_a_turn_keeps_lengths_and_leaves_place_0_as_it_was():
    x = torch.randn(2, 3, 16, 8)
    turned = Rotary(4, 8)(x, None)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[:, :, 0], x[:, :, 0])
    assert not torch.allclose(turned[:, :, 1], x[:, :, 1])


def test_the_angles_are_the_row_s_and_the_column_s_times_frequencies_that_fall_to_one_ten_thousandth():
    """RoFormer eq. 15 for each half of a head: theta_i = 10000^(-2 i / d), here with d = 4."""
    turned, x = Rotary(4, 8), torch.zeros(1, 1, 16, 8)
    x[..., ::2] = 1  # the first of each pair
    row, column = 2, 3
    angles = [row, row / 100, column, column / 100]
    expected = [f(angle) for angle in angles for f in (math.cos, math.sin)]
    assert turned(x, None)[0, 0, 4 * row + column].tolist() == pytest.approx(expected, abs=1e-6)


def test_kept_tokens_are_turned_by_their_own_places():
    x, keep = torch.randn(2, 3, 16, 8), torch.stack([torch.randperm(16)[:6] for _ in range(2)])
    turned = Rotary(4, 8)
    places = keep[:, None, :, None].expand(-1, 3, -1, 8)
    assert torch.equal(turned(x.gather(2, places), keep), turned(x, None).gather(2, places))


def test_heads_too_narrow_to_be_turned_are_refused():
    with pytest.raises(ValueError, match="a multiple of 4, not 6"):
        Attention(replace(SHAPE, width=12, rotary=True))


@torch.no_grad()
def test_a_class_token_is_not_turned_and_the_patches_behind_it_keep_their_places():
    shape = replace(SHAPE, rotary=True)
    encoder = trained_a_little(Encoder(shape, cls_token=True))
    embedded, cond = torch.randn(2, 16, 16), torch.randn(2, 16)
    order = torch.arange(16).expand(2, -1)
    torch.testing.assert_close(encoder(embedded, cond, order), encoder(embedded, cond, None))
    shuffled = torch.stack([torch.randperm(16) for _ in range(2)])
    found = encoder(embedded, cond, shuffled)[:, 1:]
    expected = encoder(embedded, cond, None)[:, 1:].gather(1, shuffled[..., None].expand(-1, -1, 16))
    torch.testing.assert_close(found, expected)


# In every method ---------------------------------------------------------------------------------------------------


def test_by_default_nothing_of_it_is_there():
    block = DiTBlock(SHAPE)
    assert {type(m) for m in block.modules()}.isdisjoint({RMSNorm, SwiGLU, Rotary})
    assert {name for name, _ in block.named_parameters()} == {
        f"{layer}.{kind}"
        for layer in ("attn.qkv", "attn.out", "mlp.0", "mlp.2", "adaln")
        for kind in ("weight", "bias")
    }


@pytest.mark.parametrize("name", baselines.names())
def test_every_method_takes_every_setting_in_all_its_blocks_and_layers(name, digits):
    cfg = with_all(name)
    method = baselines.build(cfg)
    for frozen in method.frozen.values():
        frozen.load(torch.device("cpu"))
    trained_a_little(method)
    own = [m for m in method.network.modules() if isinstance(m, DiTBlock)]
    assert own
    for block in own:
        assert isinstance(block.mlp, SwiGLU)
        assert block.attn.norm_q is not None
        assert block.attn.rotary is not None
    assert not [m for m in method.network.modules() if isinstance(m, torch.nn.LayerNorm)]
    seed_step(0, 0)
    clean, labels = digits.read(batch_indices(len(digits), 0, 0, 8))
    method(Batch(clean, labels), Progress(0.5, 2.0), Draw.all_of(clean))["loss"].backward()
    assert not [n for n, p in method.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]


@pytest.mark.parametrize("name", ["tread", "sprint", "mdt", "maskdit", "sddit"])
def test_a_block_that_sees_some_tokens_is_told_their_places(name, digits, monkeypatch):
    seen = []
    turn = rotary.Rotary.forward
    monkeypatch.setattr(
        rotary.Rotary, "forward", lambda self, x, keep: (seen.append((x, keep)), turn(self, x, keep))[1]
    )
    method = baselines.build(with_all(name))
    clean, labels = digits.read(batch_indices(len(digits), 0, 0, 8))
    method(Batch(clean, labels), Progress(0.5, 2.0), Draw.all_of(clean))
    assert any(keep is not None and len(keep[0]) < 16 for _, keep in seen)
    assert all(x.shape[2] == (16 if keep is None else keep.shape[1]) for x, keep in seen)


@pytest.mark.parametrize(("setting", "value"), SETTINGS.items())
def test_each_setting_changes_the_block_and_the_run_s_name_and_its_default_does_not(setting, value):
    plain, other = tiny_config("sit"), tiny_config("sit", f"{setting}={str(value).lower()}")
    assert plain.run_id == "seed0-da32c67302"  # as before there were such settings
    assert other.run_id != plain.run_id
    assert getattr(shape_of(other), setting) == value
    assert formulation_title(other.model_dump(mode="json")) == f"flow, {setting} {value}"


def test_a_value_that_is_no_setting_of_a_block_is_refused():
    with pytest.raises(UsageError, match=r"norm \(block.norm\) is 'batch'; it must be 'layer' or 'rms'"):
        tiny_config("sit", "norm=batch")


def test_the_settings_of_a_recipe_of_before_build_the_network_of_before():
    """With the same random numbers, weight for weight."""
    torch.manual_seed(0)
    layers = [blocks.linear(16, 48), blocks.linear(16, 16), blocks.linear(16, 64), blocks.linear(64, 16)]
    torch.manual_seed(0)
    block = DiTBlock(SHAPE)
    for ours, layer in zip((block.attn.qkv, block.attn.out, block.mlp[0], block.mlp[2]), layers, strict=True):
        assert torch.equal(ours.weight, layer.weight)
