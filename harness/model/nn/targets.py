"""What the targets of self-distillation say: their entropy, and how much they tell about the image.

A target is softmax((teacher - centre) / tau). When all targets are alike, a student can learn from them nothing but
their mean. The mutual information of prototype and row, H(mean target) - mean H(target), is then 0.

N rows, Z width of an embedding, K prototypes. Entropies are in nats.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.model.nn.soft_cross_entropy import Logits


def mean_target_and_entropy(teacher: Logits, centre: Tensor, temperature: Tensor) -> Tensor:
    """The mean target of the rows, and after it the mean of their entropies, in float32.   (N, Z), (K,), () -> (K + 1,)

    Both are means, so those of parts of a batch add up to the batch's, each weighted by its share.
    """
    logits = (teacher.multiplied().float() - centre) / temperature  # (N, K)
    target = F.softmax(logits, dim=-1)
    entropy = torch.special.entr(target).sum(-1)  # (N,)
    return torch.cat([target.mean(0), entropy.mean(0, keepdim=True)])


def entropy_and_information(means: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
    """From such means, a row for each name: entropy/<name>, the targets' mean, and information/<name>, the mutual one.

    (len(names), K + 1) -> (), (), ... The information of N rows is at most ln N, whatever K is.
    """
    entropies = means[:, -1].clone()  # the sums are set to zero after this
    information = torch.special.entr(means[:, :-1]).sum(-1) - entropies
    found = {"entropy": entropies, "information": information}
    return {f"{what}/{name}": row for what, rows in found.items() for name, row in zip(names, rows, strict=True)}
