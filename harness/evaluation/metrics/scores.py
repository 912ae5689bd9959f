"""What a classifier's outputs say of the images alone: inception score, its trust in their order, class accuracy.

N images, K classes, B images of a block, S shuffles.
"""

import torch
from torch import Tensor

from harness.recipes.seeds import mix

SCORE_BLOCK = 5_000  # images of one inception score; a set's score is the mean over its blocks, as in ADM
SHUFFLES = 10
SUSPICIOUS_SHARE = 0.01  # a loss of score below this is not worth a warning, however many deviations it is
SUSPICIOUS_DEVIATIONS = 6


def inception_score(logits: Tensor) -> float:  # (N, K)
    """exp of the mean divergence of an image's classes from all images' classes (Salimans et al. 2016).

    Taken over consecutive blocks of 5,000 images in the order given and averaged, as ADM's evaluator does, in float64.
    Images sorted by class therefore score far too low: see `order_suspicion`.
    """
    in_order = torch.arange(len(logits)) // SCORE_BLOCK
    return _scores(logits, in_order[None])[0].item()


def order_suspicion(logits: Tensor, seed: int = 0) -> str | None:  # (N, K)
    """Why the inception score of these images is wrong: they are not in random order. None: they may well be.

    Of one block the order cannot matter. Of several, the score in the order given is compared with those of 10 shuffles
    that `seed` decides.
    """
    if len(logits) <= SCORE_BLOCK:
        return None
    generator = torch.Generator().manual_seed(mix("order", seed))
    in_order = torch.arange(len(logits)) // SCORE_BLOCK
    shuffled = [in_order[torch.randperm(len(logits), generator=generator)] for _ in range(SHUFFLES)]
    scores = _scores(logits, torch.stack([in_order, *shuffled]))
    given, mean, deviation = scores[0].item(), scores[1:].mean().item(), scores[1:].std().item()
    if mean - given <= max(SUSPICIOUS_DEVIATIONS * deviation, SUSPICIOUS_SHARE * mean):
        return None
    return (
        f"the inception score would be {given:.2f} in the order given against {mean:.2f} in random order: images are "
        f"sorted by class or the like, and the score is taken over blocks of {SCORE_BLOCK:,}. Shuffle the images."
    )


def _scores(logits: Tensor, block_of: Tensor) -> Tensor:  # (N, K), (S, N) -> (S,)
    """The score for each of several ways to cut the images into blocks, in one pass over them.

    The divergence of a block is the mean of its images' negative entropies less the negative entropy of their mean.
    """
    num_blocks = int(block_of.max()) + 1
    flat = block_of + num_blocks * torch.arange(len(block_of))[:, None]  # a number for every block of every way
    sums = torch.zeros(int(flat.max()) + 1, logits.shape[1], dtype=torch.float64)
    negative_entropies, counts = torch.zeros(2, len(sums), dtype=torch.float64)
    for part, places in zip(logits.split(SCORE_BLOCK), flat.split(SCORE_BLOCK, dim=1), strict=True):
        log_shares = part.double().log_softmax(1)
        shares = log_shares.exp()
        members = torch.zeros(len(sums), len(part), dtype=torch.float64).scatter_(0, places, 1)
        sums += members @ shares
        negative_entropies += members @ (shares * log_shares).sum(1)
        counts += members.sum(1)
    means = sums / counts[:, None]
    divergences = negative_entropies / counts - torch.xlogy(means, means).sum(1)
    return divergences.exp().view(len(block_of), num_blocks).mean(1)


def class_accuracy(logits: Tensor, labels: Tensor) -> float:  # (N, K), (N,)
    """Share of images that the network takes for the class that was asked for."""
    return (logits.argmax(1) == labels.cpu()).double().mean().item()
