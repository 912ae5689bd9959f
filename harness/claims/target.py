"""How much sooner one arm comes down to the value that the other ends at: in steps, images, arithmetic and seconds.

"Five times faster" means one of the four in one paper and another in the next. Each is told here, with an interval over
the runs of the faster arm. The target is the mean of the slower arm's final values. Its own noise is not in the
interval.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

from harness.claims.arms import TwoArms
from harness.claims.comparison import number
from harness.claims.intervals import ALPHA, Estimate, geometric_mean, paired
from harness.records.trials import Trial

CURRENCIES: dict[str, Callable[[Trial], float | None]] = {  # what one training step costs
    "steps": lambda trial: 1.0,
    "images": lambda trial: float(trial.batch_size),
    "arithmetic": lambda trial: trial.batch_size * trial.run.result.gmacs_step,
    "seconds": lambda trial: 1 / trial.speed if trial.speed else None,
}


def sooner(arms: TwoArms, early: int, late: int) -> Iterator[str]:
    """What to say of the first arm, read after `early` steps; the target is the second's value after `late`."""
    a, b = arms.labels
    target = geometric_mean(arms.values[1])
    found = [steps_to_reach(curve_of(trial), target) for trial in arms.trials[0]]
    kinds = {kind for kind, _ in found}
    where = f"{b}'s value after {late} steps"
    if kinds != {"at"}:
        reached = sum(kind != "after" for kind, _ in found)
        first = min(steps for _, steps in found)
        when = f"; the earliest by step {first:.4g}" if reached else f" within its {early} steps"
        yield f"{reached} of {len(found)} runs of {a} come down to {where}{when}"
        return
    said = []
    for currency, cost in CURRENCIES.items():
        ours, theirs = [cost(trial) for trial in arms.trials[0]], [cost(trial) for trial in arms.trials[1]]
        if currency == "seconds" and len({trial.machine for side in arms.trials for trial in side}) > 1:
            continue
        known = [value for value in (*ours, *theirs) if value]
        if len(known) == len(ours) + len(theirs):
            spent = [steps * value for (_, steps), value in zip(found, ours, strict=True) if value]
            whole = late * geometric_mean([value for value in theirs if value])
            said.append(f"{_times(whole, spent)} in {currency}")
    yield f"{a} comes down to {where} sooner by a factor of {', '.join(said)}"


def _times(whole: float, spent: Sequence[float]) -> str:
    """The slower arm's cost over the faster one's, with its interval over runs."""
    estimate: Estimate | None = paired([whole] * len(spent), spent)
    interval = estimate.interval(1 - ALPHA) if estimate else None
    text = f" ({number(interval[0])} to {number(interval[1])})" if interval else ""
    return f"{number(whole / geometric_mean(spent))}{text}"


def curve_of(trial: Trial) -> dict[int, float]:
    """Distance by training step, the last step included."""
    return {**trial.curve, trial.steps: trial.distance}


def steps_to_reach(curve: Mapping[int, float], distance: float) -> tuple[str, float]:
    """After how many steps a curve first comes down to `distance`: ("at", steps), ("before", first), ("after", last).

    Between two evaluated steps, the logarithm of the distance is taken as linear in the logarithm of the step.
    """
    steps = sorted(curve)
    if curve[steps[0]] <= distance:
        return "before", float(steps[0])
    for before, after in pairwise(steps):
        high, low = curve[before], curve[after]
        if low <= distance:
            share = math.log(high / distance) / math.log(high / low)
            return "at", before * (after / before) ** share
    return "after", float(steps[-1])
