"""`harness sweep`: the runs behind a figure or a table, one after the other or as a job array."""

import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.app import completion, defaults
from harness.cli.app.answer import Assignments, Json, answers, listed, live, note, show
from harness.cli.app.layout import GAP, width, wrapped
from harness.cli.app.processes import SLURM, Launcher, Nodes, Nproc, Partition, PrintSbatch, Time, refuse_of_a_job
from harness.cli.app.state import state
from harness.system.errors import UsageError

if TYPE_CHECKING:
    from harness.runs.sweep import Outcome, Task, Watcher

NOTHING = "–"
INDENT = "    "
NARROWEST_LABEL = 12


def add_to(app: typer.Typer) -> None:
    """Put this command into the command line."""
    app.command(
        epilog="Examples: harness sweep all --scale tiny · harness sweep figure3 --nproc 8 · "
        "harness sweep mask-ratio --seeds 0,1,2 --launcher slurm --nproc 8 --at-once 4 · harness sweep all --dry-run"
    )(sweep)


@answers
def sweep(
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            help="figure3, components, mask-ratio, teacher-noise, convergence, or all of them.",
            autocompletion=completion.sweeps,
        ),
    ],
    scale: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="paper, or tiny: the same on the embedded digits.",
            autocompletion=completion.among("paper", "tiny"),
        ),
    ] = "paper",
    seeds: Annotated[str | None, typer.Option(metavar="LIST", help="Like 0,1,2. Default: the scale's.")] = None,
    images: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Images for the runs that encode them in every step.")
    ] = None,
    set_: Assignments = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where run folders go.")] = Path("runs"),
    nproc: Nproc = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs and how far each is, start none.")] = False,
    launcher: Launcher = "local",
    at_once: Annotated[
        int | None, typer.Option(metavar="N", help="Jobs of the array at the same time.", rich_help_panel=SLURM)
    ] = None,
    nodes: Nodes = 1,
    time: Time = "24:00:00",
    partition: Partition = None,
    print_sbatch: PrintSbatch = False,
    as_json: Json = False,
) -> None:
    """Make the runs that a figure or a table of the paper needs; finished ones are skipped, so repeat it at will."""
    if launcher not in ("local", "slurm"):
        raise UsageError(f"--launcher is {launcher!r}; it must be local or slurm.")
    refuse_of_a_job(ctx, launcher, print_sbatch)
    from harness.recipes import sweeps

    plan = sweeps.plan(name, scale, images=images)
    chosen = _seeds(seeds)

    from harness.runs import sweep as sweeping

    todo = sweeping.tasks(plan, out, seeds=chosen, assignments=set_ or [])
    for label in plan.waiting_for_images:
        note(f"left out: {label} encodes images in every step; name their folder with --images.")
    if print_sbatch or launcher == "slurm":
        return _slurm(name, todo, print_sbatch, nodes, nproc, time, partition, at_once, out, as_json)
    if not dry_run:
        extra = ["--nproc", str(nproc)] if nproc is not None else []
        with defaults.told_everything(), _watching(todo) as watcher:
            sweeping.run(todo, watcher, extra)
    found = [(task, sweeping.outcome_of(task)) for task in todo]
    settings = [*plan.settings, *(set_ or [])]
    document = {"sweep": name, "scale": scale, "settings": settings, "runs": sweeping.as_json(found)}
    show(document, as_json, lambda _: [*_shared(settings), *_lines(found)])


def _seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        chosen = [int(part) for part in listed(text)]
    except ValueError:
        chosen = []
    if not chosen or min(chosen) < 0 or len(set(chosen)) < len(chosen):
        raise UsageError(f"--seeds is {text!r}; it must be whole numbers, each once, like 0,1,2.")
    return chosen


def _slurm(
    name: str,
    todo: Sequence["Task"],
    print_only: bool,
    nodes: int,
    nproc: int | None,
    time: str,
    partition: str | None,
    at_once: int | None,
    out: Path,
    as_json: bool,
) -> None:
    from harness.runs import sweep
    from harness.system.processes import slurm

    waiting = [task for task in todo if sweep.outcome_of(task).state != "finished"]
    if not waiting:
        return show({"job": None, "runs": 0}, as_json, lambda _: ["every run is finished; nothing to submit."])
    job = slurm.Job(nodes, nproc or 1, time, partition, f"sweep-{name}", out / "slurm")
    commands = [
        [["--no-settings", *arguments] for arguments in (task.run_arguments(), *task.guided_arguments())]
        for task in waiting
    ]
    script = slurm.array_script(job, commands, at_once=at_once)
    if print_only:
        print(script, end="")
        return
    number = slurm.submit(job, script)
    show({"job": number, "runs": len(waiting)}, as_json, lambda answer: [answer["job"]])


# What is shown ------------------------------------------------------------------------------------------------------


