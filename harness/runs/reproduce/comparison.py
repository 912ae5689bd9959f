"""A record and its re-run, number by number; how far they may differ, and why.

On a CPU of the same name, with the same threads, processes, packages and code, every number is the same to the last
bit, and anything else is a failure. Elsewhere sums are rounded otherwise, and training magnifies that. Measured: the
four committed demo runs, made on an Intel Xeon with two threads, trained again on an AMD EPYC with one. The largest
relative difference of any logged part of the loss, over lines of 20 steps:

               step 20    to step 100   to step 1,000
    DiT        0.00001%     0.0001%        2.2%
    MDT-lite   0.00001%     0.0001%        2.4%
    MaskDiT    0.0001%      0.13%          3.0%
    SD-DiT     0.07%        1.9%           2.8%

FIRST, EARLY and LATE are about two to three times the worst of each. Up to FIRST_STEPS a run of another seed is more
than FIRST away in every committed run (a test checks this). After hundreds of steps the averaged losses of two seeds
come closer, often within EARLY and LATE. So where a record has no line up to FIRST_STEPS, as with the log_every of the
larger recipes, its losses can refute a re-run and cannot confirm it. Logging more often in the re-run would not help:
each line is the mean since the line before it, and the record has only its own.

Of the DiT run the images were drawn and measured again too. Untrained, where the weights are the seed's, its distances
agreed to 4e-15 and its shares to 1e-10; trained, to 5.4% (fd), 3.5% (sfd), 0.2% (is) and 0.004 of a share.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from itertools import pairwise
from typing import Any, NamedTuple

from harness.records.run_folder import RunFolder
from harness.records.schema import Evaluation, EvaluationProtocol, Manifest
from harness.runs.folder import EVALUATIONS

FIRST_STEPS, FIRST = 30, 0.002  # a logged part of the loss up to this step may differ by this share
EARLY_STEPS, EARLY = 100, 0.04  # a later one up to this step, by this share
LATE = 0.08  # one after that, by this share
METRIC, METRIC_UNTRAINED = 0.20, 0.01  # distances and scores, after training and before it, by this share
SHARE, SHARE_UNTRAINED = 0.05, 0.01  # precision, recall and other shares between 0 and 1, by this amount
# Kernel distances are differences of means and come out near zero, and below it: a share of such a value says nothing.
# These are chosen, not measured: small beside what either gives between sets of images that look different.
NEAR_ZERO = {"kid": 0.002, "cmmd": 0.05}  # absolute, allowed besides METRIC's share
SHARES = (
    "precision", "recall", "coverage", "class_accuracy", "precision_adm_fp16", "recall_adm_fp16", "linear_probe",
)  # fmt: skip

EXACT, TOLERANT = "bit for bit", "within tolerance"
NOT_KEPT = "not kept"
UNDECISIVE = ("device count", "device driver", "Python")  # facts that may differ where numbers are the same
ONLY_EXACT = ("grad_norm", "lr", "images")  # values of a log line that are compared only bit for bit
HASH = 12
SEEDS = "another seed ruled out by losses"


class Row(NamedTuple):
    """One thing compared. `reproduced` is None where it is shown and decides nothing."""

    what: str
    then: str
    now: str
    difference: float | None  # relative, or absolute where `allowed` says so
    allowed: str  # "equal", "1%", or why nothing is asked of it
    reproduced: bool | None


class Difference(NamedTuple):
    """One fact about the environment that is not the same."""

    what: str
    then: str
    now: str
    decides: bool  # whether it forbids a comparison bit for bit


class Allowed(NamedTuple):
    """How far a number may be from the record's: by a share of it, or by an amount."""

    relative: float = 0.0
    absolute: float = 0.0

    def __str__(self) -> str:
        parts = [f"{100 * self.relative:g}%"] if self.relative else []
        parts += [f"{self.absolute:g} absolute"] if self.absolute else []
        return " or ".join(parts) or "equal"

    def accepts(self, then: Any, now: Any) -> bool:
        if then == now:
            return True
        if not (_finite(then) and _finite(now)):
            return False
        return abs(now - then) <= max(self.relative * abs(then), self.absolute)

    def difference(self, then: Any, now: Any) -> float:
        """Absolute where an amount is allowed, else relative; infinite where there is no such number."""
        if then == now:
            return 0.0
        if not (_finite(then) and _finite(now)) or not (self.absolute or then):
            return math.inf
        return abs(now - then) / (1.0 if self.absolute else abs(then))


