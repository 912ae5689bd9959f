"""`harness sweep`: the runs behind a figure or a table, one after the other or as a job array."""

import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from harness.cli.app import completion, defaults
from harness.cli.app.answer import live, note, show
from harness.cli.app.layout import columns, fitted
from harness.cli.app.options import RUNS, Assignments, Json, RunsOut, argument, option, seed_list
from harness.cli.app.processes import (
    SLURM,
    Launcher,
    Nodes,
    Nproc,
    Partition,
    PrintSbatch,
    Time,
    is_a_job,
    submit,
)
from harness.cli.app.state import state

if TYPE_CHECKING:
    from harness.runs.sweep import Outcome, Task, Watcher
    from harness.system.processes.slurm import Job

NOTHING = "–"


def sweep(
    ctx: typer.Context,
    name: Annotated[
        str,
        argument(
            "figure3, components, mask-ratio, teacher-noise, convergence, apart, methods, or all that the scale has.",
            "NAME",
            completion.sweeps,
        ),
    ],
    scale: Annotated[
        Literal["paper", "mini", "tiny"],
        option("paper; tiny: the same on the embedded digits; mini: on Fashion-MNIST.", "NAME"),
    ] = "paper",
    seeds: Annotated[str | None, option("Like 0,1,2. Default: the scale's.", "LIST")] = None,
    images: Annotated[str | None, option("Images for the runs that encode them in every step.", "FOLDER")] = None,
    set_: Assignments = None,
    out: RunsOut = RUNS,
    nproc: Nproc = None,
    dry_run: Annotated[bool, option("List the runs and how far each is, start none.", name="--dry-run")] = False,
    launcher: Launcher = "local",
    at_once: Annotated[int | None, option("Jobs of the array at the same time.", "N", panel=SLURM)] = None,
    nodes: Nodes = 1,
    time: Time = "24:00:00",
    partition: Partition = None,
    print_sbatch: PrintSbatch = False,
    as_json: Json = False,
) -> None:
    """Make the runs that a figure or a table of the paper needs; finished ones are skipped, so repeat it at will.

    Examples: harness sweep all --scale tiny · harness sweep figure3 --nproc 8 · harness sweep mask-ratio --seeds 0,1,2
    --launcher slurm --nproc 8 --at-once 4 · harness sweep all --dry-run
    """
    as_a_job = is_a_job(ctx, launcher, print_sbatch)
    from harness.papers import sweeps

    plan = sweeps.plan(name, scale, images=images)
    chosen = None if seeds is None else seed_list(seeds)

    from harness.runs import sweep as sweeping

    todo = sweeping.tasks(plan, out, seeds=chosen, assignments=set_ or [])
    for label in plan.waiting_for_images:
        note(f"left out: {label} encodes images in every step; name their folder with --images.")
    if as_a_job:
        from harness.system.processes.slurm import Job

        job = Job(nodes, nproc or 1, time, partition, f"sweep-{name}", out / "slurm")
        return _slurm(job, todo, at_once, print_sbatch, as_json)
    if not dry_run:
        extra = ["--nproc", str(nproc)] if nproc is not None else []
        with defaults.told_everything(), _watching(todo) as watcher:
            sweeping.run(todo, watcher, extra)
    found = [(task, sweeping.outcome_of(task)) for task in todo]
    settings = [*plan.settings, *(set_ or [])]
    shared = [f"All runs: {', '.join(settings)}.", ""] if settings else []
    document = {"sweep": name, "scale": scale, "settings": settings, "runs": sweeping.as_json(found)}
    show(document, as_json, lambda _: [*shared, *_lines(found)])


