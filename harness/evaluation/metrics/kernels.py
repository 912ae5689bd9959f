"""Distances between sets by kernels: KID and CMMD.   N generated points, R of the reference, D numbers of one."""

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.system import torchvision_guard
from harness.system.precision import plain_fp32

SUBSETS, SUBSET_SIZE = 100, 1_000  # of KID, torch-fidelity's and clean-fid's defaults
CMMD_WIDTH, CMMD_SCALE = 10.0, 1_000.0  # sigma and the factor that makes values readable; Jayasumana et al., Sec. 4
BLOCK = 4096


def kernel_distance(generated: Tensor, reference: Tensor, seed: int = 0) -> float:  # (N, D), (R, D)
    """KID (Binkowski et al. 2018): the unbiased squared MMD of a cubic kernel, its mean over 100 random subsets.

    By torch-fidelity, of subsets of 1,000 or as many as there are. A value near 0 may be negative.
    """
    torchvision_guard.install()  # torch_fidelity imports torchvision, which takes seconds
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    values = kid_features_to_metric(
        generated,
        reference,
        kid_subsets=SUBSETS,
        kid_subset_size=min(SUBSET_SIZE, len(generated), len(reference)),
        rng_seed=seed,
        verbose=False,
    )
    return values[KEY_METRIC_KID_MEAN]


def cmmd(generated: Tensor, reference: Tensor, device: torch.device | str = "cpu") -> float:  # (N, D), (R, D)
    """CMMD (Jayasumana et al. 2024, arXiv:2401.09603): 1,000 times the squared MMD of a Gaussian kernel, all points.

    Of features of length 1, with sigma 10; the estimate is the biased one, as in the paper's code.
    """
    device = torch.device(device)
    x, y = (F.normalize(points.double()).float() for points in (generated, reference))
    with plain_fp32(device):
        mmd = _mean_kernel(x, x, device) + _mean_kernel(y, y, device) - 2 * _mean_kernel(x, y, device)
    return CMMD_SCALE * mmd


def _mean_kernel(x: Tensor, y: Tensor, device: torch.device) -> float:
    """The kernel's mean over all pairs, less 1.

    The kernel is within 2% of 1 everywhere, and the three means' ones cancel: without them float32 has digits to spare.
    """
    total = torch.zeros((), dtype=torch.float64)
    for number, u in enumerate(x.split(BLOCK)):
        for other, v in enumerate(y.split(BLOCK)):
            if x is y and other < number:
                continue  # the kernel is symmetric: a block beside the diagonal counts twice
            squared_distances = 2 - 2 * (u.to(device) @ v.to(device).T)
            part = torch.expm1(squared_distances / (-2 * CMMD_WIDTH**2)).sum(dtype=torch.float64).cpu()
            total += part * (2 if x is y and other > number else 1)
    return total.item() / (len(x) * len(y))
