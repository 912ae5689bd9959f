"""Whether the targets of a discriminative loss told a run anything, by its log."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.recipes.reading import about

DISCRIMINATIVE = "discriminative"  # the quantity of such a part of the loss
LAST_LINES = 5
LEAST = 0.01  # of ln K; below it the targets are taken to tell nothing


def ln_k(knobs: Mapping[str, Any]) -> float | None:
    """The cross-entropy of a uniform guess among the run's K prototypes; None where it has none."""
    count = knobs.get("num_prototypes")
    return math.log(count) if isinstance(count, int) and count > 1 else None


def share_told(method: str, knobs: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> float | None:
    """How much the targets told over the last lines of metrics.jsonl, in parts of ln K, the most they can.

    Where the lines have the mutual information of prototype and image, it is that. Older lines have the loss alone:
    then it is the distance of the loss from ln K, its value for uniform targets. The mean is over the discriminative
    parts of the loss. None where the log has no such part.
    """
    parts = [name for name, part in about(method).losses.items() if part.quantity == DISCRIMINATIVE]
    most, shares = ln_k(knobs), []
    if most is None:
        return None
    for line in lines[-LAST_LINES:]:
        for part in parts:
            told, loss = line.get(f"information/{part}"), line.get(f"loss/{part}")
            if isinstance(told, int | float) and math.isfinite(told):
                shares.append(told / most)
            elif isinstance(loss, int | float) and math.isfinite(loss):
                shares.append(abs(1 - loss / most))
    return sum(shares) / len(shares) if shares else None


def warning(method: str, knobs: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> str | None:
    """What to tell the user of a run whose targets told nothing; None where they told something or are not logged."""
    share = share_told(method, knobs, lines)
    if share is None or share >= LEAST:
        return None
    return (
        f"the targets of the discriminative loss told nothing: over the last {min(len(lines), LAST_LINES)} lines of "
        f"metrics.jsonl they share {share:.2%} of ln K with the image, and {LEAST:.0%} is the least that counts. The "
        "run shows nothing about that loss. Lower teacher_temperature, or train longer."
    )
