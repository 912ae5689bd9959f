"""What lies between the products of `soft_cross_entropy`, as one kernel: each logit is read once and written once.

Imported only where there are GPU tensors, since Triton is not installed everywhere. With TRITON_INTERPRET=1 in the
environment before Triton is imported, it runs on a CPU.
K prototypes, R rows of a chunk.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

LARGEST_ROW = 16_384  # of both distributions in the registers of one program, 32 values of each to a thread


def takes(logits: Tensor) -> bool:
    """Whether `rows` can work on these: it computes in float32, and holds whole rows."""
    return logits.dtype in (torch.float32, torch.bfloat16, torch.float16) and logits.shape[1] <= LARGEST_ROW


def rows(
    logits: Tensor,
    teacher_logits: Tensor,
    centre: Tensor,
    student_temperature: float,
    teacher_temperature: Tensor,
    *,
    gradients: bool,
) -> tuple[Tensor, Tensor | None]:
    """Cross-entropies, and softmax(student) - softmax(teacher) over the student's logits.   (R, K) -> (R,), (R, K)

    `centre` is (K,), `teacher_temperature` 0-dim: it is read on the device.
    """
    num_rows, num_prototypes = logits.shape
    block = triton.next_power_of_2(num_prototypes)
    losses = logits.new_empty(num_rows, dtype=torch.float32)
    with torch.cuda.device_of(logits):
        _rows[(num_rows,)](
            logits, teacher_logits, centre.contiguous(), teacher_temperature, losses, 1 / student_temperature,
            num_prototypes, BLOCK=block, GRADIENTS=gradients, num_warps=min(max(block // 512, 1), 16),
            enable_fp_fusion=True,  # a * b + c may be rounded once; Triton 3.9 warns if this is not set
        )  # fmt: skip
    return losses, logits if gradients else None


@triton.jit
def _rows(
    logits, teacher_logits, centre, teacher_temperature, losses, student_scale, num_prototypes,
    BLOCK: tl.constexpr, GRADIENTS: tl.constexpr,
):  # fmt: skip
    """One row.   All arrays are contiguous."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < num_prototypes
    place = row * num_prototypes + column
    outside = float("-inf")  # has no part in a maximum, and no probability
    student = tl.load(logits + place, mask=inside, other=outside).to(tl.float32) * student_scale
    teacher = tl.load(teacher_logits + place, mask=inside, other=outside).to(tl.float32)
    teacher = (teacher - tl.load(centre + column, mask=inside, other=0.0)) * (1.0 / tl.load(teacher_temperature))
    student -= tl.max(student, 0)
    teacher -= tl.max(teacher, 0)
    student_exp, teacher_exp = tl.exp(student), tl.exp(teacher)
    student_sum = tl.sum(student_exp, 0)
    target = teacher_exp * (1.0 / tl.sum(teacher_exp, 0))  # a division a row: one an element is as slow as its exp
    cross = tl.where(inside, target * (tl.log(student_sum) - student), 0.0)  # outside, it would be 0 times infinity
    tl.store(losses + row, tl.sum(cross, 0))
    if GRADIENTS:
        tl.store(logits + place, student_exp * (1.0 / student_sum) - target, mask=inside)