def _lines(found: Sequence[tuple["Task", "Outcome"]]) -> list[str]:
    """A line for each group of runs that differ in their seed alone, then how many are done."""
    rows = [("run", "seeds", "distance", "state")]
    rows += [(label, _seeds_done(of), _distance(of), _state(of)) for label, of in _groups(found).items()]
    label, seeds, distance, state = (max(map(len, column)) for column in zip(*rows, strict=True))
    label = min(label, max(width() - len(GAP) * 3 - seeds - distance - state, NARROWEST_LABEL))
    lines = []
    for name, *others in rows:
        first, *more = textwrap.wrap(name, label, subsequent_indent=INDENT)
        lines.append(GAP.join([f"{first:<{label}}", f"{others[0]:<{seeds}}", f"{others[1]:>{distance}}", others[2]]))
        lines += more
    done = sum(outcome.state == "finished" for _, outcome in found)
    metrics = sorted({outcome.metric for _, outcome in found if outcome.metric})
    said = f"{done} of {len(found)} runs are finished."
    return [*lines, "", f"{said} Distance: {', '.join(metrics)}, mean over seeds." if metrics else said]


def _shared(settings: Sequence[str]) -> list[str]:
    """What is set for all runs, above the table that tells only what sets them apart."""
    if not settings:
        return []
    return [*wrapped(f"All runs: {', '.join(settings)}.", rest=INDENT), ""]


def _groups(found: Sequence[tuple["Task", "Outcome"]]) -> dict[str, list["Outcome"]]:
    groups: dict[str, list[Outcome]] = {}
    for task, outcome in found:
        groups.setdefault(task.label, []).append(outcome)
    return groups


def _seeds_done(members: Sequence["Outcome"]) -> str:
    return f"{sum(outcome.state == 'finished' for outcome in members)} of {len(members)}"


def _distance(members: Sequence["Outcome"]) -> str:
    import statistics

    values = [outcome.distance for outcome in members if outcome.distance is not None]
    if not values:
        return NOTHING
    spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4g}{spread}"


def _state(members: Sequence["Outcome"]) -> str:
    states = [outcome.state for outcome in members]
    for telling in ("failed", "begun", "to evaluate"):
        if telling in states:
            step = max(outcome.step for outcome in members if outcome.state == telling)
            return f"{telling} at step {step:,}" if telling == "begun" else telling
    return "waiting" if "waiting" in states else "finished"


@contextmanager
def _watching(todo: Sequence["Task"]) -> Iterator["Watcher"]:
    """A live table on a terminal, a line for each run elsewhere, nothing with --quiet."""
    from harness.runs import sweep

    if state.quiet:
        yield sweep.Silent()
        return
    found = {task: sweep.outcome_of(task) for task in todo}
    if not live():
        yield _Plain(found)
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), refresh_per_second=2) as shown:
        watcher = _Table(found, shown.update)
        shown.update(watcher.table())
        yield watcher


class _Plain:
    """One line as a run begins, and one as it ends."""

    def __init__(self, found: dict["Task", "Outcome"]):
        self._found, self._pace = found, _Pace(found)
        self._begun: Task | None = None

    def moved(self, task: "Task", outcome: "Outcome") -> None:
        self._found[task] = outcome
        if outcome.state == "begun":
            if self._begun is not task:
                self._begun = task
                self._say(f"{task.label}, seed {task.seed}: begun")
            return
        said = f"{outcome.metric} {outcome.distance:.4g}" if outcome.distance is not None else outcome.reason
        self._say(f"{task.label}, seed {task.seed}: {outcome.state}, {said or 'not evaluated'}{self._pace.left(task)}")

    def _say(self, text: str) -> None:
        done = sum(outcome.state == "finished" for outcome in self._found.values())
        print(f"sweep: {done} of {len(self._found)} finished. {text}", file=sys.stderr, flush=True)


class _Table:
    """The table of all runs, drawn anew as one of them moves."""

    def __init__(self, found: dict["Task", "Outcome"], update: Any):
        self._found, self._update, self._pace, self._left = found, update, _Pace(found), ""

    def moved(self, task: "Task", outcome: "Outcome") -> None:
        self._found[task] = outcome
        if outcome.state != "begun":
            self._left = self._pace.left(task)
        self._update(self.table())

    def table(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        done = sum(outcome.state == "finished" for outcome in self._found.values())
        table = Table(title=f"{done} of {len(self._found)} runs finished{self._left}", title_justify="left")
        columns: Any = (("Run", "left"), ("Seeds", "left"), ("Distance", "right"), ("State", "left"))
        for heading, justify in columns:
            table.add_column(heading, justify=justify)
        for label, members in _groups(list(self._found.items())).items():
            table.add_row(*map(Text, (label, _seeds_done(members), _distance(members), _state(members))))
        return table


class _Pace:
    """Steps a second over the runs done here, milestones and start included; the rest at that pace."""

    def __init__(self, found: dict["Task", "Outcome"]):
        from time import monotonic

        self._now, self._started = monotonic, monotonic()
        self._waiting = {task for task, outcome in found.items() if outcome.state != "finished"}
        self._done = 0

    def left(self, task: "Task") -> str:
        """ ", about 0:35:12 left", or nothing when no run has been carried out here."""
        if task not in self._waiting:
            return ""
        self._waiting.remove(task)
        self._done += task.steps
        seconds = (self._now() - self._started) / self._done * sum(task.steps for task in self._waiting)
        hours, rest = divmod(round(seconds), 3600)
        return f", about {hours}:{rest // 60:02d}:{rest % 60:02d} left" if self._waiting else ""