def of_loss(step: int) -> Allowed:
    """What a loss logged at `step` may differ by."""
    return Allowed(FIRST if step <= FIRST_STEPS else EARLY if step <= EARLY_STEPS else LATE)


def of_metric(metric: str, step: int | None) -> Allowed:
    """What a metric of the network after `step` steps may differ by."""
    if metric.startswith(SHARES):
        return Allowed(absolute=SHARE_UNTRAINED if step == 0 else SHARE)
    near_zero = next((allowed for name, allowed in NEAR_ZERO.items() if metric.startswith(name)), 0.0)
    return Allowed(METRIC_UNTRAINED if step == 0 else METRIC, near_zero)


# The environment -------------------------------------------------------------------------------------------------


def differences(then: Manifest, now: Manifest) -> list[Difference]:
    """Facts that differ, in the order: hardware, processes, precision, packages, code.

    A precision flag or a package that the record does not name forbids nothing.
    """
    before, after = _facts(then), _facts(now)
    return [
        Difference(what, _word(before.get(what)), _word(after.get(what)), what in before and what not in UNDECISIVE)
        for what in dict.fromkeys([*before, *after])
        if before.get(what) != after.get(what)
    ]


def _facts(manifest: Manifest) -> dict[str, Any]:
    device = manifest.device
    return {
        **{f"device {name}": getattr(device, name) for name in ("name", "kind", "count", "threads", "cuda", "driver")},
        "processes": manifest.world_size,
        **dict(sorted(manifest.precision.items())),
        **dict(sorted(manifest.packages.items())),
        "commit": manifest.git_commit and manifest.git_commit[:10],
        "uncommitted changes": manifest.git_diff_sha256[:10] if manifest.git_diff_sha256 else "none",
        "harness": manifest.harness_version,
        "Python": manifest.python,
        "platform": manifest.platform,
    }


def _word(fact: Any) -> str:
    return "not recorded" if fact is None else str(fact)


def comparison(then: Manifest, found: Sequence[Difference], *, completed: bool) -> tuple[str, str]:
    """Which comparison applies, and why. `completed`: settings were added that the older record does not have."""
    if then.device.kind != "cpu":
        return TOLERANT, "it ran on a GPU, whose kernels do not promise the same order of sums"
    deciding = [difference.what for difference in found if difference.decides]
    if completed:
        deciding.append("settings newer than the record")
    if deciding:
        return TOLERANT, f"not the same: {', '.join(deciding)}"
    return EXACT, "the same processor, threads, processes, packages and code"


# The numbers -----------------------------------------------------------------------------------------------------


def losses(then: RunFolder, now: RunFolder, how: str, last: int | None) -> list[Row]:
    """Every logged loss up to step `last`: for each part of the loss the line that differs most."""
    theirs = {line["step"]: line for line in now.metrics if type(line.get("step")) is int}
    lines = [line for line in then.metrics if type(line.get("step")) is int and (last is None or line["step"] <= last)]
    cut = _cut_by_stops(then, theirs.keys())
    left_out = [line["step"] for line in lines if line["step"] in cut]
    lines = [line for line in lines if line["step"] not in cut]
    common = [(line, theirs[line["step"]]) for line in lines if line["step"] in theirs]
    if not common:
        return [Row("losses", f"{len(lines)} lines", "no line of the same step", None, "equal steps", False)]
    rows = []
    if left_out:
        what = f"losses at {', '.join(f'{step:,}' for step in left_out)}"
        rows.append(Row(what, "averaged up to or from a stop", "", None, "not comparable", None))
    if len(common) < len(lines):
        rows.append(Row("logged steps", str(len(lines)), str(len(common)), None, "equal", False))
    first = common[0][0]
    parts = [name for name in first if name == "loss" or name.startswith("loss/")]
    parts += [name for name in ONLY_EXACT if name in first and how == EXACT]
    rows += [_loss(name, common, how) for name in parts]
    earliest = min(line["step"] for line, _ in common)
    if how != EXACT and earliest > FIRST_STEPS:
        allowed = f"cannot tell without a line up to step {FIRST_STEPS}"
        rows.append(Row(SEEDS, f"first line at step {earliest:,}", "", None, allowed, None))
    return rows


