"""Cross-entropy between two softmax distributions over so many prototypes that their logits must never all exist.

At SD-DiT's S/2 the logits of one batch, 256 x 204 patches over K = 8192, are 1.7 GB in float32 for the student and the
same again for the teacher; the plain formula keeps several such arrays for its backward pass. Here the rows are worked
through in chunks. The loss is a mean, so its gradients are known up to a factor as soon as a chunk's logits are: both
gradients' products follow at once, the logits are forgotten, and the backward pass only multiplies by that factor.
The matrix products are those of the plain formula, four in all; a kernel that recomputed logits would take six.

N rows, Z width of an embedding, K prototypes, R rows of a chunk.
"""

from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Bytes of one chunk's logits, in the dtype of the products. On a CPU, of each thread's part: its few arrays then stay
# in a core's own cache (at K = 8192, where Z sets the rows, in the one that cores share). On a GPU it is 4,096 rows of
# K = 8192 in bf16: each product fills the processors, the batch above takes some hundred launches, and an L2 cache of
# 50 MB still holds a good part of what is written when it is read. That one is reasoned, not measured.
CPU_CHUNK_BYTES = 2**19
GPU_CHUNK_BYTES = 2**26


class Logits(NamedTuple):
    """Logits that are not multiplied out: embeddings @ prototypes.T."""

    embeddings: Tensor  # (..., Z)
    prototypes: Tensor  # (K, Z)

    def multiplied(self) -> Tensor:  # (..., K)
        return F.linear(self.embeddings, self.prototypes)


def soft_cross_entropy(
    student: Logits, teacher: Logits, *, centre: Tensor, student_temperature: float, teacher_temperature: Tensor
) -> Tensor:
    """Mean over rows of the cross-entropy of softmax(student / tau_S) to softmax((teacher - centre) / tau_T).   -> ()

    SD-DiT (arXiv:2403.17004) eq. 10-12, DINO (arXiv:2104.14294) eq. 2. `centre` is (K,), `teacher_temperature` 0-dim
    and on the device, so that it may change without a step being compiled anew. Gradients reach the student alone, and
    there is no second derivative. Products are in autocast's dtype, everything between them at least in float32. Raises
    ValueError when student and teacher differ in their rows or prototypes.
    """
    embeddings, targets = student.embeddings.flatten(0, -2), teacher.embeddings.detach().flatten(0, -2)
    if len(embeddings) != len(targets) or len(student.prototypes) != len(teacher.prototypes):
        raise ValueError(
            f"the student has {len(embeddings)} rows over {len(student.prototypes)} prototypes, the teacher "
            f"{len(targets)} over {len(teacher.prototypes)}; give both the same rows and as many prototypes."
        )
    compute = _as_one_operation if torch.compiler.is_compiling() else _LossAndProducts.apply
    loss, _, _ = compute(
        embeddings,
        student.prototypes,
        targets,
        teacher.prototypes.detach(),
        centre.detach(),
        student_temperature,
        teacher_temperature.detach(),
        _product_dtype(embeddings),
        torch.is_grad_enabled() and (embeddings.requires_grad or student.prototypes.requires_grad),
    )
    return loss


def plain_soft_cross_entropy(
    student: Logits, teacher: Logits, *, centre: Tensor, student_temperature: float, teacher_temperature: Tensor
) -> Tensor:
    """The formula of `soft_cross_entropy` as it is written, for comparison: it keeps arrays of N x K.   -> ()"""
    with torch.no_grad():
        target = F.softmax((_wide(teacher.multiplied()) - centre) / teacher_temperature, dim=-1)
    return -(target * F.log_softmax(_wide(student.multiplied()) / student_temperature, dim=-1)).sum(-1).mean()


