"""THE DiT block, shared by every method, and the layer that reads its tokens out.

Peebles & Xie 2022 (arXiv:2212.09748), Sec. 3.2 and Fig. 3, adaLN-Zero.
B batch, L tokens, D width, E width of the conditioning, H heads, P values of a patch.
"""

import math
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """A linear layer as every layer of the block starts: Xavier-uniform weight, zero bias."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer that starts at zero, so that what it feeds is the identity, or zero, before training."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def layer_norm(width: int) -> nn.LayerNorm:
    """Without scale and shift of its own: the conditioning gives them."""
    return nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:  # (B, L, D), (B, D), (B, D) -> (B, L, D)
    """x (1 + scale) + shift, the same for all tokens of an image: DiT Sec. 3.2, adaLN."""
    return torch.addcmul(shift[:, None], x, 1 + scale[:, None])


class Attention(nn.Module):
    """Multi-head self-attention; one fused projection to queries, keys and values."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        if width % num_heads:
            raise ValueError(f"{num_heads} attention heads do not divide a width of {width}")
        self.num_heads = num_heads
        self.qkv = linear(width, 3 * width)
        self.out = linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:  # (B, L, D), (.., H, L, L) -> (B, L, D)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, H, L, D / H)
        return self.out(_attention(q, k, v, bias).transpose(1, 2).flatten(2))


def _attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:  # each (B, H, L, D / H)
    """softmax(q k^T / sqrt(D / H) + bias) v; in float32 where a CPU would compute it in bfloat16.

    torch's backward of attention on a CPU takes ten times as long in bfloat16 as in float32.
    """
    if q.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    with torch.autocast("cpu", enabled=False):
        mask = None if bias is None else bias.float()
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask)


class TanhGelu(nn.Module):
    """x (1 + tanh u) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3): Hendrycks & Gimpel 2016, arXiv:1606.08415, Sec. 2.

    A compiler gets it as x sigmoid(2 u), the same function: fused into one pass, a sigmoid is quicker than a tanh.
    """

    def forward(self, x: Tensor) -> Tensor:  # any shape
        if not torch.compiler.is_compiling():
            return F.gelu(x, approximate="tanh")
        return x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x * x))


class DiTBlock(nn.Module):
    """Attention and MLP whose shift, scale and gate come from the conditioning; the identity before training.

    In an asymmetric decoder the conditioning keeps the encoder's width, hence cond_width. `bias` is added to the
    attention logits (MDT's relative positions); the other methods have none. Where `checkpointed`, a training step
    keeps the block's inputs alone and computes its insides a second time in the backward pass.
    """

    checkpointed = False

    def __init__(self, width: int, num_heads: int, cond_width: int | None = None):
        super().__init__()
        self.norm_attn = layer_norm(width)
        self.norm_mlp = layer_norm(width)
        self.attn = Attention(width, num_heads)
        self.mlp = nn.Sequential(linear(width, 4 * width), TanhGelu(), linear(4 * width, width))
        self.adaln = zero_linear(cond_width or width, 6 * width)

    def forward(self, x: Tensor, cond: Tensor, bias: Tensor | None = None) -> Tensor:  # (B, L, D), (B, E) -> (B, L, D)
        if self.checkpointed and torch.is_grad_enabled():
            # Nothing random happens in a block, so the state of the generators need not be kept.
            return checkpoint(self._compute, x, cond, bias, use_reentrant=False, preserve_rng_state=False)
        return self._compute(x, cond, bias)

    def _compute(self, x: Tensor, cond: Tensor, bias: Tensor | None) -> Tensor:
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = self.adaln(F.silu(cond)).chunk(6, dim=-1)
        x = torch.addcmul(x, gate_attn[:, None], self.attn(modulate(self.norm_attn(x), shift_attn, scale_attn), bias))
        return torch.addcmul(x, gate_mlp[:, None], self.mlp(modulate(self.norm_mlp(x), shift_mlp, scale_mlp)))


def through(
    blocks: Iterable[nn.Module],
    x: Tensor,
    cond: Tensor,
    *context: Tensor | None,
    taps: Collection[int] = (),
    first: int = 0,
) -> tuple[Tensor, list[Tensor]]:
    """x after one block after another, and the outputs of the blocks whose numbers are in `taps`.   (B, L, D)

    The first of these blocks has the number `first`. Each is called with `context` behind its input and its
    conditioning.
    """
    tapped = []
    for number, block in enumerate(blocks, first):
        x = block(x, cond, *context)
        if number in taps:
            tapped.append(x)
    return x, tapped


class ModulatedLinear(nn.Module):
    """LayerNorm, shift and scale from the conditioning, a linear layer: between encoder and decoder, and at the end."""

    def __init__(self, width: int, cond_width: int, out: nn.Linear):
        super().__init__()
        self.norm = layer_norm(width)
        self.adaln = zero_linear(cond_width, 2 * width)
        self.out = out

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:  # (B, L, D), (B, E) -> (B, L, out)
        return self.out(modulate(self.norm(x), *self.adaln(F.silu(cond)).chunk(2, dim=-1)))


class Join(nn.Module):
    """A long skip (U-ViT, Bao et al. 2022, arXiv:2209.12152): tokens and earlier tokens side by side, a linear layer.

    It starts as the block's other layers do.
    """

    def __init__(self, width: int):
        super().__init__()
        self.linear = linear(2 * width, width)

    def forward(self, x: Tensor, earlier: Tensor) -> Tensor:  # (B, L, D), (B, L, D) -> (B, L, D)
        return self.linear(torch.cat([x, earlier], dim=-1)).to(x.dtype)  # or autocast would narrow what follows


def readout(width: int, patch_values: int, cond_width: int | None = None) -> ModulatedLinear:
    """The last layer, tokens -> patches (P values each). It starts at zero, so an untrained network outputs zero."""
    return ModulatedLinear(width, cond_width or width, zero_linear(width, patch_values))


@contextmanager
def checkpointing(blocks: Iterable[DiTBlock], on: bool) -> Iterator[None]:
    """Set whether these blocks compute their insides again in the backward pass; afterwards they are as before."""
    before = {block: block.checkpointed for block in blocks}
    for block in before:
        block.checkpointed = on
    try:
        yield
    finally:
        for block, checkpointed in before.items():
            block.checkpointed = checkpointed
