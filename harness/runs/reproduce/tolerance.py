"""How far a re-run may be from its record, and why.

On a CPU of the same name, with the same threads, processes, packages and code, every number is the same to the last
bit, and anything else is a failure. Elsewhere sums are rounded otherwise, and training magnifies that. Measured: the
four committed demo runs, made on an Intel Xeon with two threads, trained again on an AMD EPYC with one. The largest
relative difference of any logged part of the loss, over lines of 20 steps:

               step 20    to step 100   to step 1,000
    DiT        0.00001%     0.0001%        2.2%
    MDT-lite   0.00001%     0.0001%        2.4%
    MaskDiT    0.0001%      0.13%          3.0%
    SD-DiT     0.07%        1.9%           2.8%

FIRST, EARLY and LATE are about two to three times the worst of each. The first lines are what tells a re-run from
another experiment: there a run of another seed, whose noise, labels and masks all differ, is more than FIRST away in
every committed run (a test holds this), while after hundreds of steps the averaged losses of two seeds come closer: of
lines of 100 steps, those of different seeds often lie within EARLY and LATE. So where a record has no line up to
FIRST_STEPS, as with the log_every of the larger recipes, its losses can refute a re-run and cannot confirm it. A re-run
that logged more often would not help: each line is the mean since the one before it, and the record has only its own.

Of the DiT run the images were drawn and measured again too. Untrained, where the weights are the seed's, its distances
agreed to 4e-15 and its shares to 1e-10; trained, to 5.4% (fd), 3.5% (sfd), 0.2% (is) and 0.004 of a share.
"""

from collections.abc import Iterable

FIRST_STEPS, FIRST = 30, 0.002  # relative, of every logged part of the loss up to this step
EARLY_STEPS, EARLY = 100, 0.04  # and up to this
LATE = 0.08  # and after it
METRIC, METRIC_UNTRAINED = 0.20, 0.01  # relative, of distances and scores, after training and before it
SHARE, SHARE_UNTRAINED = 0.05, 0.01  # absolute, of precision, recall and other shares between 0 and 1
# Kernel distances are differences of means and come out near zero, and below it: a share of such a value says nothing.
# These are chosen, not measured: small beside what either gives between sets of images that look different.
NEAR_ZERO = {"kid": 0.002, "cmmd": 0.05}  # absolute, allowed besides METRIC's share
SHARES = ("precision", "recall", "coverage", "class_accuracy", "precision_adm_fp16", "recall_adm_fp16")


def of_loss(step: int) -> float:
    """The relative difference that a loss logged at `step` may have."""
    if step <= FIRST_STEPS:
        return FIRST
    return EARLY if step <= EARLY_STEPS else LATE


def is_share(metric: str) -> bool:
    """Whether a metric lies between 0 and 1, where a relative difference says little near 0."""
    return metric.startswith(SHARES)


def of_metric(metric: str, step: int | None) -> tuple[float, bool]:
    """The difference that a metric of the network after `step` steps may have, and whether it is an absolute one."""
    absolute = is_share(metric)
    if step == 0:
        return (SHARE_UNTRAINED if absolute else METRIC_UNTRAINED), absolute
    return (SHARE if absolute else METRIC), absolute


def near_zero(metric: str) -> float:
    """The absolute difference that is allowed in any case; 0 for metrics that stay away from zero."""
    return next((allowed for name, allowed in NEAR_ZERO.items() if metric.startswith(name)), 0.0)


def can_tell_seeds_apart(steps: Iterable[int]) -> bool:
    """Whether losses logged at these steps distinguish a re-run from a run of another seed."""
    return min(steps, default=FIRST_STEPS + 1) <= FIRST_STEPS
