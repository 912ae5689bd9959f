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

from harness.model.nn.rotary import Rotary
from harness.model.shape import Norm, Shape


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


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean of x^2 + 1e-6), times a learned scale (Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4).

    It computes in float32, as LightningDiT's repository does.
    """

    def __init__(self, width: int):
        super().__init__(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:  # any shape of `width` values
        return super().forward(x.float()).to(x.dtype)


def normalisation(width: int, norm: Norm = "layer") -> nn.Module:
    """What stands before a modulation. The LayerNorm has no scale and shift of its own: the conditioning gives them."""
    return RMSNorm(width) if norm == "rms" else nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:  # (B, L, D), (B, D), (B, D) -> (B, L, D)
    """x (1 + scale) + shift, the same for all tokens of an image: DiT Sec. 3.2, adaLN."""
    return torch.addcmul(shift[:, None], x, 1 + scale[:, None])


class Attention(nn.Module):
    """Multi-head self-attention; one fused projection to queries, keys and values.

    With qk_norm, queries and keys pass an RMSNorm each, of a head's width (Esser et al. 2024, arXiv:2403.03206, Sec.
    5.3.2); then, with rotary positions, both are turned. LightningDiT's repository has the same order.
    """

    def __init__(self, shape: Shape):
        super().__init__()
        width, self.num_heads = shape.width, shape.num_heads
        if width % self.num_heads:
            raise ValueError(f"{self.num_heads} attention heads do not divide a width of {width}")
        self.qkv = linear(width, 3 * width)
        self.out = linear(width, width)
        head = width // self.num_heads
        self.norm_q, self.norm_k = (RMSNorm(head) if shape.qk_norm else None for _ in range(2))
        self.rotary = Rotary(shape.grid, head) if shape.rotary else None

    def forward(self, x: Tensor, bias: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        """`keep` are the places of the tokens where they are not all; only rotary positions ask for them.

        (B, L, D), (.., H, L, L), (B, L) -> (B, L, D)
        """
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, H, L, D / H)
        if self.norm_q is not None and self.norm_k is not None:
            q, k = self.norm_q(q), self.norm_k(k)
        if self.rotary is not None:
            q, k = self.rotary(q, keep), self.rotary(k, keep)
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


class SwiGLU(nn.Module):
    """W3 (silu(W1 x) * W2 x), with biases (Shazeer 2020, arXiv:2002.05202, eq. 6), W1 and W2 in one layer.

    Its width is two thirds of 4 D, rounded down: as many weights as the MLP whose place it takes, and as in
    LightningDiT's repository.
    """

    def __init__(self, width: int):
        super().__init__()
        hidden = 8 * width // 3
        self.gates = linear(width, 2 * hidden)
        self.out = linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:  # (B, L, D) -> (B, L, D)
        gate, value = self.gates(x).chunk(2, dim=-1)
        return self.out(F.silu(gate) * value)


def mlp(shape: Shape) -> nn.Module:
    """DiT's two layers of width 4 D, or a SwiGLU."""
    width = shape.width
    if shape.mlp == "swiglu":
        return SwiGLU(width)
    return nn.Sequential(linear(width, 4 * width), TanhGelu(), linear(4 * width, width))


class DiTBlock(nn.Module):
    """Attention and MLP whose shift, scale and gate come from the conditioning; the identity before training.

    In an asymmetric decoder the conditioning keeps the encoder's width, hence cond_width. `bias` is added to the
    attention logits (MDT's relative positions); the other methods have none. `keep` are the places of the tokens, for
    rotary positions, where a method lets the block see some of them alone. Where `checkpointed`, a training step keeps
    the block's inputs alone and computes its insides a second time in the backward pass.
    """

    checkpointed = False

    def __init__(self, shape: Shape, cond_width: int | None = None):
        super().__init__()
        width = shape.width
        self.norm_attn = normalisation(width, shape.norm)
        self.norm_mlp = normalisation(width, shape.norm)
        self.attn = Attention(shape)
        self.mlp = mlp(shape)
        self.adaln = zero_linear(cond_width or width, 6 * width)

    def forward(self, x: Tensor, cond: Tensor, bias: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        """(B, L, D), (B, E), (.., H, L, L), (B, L) -> (B, L, D)"""
        if self.checkpointed and torch.is_grad_enabled():
            # Nothing random happens in a block, so the state of the generators need not be kept.
            return checkpoint(self._compute, x, cond, bias, keep, use_reentrant=False, preserve_rng_state=False)
        return self._compute(x, cond, bias, keep)

    def _compute(self, x: Tensor, cond: Tensor, bias: Tensor | None, keep: Tensor | None) -> Tensor:
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = self.adaln(F.silu(cond)).chunk(6, dim=-1)
        attended = self.attn(modulate(self.norm_attn(x), shift_attn, scale_attn), bias, keep)
        x = torch.addcmul(x, gate_attn[:, None], attended)
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
    """A norm, shift and scale from the conditioning, a linear layer: between encoder and decoder, and at the end."""

    def __init__(self, width: int, cond_width: int, out: nn.Linear, norm: Norm = "layer"):
        super().__init__()
        self.norm = normalisation(width, norm)
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


def readout(shape: Shape, out_channels: int, cond_width: int | None = None) -> ModulatedLinear:
    """The last layer, tokens -> patches (P values each). It starts at zero, so an untrained network outputs zero."""
    last = zero_linear(shape.width, out_channels * shape.patch**2)
    return ModulatedLinear(shape.width, cond_width or shape.width, last, shape.norm)


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
