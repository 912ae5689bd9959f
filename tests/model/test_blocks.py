"""The DiT block against its own definition."""

from dataclasses import replace

import pytest
import torch
from small import trained_a_little
from torch.nn import functional as F

from harness.model.nn.blocks import DiTBlock, ModulatedLinear, TanhGelu, linear
from harness.model.shape import Shape

SHAPE = Shape(channels=1, side=8, num_classes=10, patch=2, width=16, depth=1, num_heads=2)


def plain_block(block: DiTBlock, x, cond, bias=None):
    """DiT Fig. 3, adaLN-Zero, written out with matrix products."""
    shift1, scale1, gate1, shift2, scale2, gate2 = (F.silu(cond) @ block.adaln.weight.T + block.adaln.bias).chunk(6, -1)

    def norm(v):
        return (v - v.mean(-1, keepdim=True)) / (v.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()

    def attention(v):
        heads = block.attn.num_heads
        width = v.shape[-1] // heads
        q, k, w = block.attn.qkv(v).chunk(3, -1)
        outs = []
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            logits = q[..., part] @ k[..., part].transpose(1, 2) / width**0.5
            outs.append((logits + (0 if bias is None else bias[:, h])).softmax(-1) @ w[..., part])
        return block.attn.out(torch.cat(outs, -1))

    x = x + gate1[:, None] * attention(norm(x) * (1 + scale1[:, None]) + shift1[:, None])
    return x + gate2[:, None] * block.mlp(norm(x) * (1 + scale2[:, None]) + shift2[:, None])


@pytest.mark.parametrize("cond_width", [None, 24])
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_block_equals_its_formula(cond_width, with_bias):
    torch.manual_seed(0)
    block = trained_a_little(DiTBlock(SHAPE, cond_width))
    x, cond = torch.randn(3, 5, 16), torch.randn(3, cond_width or 16)
    bias = torch.randn(3, 2, 5, 5) if with_bias else None
    torch.testing.assert_close(block(x, cond, bias), plain_block(block, x, cond, bias))


def test_an_untrained_block_is_the_identity():
    x = torch.randn(2, 5, 16)
    assert torch.equal(DiTBlock(SHAPE)(x, torch.randn(2, 16)), x)


def test_a_block_does_not_care_for_the_order_of_tokens():
    block = trained_a_little(DiTBlock(SHAPE))
    x, cond, order = torch.randn(2, 6, 16), torch.randn(2, 16), torch.randperm(6)
    torch.testing.assert_close(block(x, cond)[:, order], block(x[:, order], cond))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="5 attention heads do not divide a width of 16"):
        DiTBlock(replace(SHAPE, num_heads=5))


def test_a_modulated_linear_layer_shifts_and_scales_the_normalised_tokens():
    layer = trained_a_little(ModulatedLinear(8, 4, linear(8, 3)))
    x, cond = torch.randn(2, 5, 8), torch.randn(2, 4)
    shift, scale = layer.adaln(F.silu(cond)).chunk(2, -1)
    expected = layer.out(F.layer_norm(x, (8,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None])
    torch.testing.assert_close(layer(x, cond), expected)


def test_the_activation_is_one_function_compiled_or_not():
    """With its gradient, in float64, out to where it is zero or the identity."""
    gelu = TanhGelu()
    x = torch.linspace(-40, 40, 2001, dtype=torch.float64, requires_grad=True)
    plain = gelu(x)
    torch._dynamo.reset()
    compiled = torch.compile(gelu, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(compiled, plain, rtol=1e-12, atol=1e-14)
    both = [torch.autograd.grad(y.sum(), x)[0] for y in (plain, compiled)]
    torch.testing.assert_close(*both, rtol=1e-11, atol=1e-13)
