"""The log of a run and its clock: lines are whole and in order, timed steps add up, times are possible."""

import math
from datetime import datetime
from itertools import pairwise
from typing import Any, NamedTuple

from harness.checks.finding import Finding, judged, not_kept
from harness.records.run_folder import RunFolder, as_time
from harness.training.telemetry import WARMUP_STEPS

ROUNDING = 1e-6  # relative, of sums of seconds
WHOLE_SECONDS = 2  # events are written to the second, each rounded down
NO_LOG = "there is no metrics.jsonl"


class Stretch(NamedTuple):
    """The steps between one start of the run and the next, without those that were repeated after it."""

    after: int
    last: int
    saved: set[int]  # steps of the checkpoints in events.jsonl: a line is written with each


def _stretches(run: RunFolder, last: int) -> list[Stretch]:
    """A start continues from a checkpoint, and repeats what an earlier start did after that checkpoint."""
    starts, saved = [0], set[int]()
    for event in run.events:
        step = event.get("step")
        if type(step) is not int or step > last:
            continue
        if event.get("event") == "checkpoint":
            saved.add(step)
        elif event.get("event") in ("start", "resume"):
            starts = [*(start for start in starts if start < step), step]
            saved = {earlier for earlier in saved if earlier <= step}
    return [
        Stretch(after, until, {step for step in saved if after < step <= until})
        for after, until in pairwise([*starts, last])
    ]


def log(run: RunFolder) -> Finding:
    """Every line that the configuration promises, in order, to the last step, with finite losses."""
    if not run.metrics:
        return not_kept(NO_LOG)
    problems = []
    steps = [step for line in run.metrics if type(step := line.get("step")) is int and step > 0]
    if len(steps) < len(run.metrics):
        return judged(["a line has no step"], "")
    if any(later <= earlier for earlier, later in pairwise(steps)):
        problems.append("steps do not rise from line to line")
    if missing := sorted(_promised(run, set(steps)) - set(steps)):
        problems.append(f"no line of step {', '.join(map(str, missing[:3]))}" + (", ..." if missing[3:] else ""))
    asked, batch = run.setting("protocol.steps"), run.setting("protocol.batch_size")
    if run.result and steps[-1] != asked:
        problems.append(f"it ends at step {steps[-1]} of {asked}")
    if isinstance(batch, int) and any(line.get("images") not in (None, line["step"] * batch) for line in run.metrics):
        problems.append("images are not steps times batch")
    for line in run.metrics:
        parts = [name for name in line if name == "loss" or name.startswith("loss/")]
        if "loss" not in parts or not all(_finite(line[name]) for name in parts):
            problems.append(f"the loss of step {line['step']} is not a finite number")
            break
    return judged(problems, f"{len(steps)} lines to step {steps[-1]:,}")


def _promised(run: RunFolder, steps: set[int]) -> set[int]:
    """Steps that must have a line: after the last start those of the intervals in config.yaml, and each checkpoint's.

    A signal's checkpoint has a line only where an interval asks for one: the line would cut a window of the losses.
    A run may have been continued with another log_every. In an earlier stretch we only know that log_every divides
    every step that was logged without a checkpoint. We take the largest such number, which asks for the fewest lines.
    """
    *earlier, newest = _stretches(run, max(steps))
    stops = {event.get("step") for event in run.events if event.get("event") == "preemption"}
    intervals = [run.setting(f"execution.{name}") for name in ("log_every", "checkpoint_every")]
    known = [every for every in intervals if type(every) is int and every > 0]
    promised = {step for every in known for step in _multiples(every, newest)} | newest.saved - stops
    for stretch in earlier:
        between = {step for step in steps if stretch.after < step < stretch.last} - stretch.saved
        promised |= ({*stretch.saved, stretch.last} - stops) | _multiples(math.gcd(*between), stretch)
    return promised


def _multiples(every: int, stretch: Stretch) -> set[int]:
    return set(range(every * (stretch.after // every + 1), stretch.last + 1, every)) if every else set()


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def timing(run: RunFolder) -> Finding:
    """The timed window leaves warm-up out and includes waiting for data, and the result's speed is the log's."""
    if not run.metrics or not run.result:
        return not_kept("no result or no log to compare")
    lines = run.metrics
    if not all(_finite(line.get("timed_steps")) and _finite(line.get("timed_seconds")) for line in lines):
        return judged(["a line does not say how many steps it timed, or for how long"], "")
    result, problems = run.result, []
    timed, seconds = sum(line["timed_steps"] for line in lines), sum(line["timed_seconds"] for line in lines)
    left_out = result.steps - timed
    stretches = _stretches(run, result.steps)
    for after, until, _ in stretches:
        here = sum(
            line["timed_steps"] for line in lines if type(line.get("step")) is int and after < line["step"] <= until
        )
        asked, untimed = min(WARMUP_STEPS, until - after), until - after - here
        if untimed < asked:
            problems.append(f"only {untimed} steps from {after} to {until} are left out as warm-up, not {asked}")
    if timed != result.timed_steps:
        problems.append(f"the log times {timed} steps, result.json {result.timed_steps}")
    speed = timed / seconds if timed and seconds > 0 else None
    if (speed is None) != (result.steps_per_sec is None) or (
        speed and result.steps_per_sec and abs(speed / result.steps_per_sec - 1) > ROUNDING
    ):
        problems.append(f"the log gives {speed or 0:.4g} steps/s, result.json has {result.steps_per_sec or 0:.4g}")
    for line in lines:
        share = line.get("data_wait_share")
        if line["timed_steps"] and not (share is not None and _finite(share) and 0 <= share <= 1):
            problems.append(f"the share of waiting for data is {share} at step {line.get('step')}")
            break
    if seconds > result.wall_seconds * (1 + ROUNDING):
        problems.append(f"{seconds:.1f} s were timed within {result.wall_seconds:.1f} s")
    waited = sum(line["timed_seconds"] * (line.get("data_wait_share") or 0) for line in lines)
    share = f"{waited / seconds:.1%}" if seconds else "none"
    return judged(problems, f"{left_out} steps of warm-up in {len(stretches)} start(s), waiting for data {share}")


def times(run: RunFolder) -> Finding:
    """Events in order, none before the run started, and as much time between them as was measured."""
    started = as_time(run.manifest.started_at) if run.manifest else None
    moments = [as_time(event.get("time")) for event in run.events]
    if not moments:
        return not_kept("there is no events.jsonl")
    problems = [f"event {i + 1} has no time" for i, moment in enumerate(moments) if moment is None]
    known: list[datetime] = [moment for moment in moments if moment]
    if run.manifest and started is None:
        problems.append("manifest.json's started_at is no time")
    if any(later < earlier for earlier, later in pairwise(known)):
        problems.append("events go back in time")
    if started and known and (known[0] - started).total_seconds() < 0:
        problems.append("the first event is before the run's start")
    seconds = sum(line.get("timed_seconds") or 0 for line in run.metrics if _finite(line.get("timed_seconds") or 0))
    span = (max(known) - min(known)).total_seconds() if known else 0
    if known and not problems and seconds > span + WHOLE_SECONDS:
        problems.append(f"{seconds:.0f} s of steps were timed within {span:.0f} s of events")
    steps = [e.get("step") for e in run.events if e.get("event") == "checkpoint" and type(e.get("step")) is int]
    asked = run.setting("protocol.steps")
    if run.result and isinstance(asked, int) and asked not in steps:
        problems.append(f"no event records the checkpoint of the last step, {asked}")
    return judged(problems, f"{len(moments)} events over {span:.0f} s")
