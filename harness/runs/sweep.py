"""Carries out a sweep: every run in a process of its own, one after the other; finished work is not repeated.

A run that fails does not stop the others. Each child's stderr is kept in a file beside the run folders.
"""

import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from harness.papers.sweeps import Plan
from harness.planning.plan import resolve
from harness.records.schema import LAST_LINES, Evaluation, Result, read_lines, record_or_none
from harness.records.trials import distance_metric
from harness.runs import folder as run_folder
from harness.system.errors import HarnessError, Interrupted, Preempted, UsageError
from harness.system.processes.children import exit_code, started

State = Literal["finished", "to evaluate", "begun", "waiting", "failed"]
LOGS = "logs"
POLL_SECONDS = 1.0


class Task(NamedTuple):
    """One run of a sweep, with its further evaluations."""

    label: str
    recipe: str
    seed: int
    assignments: tuple[str, ...]
    guided: tuple[float, ...]
    steps: int
    milestones: int  # how many steps are evaluated besides the last one
    folder: Path

    def run_arguments(self) -> list[str]:
        """`harness RUN_ARGUMENTS` trains, samples and evaluates it, or goes on where it stopped."""
        pairs = [part for assignment in self.assignments for part in ("--set", assignment)]
        return ["run", self.recipe, "--seed", str(self.seed), *pairs, "--out", str(self.folder.parent.parent), "--json"]

    def guided_arguments(self) -> list[list[str]]:
        return [["evaluate", str(self.folder), "--cfg-scale", f"{scale:g}", "--json"] for scale in self.guided]


class Outcome(NamedTuple):
    """How far a task has come."""

    state: State
    step: int = 0  # reached so far
    metric: str | None = None
    distance: float | None = None
    steps_per_sec: float | None = None
    reason: str = ""  # why it failed


class Failed(HarnessError):
    """Runs of a sweep that ended with an error of their own, after all were tried."""

    def __init__(self, failed: Sequence[tuple[Task, Outcome]], exit_code: int):
        names = "; ".join(f"{task.label} seed {task.seed}: {outcome.reason}" for task, outcome in failed)
        super().__init__(f"{len(failed)} run(s) failed: {names}. The same command tries them again.")
        self.exit_code = exit_code


Watcher = Callable[[Task, Outcome], None]  # called as a run moves and as it ends


def tasks(plan: Plan, out: Path, *, seeds: Sequence[int] | None = None, assignments: Sequence[str] = ()) -> list[Task]:
    """The runs of a plan, all members of a seed before the next seed, so that comparisons come early.

    `assignments` are for all of them, after their own. Raises UsageError for a setting that does not exist.
    """
    made: dict[Path, Task] = {}
    for seed in plan.seeds if seeds is None else seeds:
        for member in plan.members:
            given = (*member.assignments, *assignments)
            cfg = resolve(member.recipe, [*given, f"seed={seed}"])
            folder = out / cfg.recipe / cfg.run_id
            milestones = len(run_folder.milestones(cfg))
            task = Task(
                member.label, cfg.recipe, seed, given, member.guided, cfg.protocol.steps, milestones, folder
            )  # fmt: skip
            made.setdefault(folder, task)
    if not made:
        raise UsageError("the sweep has no run: no seed was asked for, or its runs need --images.")
    return list(made.values())


def outcome_of(task: Task) -> Outcome:
    """How far a task has come, from the files of its run folder alone."""
    result = record_or_none(task.folder / "result.json", Result)
    if result is None:
        step = _reached(task.folder)
        return Outcome("begun" if step else "waiting", step)
    final = result.evaluations.get("final")
    metric = distance_metric(final.metrics) if final else None
    curve = [e for e in result.evaluations.values() if e.step and e.step < task.steps]
    whole = final is not None and len(curve) >= task.milestones and not _unmeasured(task)
    return Outcome(
        "finished" if whole else "to evaluate", task.steps, metric,
        final.metrics[metric] if final and metric else None, result.steps_per_sec,
    )  # fmt: skip


def run(todo: Iterable[Task], watcher: Watcher = lambda task, outcome: None, extra: Sequence[str] = ()) -> None:
    """Carry out the tasks that are not finished; `extra` are further arguments of `harness run`, like --nproc 8.

    Raises Failed with the first failure's exit code once all were tried; an interruption ends the sweep at once, and
    the same command continues it.
    """
    failed: list[tuple[Task, Outcome]] = []
    first_code = 0
    for task in todo:
        outcome = outcome_of(task)
        if outcome.state != "finished":
            code, outcome = _carry_out(task, watcher, extra)
            if outcome.state == "failed":
                failed.append((task, outcome))
                first_code = first_code or code
        watcher(task, outcome)
    if failed:
        raise Failed(failed, first_code)


def _carry_out(task: Task, watcher: Watcher, extra: Sequence[str]) -> tuple[int, Outcome]:
    log = task.folder.parent.parent / LOGS / f"{task.recipe}-{task.folder.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    code = _process(
        [*task.run_arguments(), *extra], log, lambda: watcher(task, Outcome("begun", _reached(task.folder)))
    )
    if not code:
        missing = _unmeasured(task)
        for arguments, scale in zip(task.guided_arguments(), task.guided, strict=True):
            if scale in missing and not code:
                code = _process(arguments, log, lambda: None)
    if code:
        said = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        reason = said[-1].removeprefix("error: ").rstrip(".") if said else ""
        return code, Outcome("failed", _reached(task.folder), reason=reason or f"it ended with exit code {code}")
    return 0, outcome_of(task)


def _process(arguments: Sequence[str], log: Path, poll: Callable[[], None]) -> int:
    """Run `harness ARGUMENTS`, its stderr added to `log`; returns its exit code. A preemption is passed on."""
    with log.open("ab") as file, started(arguments, stdout=subprocess.DEVNULL, stderr=file) as process:
        while process.poll() is None:
            poll()
            time.sleep(POLL_SECONDS)
    code = exit_code(process.returncode)
    for ended in (Preempted, Interrupted):
        if code == ended.exit_code:
            raise ended("the sweep stopped. The same command continues it.")
    return code


def _reached(folder: Path) -> int:
    lines, _ = read_lines(folder / "metrics.jsonl", last_bytes=LAST_LINES)  # asked every second, while the run trains
    return max((line["step"] for line in lines if isinstance(line.get("step"), int)), default=0)


def _unmeasured(task: Task) -> set[float]:
    """The guidance scales that the last step has not been evaluated with."""
    paths = (task.folder / "evaluations").glob("*.json")
    measured = [evaluation for path in paths if (evaluation := record_or_none(path, Evaluation))]
    found = {e.protocol.guidance_scale for e in measured if e.step == task.steps}
    return set(task.guided) - found


def as_json(found: Iterable[tuple[Task, Outcome]]) -> list[dict]:
    """Each task as plain data: what it is, the command that makes it, how far it has come."""
    return [
        {
            "label": task.label,
            "recipe": task.recipe,
            "seed": task.seed,
            "folder": str(task.folder),
            "command": " ".join(["harness", *task.run_arguments()]),
            **outcome._asdict(),
        }
        for task, outcome in found
    ]