def _cut_by_stops(record: RunFolder, others: Iterable[int]) -> set[int]:
    """Steps of the record's lines that average over a part of a window, where `others` are the steps of the re-run.

    Older versions logged when they were stopped: that line ends at the stop, and the next one begins there.
    """
    stops = {event.get("step") for event in record.events if event.get("event") == "preemption"} - set(others)
    steps = sorted(line["step"] for line in record.metrics if type(line.get("step")) is int)
    return {step for before, step in pairwise([0, *steps]) if before in stops or step in stops}


def _loss(name: str, common: Sequence[tuple[Mapping, Mapping]], how: str) -> Row:
    found = [(line["step"], line.get(name), other.get(name)) for line, other in common]
    step, then, now = max(found, key=lambda one: Allowed().difference(one[1], one[2]) / of_loss(one[0]).relative)
    allowed = Allowed() if how == EXACT else of_loss(step)
    good = all((Allowed() if how == EXACT else of_loss(step)).accepts(then, now) for step, then, now in found)
    label = f"{name}, {len(found)} lines to step {found[-1][0]:,}; worst at {step:,}"
    return Row(label, _number(then), _number(now), allowed.difference(then, now), str(allowed), good)


def weights(then: Mapping[str, str], now: Mapping[str, str], how: str) -> list[Row]:
    """The hashes of the final weights, raw and averaged. On another machine they decide nothing."""
    return [_hash(f"{name} weights", then.get(name), now.get(name), how) for name in ("raw", "averaged")]


def _hash(what: str, then: str | None, now: str | None, how: str) -> Row:
    before, after = (value[:HASH] if value else NOT_KEPT for value in (then, now))
    if not then or not now:
        return Row(what, before, after, None, "nothing to compare", None)
    if how == EXACT:
        return Row(what, before, after, None, "equal", then == now)
    return Row(what, before, after, None, "shown: equal" if then == now else "shown: differ", None)


def evaluations(then: Mapping[str, Evaluation], now: Mapping[str, Evaluation], how: str) -> Iterator[Row]:
    """Images by their hash, and every metric.

    An evaluation by `harness run` must be there again. One by `harness evaluate` was made by hand, later.
    """
    for name in sorted(then.keys() - now.keys()):
        by_the_run = any(fnmatch(name, pattern) for pattern in EVALUATIONS)
        asked = "measured again" if by_the_run else "made later by hand, not repeated"
        yield Row(f"{name}: evaluation", "measured", "none", None, asked, False if by_the_run else None)
    for name in sorted(then.keys() & now.keys(), key=lambda name: (then[name].step or 0, name)):
        ours, theirs = then[name], now[name]
        if changed := _conditions(ours.protocol, theirs.protocol):
            yield Row(f"{name}: conditions", "", ", ".join(changed), None, "equal", False)
        yield _hash(f"{name}: weights", ours.weights_sha256, theirs.weights_sha256, how)
        yield _hash(f"{name}: images", ours.samples_sha256, theirs.samples_sha256, how)
        for metric, value in ours.metrics.items():
            allowed = Allowed() if how == EXACT else of_metric(metric, ours.step)
            yield _metric(f"{name}: {metric}", value, theirs.metrics.get(metric), allowed)


def _conditions(then: EvaluationProtocol, now: EvaluationProtocol) -> list[str]:
    """Conditions that the record has and that are not the same. The device belongs to the environment."""
    return [
        f"{field} {getattr(then, field)} -> {getattr(now, field)}"
        for field in EvaluationProtocol.model_fields
        if field not in ("features_device", "features_precision")
        and getattr(then, field) is not None
        and getattr(then, field) != getattr(now, field)
    ]


def _metric(what: str, then: float, now: float | None, allowed: Allowed) -> Row:
    if now is None:
        return Row(what, _number(then), _number(now), None, "measured again", False)
    good = allowed.accepts(then, now)
    return Row(what, _number(then), _number(now), allowed.difference(then, now), str(allowed), good)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) else "none"
