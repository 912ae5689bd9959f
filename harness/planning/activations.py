"""What the forward pass of a method keeps for its backward pass, counted by running it on shapes alone.

R images of a micro-batch, H heads, L tokens, E width of a head.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from harness.model.method import Method, Progress, batch_of_shapes
from harness.model.nn.blocks import DiTBlock, checkpointing
from harness.model.randomness import Draw
from harness.model.shape import Shape

Storages = dict[
    int, torch.UntypedStorage
]  # the keys are addresses; a storage is held so that no other takes its address


class KeptBytes(NamedTuple):
    """Besides the method's own tensors, each storage once."""

    activations: int
    weights: int  # autocast's copies of weights, one of each until the forward pass ends


def kept_bytes(
    method: Method, shape: Shape, *, batch_size: int, rows: int, bf16: bool, checkpointing: bool
) -> KeptBytes:
    """What `rows` images of a batch keep. Empty tensors take the place of the method's, wherever they are.

    With `checkpointing` a block of the network keeps what goes into it, and only one of them at a time its insides.
    """
    named = [*method.named_parameters(), *method.named_buffers()]
    own = {name: torch.empty_like(t, device="meta").requires_grad_(t.requires_grad) for name, t in named}
    ledger = _Ledger(own.values())
    blocks = [module for module in method.network.modules() if isinstance(module, DiTBlock)]
    as_on_gpu = _AsOnGpu(bf16=bf16)
    draw = Draw(batch_size, 0, rows, torch.device("meta"))
    with (
        as_on_gpu,
        saved_tensors_hooks(ledger.keep, lambda tensor: tensor),
        ledger.apart(blocks if checkpointing else []),
    ):
        torch.func.functional_call(method, own, (batch_of_shapes(method, shape, rows), Progress(0.0, 0.0), draw))
    return ledger.total(as_on_gpu.copies())


class _Ledger:
    """Storages that a forward pass keeps, those inside a block apart from the rest."""

    def __init__(self, own: Iterable[Tensor]):
        self._own = {_address(tensor) for tensor in own}
        self._rest: Storages = {}
        self._insides: list[Storages] = []
        self._open = self._rest

    def keep(self, tensor: Tensor) -> Tensor:
        if _address(tensor) not in self._own:
            self._open[_address(tensor)] = tensor.untyped_storage()
        return tensor

    @contextmanager
    def apart(self, blocks: Iterable[DiTBlock]) -> Iterator[None]:
        """Count each of these as one that computes its insides again, whether it would do so now or not."""

        def enter(block: DiTBlock, args: tuple, kwargs: dict) -> None:
            if torch.is_grad_enabled():
                for tensor in (*args, *kwargs.values()):
                    if isinstance(tensor, Tensor):
                        self.keep(tensor)
                self._open = {}

        def leave(block: DiTBlock, args: tuple, out: Tensor) -> None:
            if torch.is_grad_enabled():
                self._insides.append(self._open)
                self._open = self._rest

        blocks = list(blocks)
        hooks = [block.register_forward_pre_hook(enter, with_kwargs=True) for block in blocks]
        hooks += [block.register_forward_hook(leave) for block in blocks]
        try:
            with checkpointing(blocks, on=False):  # a checkpoint would hide what it keeps
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def total(self, copies: Iterable[Tensor]) -> KeptBytes:
        """`copies` of weights are counted apart, inside a block or not: their number is not that of the images."""
        of_weights = {_address(copy): copy.untyped_storage() for copy in copies}
        kept = self._rest.keys() | {address for inside in self._insides for address in inside}

        def size(storages: Storages) -> int:
            return sum(storage.nbytes() for address, storage in storages.items() if address not in of_weights)

        inside = [{a: s for a, s in inside.items() if a not in self._rest} for inside in self._insides]
        return KeptBytes(
            activations=size(self._rest) + max(map(size, inside), default=0),
            weights=sum(storage.nbytes() for address, storage in of_weights.items() if address in kept),
        )


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class _AsOnGpu(TorchFunctionMode):
    """Lets operations on shapes keep what they keep on a GPU: one fused attention, and autocast if `bf16`.

    torch.autocast does not reach the meta device. These are its lists for CUDA, as far as methods may need them.
    """

    lowered = (
        F.linear, F.scaled_dot_product_attention, torch.matmul, torch.bmm, Tensor.matmul, Tensor.__matmul__,
    )  # fmt: skip
    raised = (
        F.layer_norm, F.normalize, F.softmax, F.log_softmax, F.softplus, F.cross_entropy, torch.softmax, torch.exp,
        torch.log, torch.norm, torch.sum, Tensor.softmax, Tensor.log_softmax, Tensor.exp, Tensor.log, Tensor.norm,
        Tensor.sum, Tensor.pow, Tensor.__pow__, Tensor.rsqrt, Tensor.cumsum, Tensor.prod,
    )  # fmt: skip
    widened = (torch.addcmul, torch.addcdiv, Tensor.addcmul, Tensor.addcdiv, torch.cat, torch.stack)

    def __init__(self, *, bf16: bool):
        super().__init__()
        self._bf16 = bf16
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}  # one for each weight: (weight, copy)

    def copies(self) -> list[Tensor]:
        return [copy for _, copy in self._copies.values()]

    def __torch_function__(self, func: Callable, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        if self._bf16 and func in self.lowered:
            args, kwargs = self._cast(args, torch.bfloat16), self._cast(kwargs, torch.bfloat16)
        elif self._bf16 and (func in self.raised or (func in self.widened and _mixed(args))):
            args = self._cast(args, torch.float32)
        if func is F.scaled_dot_product_attention:
            return _FusedAttention.apply(*args[:3], kwargs.get("attn_mask"))
        return func(*args, **kwargs)

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, dict):
            return {name: self._cast(part, dtype) for name, part in value.items()}
        if isinstance(value, (tuple, list)):
            return type(value)(self._cast(part, dtype) for part in value)
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == dtype:
            return value
        if not (value.is_leaf and value.requires_grad) or value._is_view():
            return value.to(dtype)
        if id(value) not in self._copies:
            self._copies[id(value)] = value, value.to(dtype)
        return self._copies[id(value)][1]


def _mixed(args: Iterable[Any]) -> bool:
    parts = [part for arg in args for part in (arg if isinstance(arg, (tuple, list)) else [arg])]
    return len({part.dtype for part in parts if isinstance(part, Tensor) and part.is_floating_point()}) > 1


class _FusedAttention(torch.autograd.Function):
    """Keeps what fused kernels keep: the inputs, the output, and one number a row; never the L x L weights."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:  # (R, H, L, E)
        batch, heads, length, _ = q.shape
        out = v.new_empty(batch, length, heads, v.shape[-1]).transpose(1, 2)
        ctx.save_for_backward(q, k, v, out, q.new_empty(batch, heads, length, dtype=torch.float32), bias)
        return out
