"""SD-DiT's cross-entropy, forward and backward, in chunks and as written. Recorded, never gated: `make bench`."""

import pytest
import torch
from torch.nn import functional as F

from harness.model.nn.soft_cross_entropy import Logits, plain_soft_cross_entropy, soft_cross_entropy

SIZES = {"tiny": (64 * 12, 256, 64), "s": (8 * 204, 8192, 256)}  # rows N, prototypes K, width Z; "s" with 8 images


@pytest.mark.parametrize("loss", [soft_cross_entropy, plain_soft_cross_entropy], ids=["chunked", "plain"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("size", SIZES)
def test_soft_cross_entropy(benchmark, size, precision, loss):
    rows, prototypes, width = SIZES[size]
    z, w, target_z, target_w = (F.normalize(torch.randn(n, width), dim=-1) for n in (rows, prototypes) * 2)
    student, teacher = Logits(z.requires_grad_(), w.requires_grad_()), Logits(target_z, target_w)
    centre, temperature = torch.randn(prototypes) / 100, torch.tensor(0.09)

    def forward_backward():
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            value = loss(student, teacher, centre=centre, student_temperature=0.1, teacher_temperature=temperature)
        torch.autograd.grad(value, student)

    benchmark.extra_info["rows, prototypes, width"] = SIZES[size]
    benchmark.extra_info["threads"] = torch.get_num_threads()
    benchmark.pedantic(forward_backward, rounds=50 if size == "tiny" else 5, warmup_rounds=1)
    benchmark.extra_info["matrix_flops_per_second"] = 8 * rows * prototypes * width / benchmark.stats.stats.median