def _slurm(job: "Job", todo: Sequence["Task"], at_once: int | None, print_only: bool, as_json: bool) -> None:
    from harness.runs import sweep
    from harness.system.processes import slurm

    waiting = [task for task in todo if sweep.outcome_of(task).state != "finished"]
    if not waiting:
        return show({"job": None, "runs": 0}, as_json, lambda _: ["every run is finished; nothing to submit."])
    commands = [
        [["--no-settings", *arguments] for arguments in (task.run_arguments(), *task.guided_arguments())]
        for task in waiting
    ]
    submit(job, slurm.array_script(job, commands, at_once=at_once), print_only, as_json, runs=len(waiting))


def _lines(found: Sequence[tuple["Task", "Outcome"]], left: str = "") -> list[str]:
    """A line for each group of runs that differ in their seed alone, then how many are done."""
    groups: dict[str, list[Outcome]] = {}
    for task, outcome in found:
        groups.setdefault(task.label, []).append(outcome)
    rows = [
        (label, f"{_done(members)} of {len(members)}", _distance(members), _state(members))
        for label, members in groups.items()
    ]
    metrics = sorted({outcome.metric for _, outcome in found if outcome.metric})
    distance = f" Distance: {', '.join(metrics)}, mean over seeds." if metrics else ""
    said = f"{_done(outcome for _, outcome in found)} of {len(found)} runs are finished{left}.{distance}"
    return [*columns([("run", "seeds", "distance", "state"), *rows]), "", said]


def _done(outcomes: Iterable["Outcome"]) -> int:
    return sum(outcome.state == "finished" for outcome in outcomes)


def _distance(members: Sequence["Outcome"]) -> str:
    values = [outcome.distance for outcome in members if outcome.distance is not None]
    spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4g}{spread}" if values else NOTHING


def _state(members: Sequence["Outcome"]) -> str:
    """The state of the run that needs attention most."""
    order = ("failed", "begun", "to evaluate", "waiting", "finished")
    worst = min(members, key=lambda outcome: (order.index(outcome.state), -outcome.step))
    return f"begun at step {worst.step:,}" if worst.state == "begun" else worst.state


@contextmanager
def _watching(todo: Sequence["Task"]) -> Iterator["Watcher"]:
    """Shows how the runs progress: a live table on a terminal, elsewhere a line for each run, nothing with --quiet."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from harness.runs import sweep

    found = {task: sweep.outcome_of(task) for task in todo}
    begun: set[Task] = set()
    waiting = {task for task, outcome in found.items() if outcome.state != "finished"}
    carried_out, started = 0, time.monotonic()  # steps, milestones and start included

    def left(task: "Task", outcome: "Outcome") -> str:
        """The remaining time, like ", about 0:35:12 left", estimated from the runs that this command has finished."""
        nonlocal carried_out
        if outcome.state != "begun" and task in waiting:
            waiting.remove(task)
            carried_out += task.steps
        if not carried_out or not waiting:
            return ""
        pace = carried_out / (time.monotonic() - started)
        return f", about {timedelta(seconds=round(sum(task.steps for task in waiting) / pace))} left"

    def line(task: "Task", outcome: "Outcome") -> None:
        begins = outcome.state == "begun"
        if begins and task in begun:
            return
        begun.add(task)
        measured = outcome.reason or "not evaluated"
        if outcome.distance is not None:
            measured = f"{outcome.metric} {outcome.distance:.4g}"
        found[task] = outcome
        said = "" if begins else f", {measured}{left(task, outcome)}"
        number = f"{_done(found.values())} of {len(found)} finished"
        print(f"sweep: {number}. {task.label}, seed {task.seed}: {outcome.state}{said}", file=sys.stderr, flush=True)

    if state.quiet:
        yield lambda task, outcome: None
    elif not live():
        yield line
    else:
        with Live(console=Console(stderr=True), refresh_per_second=2) as table:

            def draw(task: "Task", outcome: "Outcome") -> None:
                found[task] = outcome
                table.update(Text("\n".join(fitted(_lines(list(found.items()), left(task, outcome))))))

            table.update(Text("\n".join(fitted(_lines(list(found.items()))))))
            yield draw
