"""The log of a run and its clock: lines whole and in order, timed steps that add up, times that can be true."""

import math
from datetime import datetime
from itertools import pairwise
from typing import Any

from harness.audit.documents import Documents
from harness.audit.finding import Finding, judged, not_kept
from harness.results.folders.listing import as_time

WARMUP_STEPS = 10  # untimed after every start
ROUNDING = 1e-6  # relative, of sums of seconds
WHOLE_SECONDS = 2  # events are written to the second, each rounded down
NO_LOG = "there is no metrics.jsonl"


def log(run: Documents) -> Finding:
    """Every line that the configuration promises, in order, to the last step, with finite losses."""
    if not run.metrics:
        return not_kept("log", NO_LOG)
    problems = []
    steps = [step for line in run.metrics if type(step := line.get("step")) is int and step > 0]
    if len(steps) < len(run.metrics):
        return judged("log", ["a line has no step"], "")
    if any(later <= earlier for earlier, later in pairwise(steps)):
        problems.append("steps do not rise from line to line")
    if missing := sorted(_promised(run, max(steps)) - set(steps)):
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
    return judged("log", problems, f"{len(steps)} lines to step {steps[-1]:,}")


def _promised(run: Documents, last: int) -> set[int]:
    """Steps that a line is written at. A run that was continued may have been so with another log_every."""
    if any(event.get("event") == "resume" for event in run.events):
        return set()
    intervals = [run.setting(f"execution.{name}") for name in ("log_every", "checkpoint_every")]
    known = [every for every in intervals if type(every) is int and every > 0]
    return {step for every in known for step in range(every, last + 1, every)}


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def timing(run: Documents) -> Finding:
    """Warm-up is outside the timed window, the result's speed is the log's, and waiting for data is part of it."""
    if not run.metrics or not run.result:
        return not_kept("timing", "no result or no log to compare")
    lines = run.metrics
    if not all(_finite(line.get("timed_steps")) and _finite(line.get("timed_seconds")) for line in lines):
        return judged("timing", ["a line does not say how many steps it timed, or for how long"], "")
    result, problems = run.result, []
    timed, seconds = sum(line["timed_steps"] for line in lines), sum(line["timed_seconds"] for line in lines)
    starts = 1 + sum(event.get("event") == "resume" for event in run.events)
    left_out = result.steps - timed
    if left_out < min(WARMUP_STEPS, result.steps):
        problems.append(f"only {left_out} of {result.steps} steps are left out as warm-up, not {WARMUP_STEPS}")
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
    return judged("timing", problems, f"{left_out} steps of warm-up in {starts} start(s), waiting for data {share}")


def times(run: Documents) -> Finding:
    """Events in order, none before the run started, and as much time between them as was measured."""
    started = as_time(run.manifest.started_at) if run.manifest else None
    moments = [as_time(event.get("time")) for event in run.events]
    if not moments:
        return not_kept("times", "there is no events.jsonl")
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
        problems.append(f"no event tells of the checkpoint of the last step, {asked}")
    return judged("times", problems, f"{len(moments)} events over {span:.0f} s")