def _loss_and_products(
    embeddings: Tensor,  # (N, Z)
    prototypes: Tensor,  # (K, Z)
    targets: Tensor,  # (N, Z)
    target_prototypes: Tensor,  # (K, Z)
    centre: Tensor,  # (K,)
    student_temperature: float,
    teacher_temperature: Tensor,  # ()
    dtype: torch.dtype,
    gradients: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss; and if asked for, else empty, its gradients times N tau_S.   -> (), (N, Z), (K, Z)

    The factor is left out so that bf16 holds numbers near 1. The prototypes' gradient is summed in float32.
    """
    embeddings, prototypes = embeddings.detach(), prototypes.detach().to(dtype)
    target_prototypes = target_prototypes.to(dtype)
    rows = _chunk_rows(prototypes)
    losses, products = [], []
    total = prototypes.new_zeros(prototypes.shape if gradients else 0, dtype=_wider(dtype))
    for part, target in zip(embeddings.split(rows), targets.split(rows), strict=True):
        loss, product = _chunk(
            part.to(dtype), prototypes, Logits(target.to(dtype), target_prototypes), centre, student_temperature,
            teacher_temperature, total if gradients else None,
        )  # fmt: skip
        losses.append(loss)
        if product is not None:
            products.append(product)
    return torch.cat(losses).mean(), torch.cat(products) if gradients else embeddings.new_empty(0, dtype=dtype), total


def _chunk(
    embeddings: Tensor, prototypes: Tensor, teacher: Logits, centre, student_temperature, teacher_temperature,
    total: Tensor | None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Losses of R rows and, where `total` (K, Z) is given to be added to, their embeddings' gradient.   -> (R,), (R, Z)

    The logits of a chunk end with this call, before those of the next one.
    """
    logits = F.linear(embeddings, prototypes)  # (R, K)
    losses, difference = _rows_function(logits)(
        logits, teacher.multiplied(), centre, student_temperature, teacher_temperature, gradients=total is not None
    )
    if total is None:
        return losses, None
    if difference.dtype == total.dtype:
        torch.addmm(total, difference.T, embeddings, out=total)
    else:
        total.add_(difference.T @ embeddings)
    return losses, difference @ prototypes


def _rows(
    logits: Tensor, teacher_logits: Tensor, centre, student_temperature, teacher_temperature, *, gradients: bool
) -> tuple[Tensor, Tensor | None]:
    """Cross-entropies, and softmax(student) - softmax(teacher) in the logits' dtype.   (R, K) -> (R,), (R, K)"""
    student = _wide(logits).div_(student_temperature)  # in place, here and below: the logits are not needed again
    teacher = _wide(teacher_logits).sub_(centre).div_(teacher_temperature)
    target, log_softmax = F.softmax(teacher, dim=-1), F.log_softmax(student, dim=-1)
    difference = torch.exp(log_softmax, out=student).sub_(target).to(logits.dtype) if gradients else None
    return -log_softmax.mul_(target).sum(-1), difference


def _rows_function(logits: Tensor):
    """`_rows`, or its one kernel for a GPU, which takes what a row in registers can be."""
    if logits.is_cuda and _has_triton():
        from harness.model.nn import soft_cross_entropy_triton

        if soft_cross_entropy_triton.takes(logits):
            return soft_cross_entropy_triton.rows
    return _rows


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


# Gradients -------------------------------------------------------------------------------------------------------


def _keep_products(ctx, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    embeddings, prototypes, *_, student_temperature, _, _, _ = inputs
    _, *products = output
    ctx.mark_non_differentiable(*products)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*products)
    ctx.dtypes = embeddings.dtype, prototypes.dtype
    ctx.factor = 1 / (len(embeddings) * student_temperature)


def _scale_products(ctx, grad_loss: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    factor = grad_loss * ctx.factor
    scaled = (product.to(dtype) * factor for product, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True))
    return *scaled, *[None] * 7


class _LossAndProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs):
        output = _loss_and_products(*inputs)
        _keep_products(ctx, inputs, output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        return _scale_products(ctx, *gradients)


# For a compiler, one operation. If it saw the products, it could put off to the backward pass those that the loss does
# not need, and keep all logits until then, or work on several chunks at a time.
_as_one_operation = torch.library.custom_op("harness::soft_cross_entropy", _loss_and_products, mutates_args=())
_as_one_operation.register_autograd(_scale_products, setup_context=_keep_products)


@_as_one_operation.register_fake
def _shapes(embeddings, prototypes, targets, target_prototypes, centre, temperature_s, temperature_t, dtype, gradients):
    wide = _wider(dtype)
    return (
        embeddings.new_empty((), dtype=wide),
        embeddings.new_empty(embeddings.shape if gradients else 0, dtype=dtype),
        prototypes.new_empty(prototypes.shape if gradients else 0, dtype=wide),
    )


# Dtypes and sizes ------------------------------------------------------------------------------------------------


def _chunk_rows(prototypes: Tensor) -> int:
    """Rows of a chunk. At least Z: it also reads and writes arrays of K x Z, which its own K x R should outweigh."""
    on_cpu, (num_prototypes, width) = prototypes.device.type == "cpu", prototypes.shape
    chunk_bytes = CPU_CHUNK_BYTES if on_cpu else GPU_CHUNK_BYTES
    rows = max(width, chunk_bytes // (num_prototypes * prototypes.element_size()))
    return rows * torch.get_num_threads() if on_cpu else rows


def _product_dtype(x: Tensor) -> torch.dtype:
    """The dtype that autocast, where it is on, gives a product of x; it leaves float64 alone."""
    device = x.device.type
    lowers = device != "meta" and torch.is_autocast_enabled(device) and x.dtype != torch.float64
    return torch.get_autocast_dtype(device) if lowers else x.dtype


def _wider(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _wide(x: Tensor) -> Tensor:
    return x.to(_wider(x.dtype))
