"""A record and its re-run, number by number."""

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Any, NamedTuple

from harness.records.documents import Documents
from harness.records.schema import Evaluation, EvaluationProtocol
from harness.runs.folder import EVALUATIONS
from harness.runs.reproduce import tolerance
from harness.runs.reproduce.environment import EXACT

NOT_KEPT = "not kept"
EVERY_BIT = ("grad_norm", "lr", "images")  # of a log line, compared where every bit counts
HASH = 12
SEEDS, CANNOT_TELL = "another seed ruled out by losses", "cannot tell"


class Row(NamedTuple):
    """One thing compared. `reproduced` is None where it is shown and decides nothing."""

    what: str
    then: str
    now: str
    difference: float | None  # relative, or absolute where `allowed` says so
    allowed: str  # "equal", "1%", or why nothing is asked of it
    reproduced: bool | None


def losses(then: Documents, now: Documents, how: str, last: int | None) -> list[Row]:
    """Every logged loss up to step `last`: the largest relative difference of each part, and where it is."""
    theirs = {line["step"]: line for line in now.metrics if type(line.get("step")) is int}
    lines = [line for line in then.metrics if type(line.get("step")) is int and (last is None or line["step"] <= last)]
    common = [(line, theirs[line["step"]]) for line in lines if line["step"] in theirs]
    if not common:
        return [Row("losses", f"{len(lines)} lines", "no line of the same step", None, "equal steps", False)]
    rows = []
    missing = len(lines) - len(common)
    if missing:
        rows.append(Row("logged steps", str(len(lines)), str(len(common)), None, "equal", False))
    for name in _parts(common, how):
        rows.append(_loss(name, common, how))
    steps = [line["step"] for line, _ in common]
    if how != EXACT and not tolerance.can_tell_seeds_apart(steps):
        needed = f"a line up to step {tolerance.FIRST_STEPS}"
        rows.append(Row(SEEDS, f"first line at step {min(steps):,}", "", None, f"{CANNOT_TELL} without {needed}", None))
    return rows


def _parts(common: Sequence[tuple[Mapping, Mapping]], how: str) -> list[str]:
    names = [name for name in common[0][0] if name == "loss" or name.startswith("loss/")]
    return names + ([name for name in EVERY_BIT if name in common[0][0]] if how == EXACT else [])


def _loss(name: str, common: Sequence[tuple[Mapping, Mapping]], how: str) -> Row:
    found = [(line["step"], line.get(name), other.get(name)) for line, other in common]
    worst = max(found, key=lambda one: _excess(*one))
    step, then, now = worst
    differs = relative(then, now)
    allowed = "equal" if how == EXACT else f"{tolerance.of_loss(step):.1%}"
    good = all(_same(a, b) if how == EXACT else relative(a, b) <= tolerance.of_loss(s) for s, a, b in found)
    label = f"{name}, {len(found)} lines to step {found[-1][0]:,}; worst at {step:,}"
    return Row(label, _number(then), _number(now), differs, allowed, good)


def _excess(step: int, then: Any, now: Any) -> float:
    return relative(then, now) / tolerance.of_loss(step)


def relative(then: Any, now: Any) -> float:
    """The difference over the record's value; infinite where one of them is no finite number."""
    if _same(then, now):
        return 0.0
    numbers = all(isinstance(value, int | float) and math.isfinite(value) for value in (then, now))
    return abs(now - then) / abs(then) if numbers and then else math.inf


def _same(then: Any, now: Any) -> bool:
    return then == now


def weights(then: Mapping[str, str], now: Mapping[str, str], how: str) -> list[Row]:
    """The final weights' hashes, raw and averaged. Elsewhere than on the same machine they say nothing."""
    rows = []
    for name in ("raw", "averaged"):
        ours, theirs = then.get(name), now.get(name)
        rows.append(_hash(f"{name} weights", ours, theirs, how))
    return rows


def _hash(what: str, then: str | None, now: str | None, how: str) -> Row:
    if not then or not now:
        before, after = (value[:HASH] if value else NOT_KEPT for value in (then, now))
        return Row(what, before, after, None, "nothing to compare", None)
    equal = then == now
    if how == EXACT:
        return Row(what, then[:HASH], now[:HASH], None, "equal", equal)
    return Row(what, then[:HASH], now[:HASH], None, "shown: equal" if equal else "shown: differ", None)


def evaluations(then: Mapping[str, Evaluation], now: Mapping[str, Evaluation], how: str) -> list[Row]:
    """Images by their hash, and every metric. One that the run made and the re-run did not fails; others are shown."""
    rows = []
    for name in sorted(then.keys() - now.keys()):
        again = ("measured again", False) if _made_by_the_run(name) else ("made later by hand, not repeated", None)
        rows.append(Row(f"{name}: evaluation", "measured", "none", None, *again))
    for name in sorted(then.keys() & now.keys(), key=lambda name: (then[name].step or 0, name)):
        ours, theirs = then[name], now[name]
        if changed := _conditions(ours.protocol, theirs.protocol):
            rows.append(Row(f"{name}: conditions", "", ", ".join(changed), None, "equal", False))
        rows.append(_hash(f"{name}: weights", ours.weights_sha256, theirs.weights_sha256, how))
        rows.append(_hash(f"{name}: images", ours.samples_sha256, theirs.samples_sha256, how))
        for metric, value in ours.metrics.items():
            rows.append(_metric(f"{name}: {metric}", metric, ours.step, value, theirs.metrics.get(metric), how))
    return rows


def _made_by_the_run(name: str) -> bool:
    """Whether `harness run` makes an evaluation of this name; those of `harness evaluate` are made later, by hand."""
    return any(fnmatch(name, pattern) for pattern in EVALUATIONS)


def _conditions(then: EvaluationProtocol, now: EvaluationProtocol) -> list[str]:
    """Conditions that are not the same, of those the record has; the device belongs to the environment."""
    return [
        f"{field} {getattr(then, field)} -> {getattr(now, field)}"
        for field in EvaluationProtocol.model_fields
        if field not in ("features_device", "features_precision")
        and getattr(then, field) is not None
        and getattr(then, field) != getattr(now, field)
    ]


def _metric(label: str, metric: str, step: int | None, then: float, now: float | None, how: str) -> Row:
    shown = _number(then), _number(now)
    if how == EXACT:
        return Row(label, *shown, relative(then, now), "equal", _same(then, now))
    if now is None:
        return Row(label, *shown, None, "measured again", False)
    allowed, absolute = tolerance.of_metric(metric, step)
    difference = abs(now - then) if absolute else relative(then, now)
    said = f"{allowed:g} absolute" if absolute else f"{allowed:.0%}"
    floor = tolerance.near_zero(metric)
    if floor and difference > allowed:
        difference, allowed, said = abs(now - then), floor, f"{said} or {floor:g} absolute"
    elif floor:
        said += f" or {floor:g} absolute"
    return Row(label, *shown, difference, said, difference <= allowed)


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) else "none"
