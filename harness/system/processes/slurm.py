"""SLURM: which task of a step this process is, and scripts for jobs that save before their time limit and are requeued.

`srun` starts one process a GPU; they join each other by the variables that SLURM sets (launch.py). SIGTERM comes some
minutes before the limit, or at preemption; the processes save and end with 75, and the script requeues the job.
The script that --print-sbatch prints is the one that --launcher slurm submits.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.system.errors import Preempted, SetupError, UsageError

FIRST_PORT, NUM_PORTS = 15_000, 16_000  # below the ports that systems give to outgoing connections
SAVE_SECONDS = 300  # between SIGTERM and the time limit
SHORTEST_MINUTES = 10  # or that signal comes at once
# srun answers the first task that fails with SIGKILL to the others. With this they get 60 s to end by themselves, so
# that all tasks of a step that is preempted end with 75.
SRUN = ("srun", "--kill-on-bad-exit=0", "--wait=60")
TIME = re.compile(r"(?:(?P<hours>\d+):(?P<minutes>[0-5]\d):[0-5]\d)|(?:(?P<days>\d+)-(?P<rest>\d{1,2}(:[0-5]\d){0,2}))")
HOW_TO_START = "Start the processes with --nproc, torchrun or srun; for a single one, unset RANK and WORLD_SIZE."
NAME = re.compile(r"[\w.,+-]+")


# Inside a job ----------------------------------------------------------------------------------------------------


def number(name: str, *, default: int | None = None) -> int:
    """The whole number in an environment variable. Raises SetupError when it is none, or missing without a default."""
    text: Any = os.environ.get(name, default)
    try:
        return int(text)
    except (TypeError, ValueError):
        found = "missing" if text is None else f"{text!r}, not a number,"
        raise SetupError(
            f"{name} is {found} in the environment of a run of several processes. {HOW_TO_START}"
        ) from None


def this_task() -> tuple[int, int, int, int] | None:
    """Rank, number of tasks, and both on this node; None outside of a step of several tasks.

    A batch script's own shell has SLURM_PROCID and SLURM_NTASKS too, but it is a single process. Only processes that
    srun starts form a step.
    """
    size = number("SLURM_STEP_NUM_TASKS", default=1)
    if size == 1:
        return None
    return number("SLURM_PROCID"), size, number("SLURM_LOCALID"), _tasks_on_this_node(size)


def _tasks_on_this_node(size: int) -> int:
    """From "4(x2),3": four tasks on each of the first two nodes, three on the third."""
    groups = re.findall(r"(\d+)(?:\(x(\d+)\))?", os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    counts = [int(count) for count, times in groups for _ in range(int(times or 1))]
    node = number("SLURM_NODEID", default=0)
    return counts[node] if node < len(counts) else min(size, number("SLURM_NTASKS_PER_NODE", default=size))


def meeting_point() -> tuple[str, int]:
    """Address and port where processes meet: torchrun's, or the step's first node, where rank 0 is, and a port by job.

    Raises SetupError where neither is known.
    """
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST", "")
    address = os.environ.get("MASTER_ADDR") or first_node(nodes) or os.environ.get("SLURM_LAUNCH_NODE_IPADDR")
    if not address:
        raise SetupError(f"the processes have nowhere to meet: MASTER_ADDR is missing. {HOW_TO_START}")
    job_and_step = number("SLURM_JOB_ID", default=0) + number("SLURM_STEP_ID", default=0)
    return address, number("MASTER_PORT", default=FIRST_PORT + job_and_step % NUM_PORTS)


def first_node(nodes: str) -> str:
    """The first name in a list as SLURM writes it: "gpu[03-05,9],big1" begins with gpu03."""
    first = re.match(r"(?:\[[^\]]*\]|[^,\[])*", nodes)  # matches, if nothing
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0] if first else "")


# Jobs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What a run asks of the cluster. Raises UsageError for what SLURM would misread."""

    nodes: int
    processes_per_node: int  # one a GPU
    time: str  # hours:minutes:seconds, or days-hours
    partition: str | None
    name: str
    logs: Path  # the folder of the job's output
    cpus_per_process: int = 8  # as many threads as read data

    def __post_init__(self) -> None:
        for name in ("nodes", "processes_per_node", "cpus_per_process"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name.replace('_', ' ')} of a job is {getattr(self, name)}; it must be at least 1.")
        for name in filter(None, (self.name, self.partition)):
            if not NAME.fullmatch(name):
                raise UsageError(f"{name!r} names no job or partition; take letters, digits and _ . , + -")
        if "\n" in str(self.logs):
            raise UsageError(f"the folder {str(self.logs)!r} has a line break in its name; choose another --out.")
        if self.minutes < SHORTEST_MINUTES:
            raise UsageError(
                f"--time is {self.time!r}; a job needs at least {SHORTEST_MINUTES} minutes, since the signal to save "
                f"comes {SAVE_SECONDS // 60} minutes before the end."
            )

    @property
    def minutes(self) -> int:
        """The time limit, without its seconds."""
        match = TIME.fullmatch(self.time)
        if not match:
            raise UsageError(
                f"--time is {self.time!r}; write hours:minutes:seconds, like 24:00:00, or days-hours, like 2-00."
            )
        if match["days"] is None:
            return 60 * int(match["hours"]) + int(match["minutes"])
        hours, minutes, *_ = [*map(int, match["rest"].split(":")), 0]
        return 60 * (24 * int(match["days"]) + hours) + minutes


def sbatch_script(job: Job, arguments: Sequence[str]) -> str:
    """A complete job script for `harness ARGUMENTS`: `sbatch` takes it as it is, in the environment of the harness."""
    return _script(job, {"output": job.logs / "%x-%j.log"}, _srun(arguments))


def array_script(job: Job, tasks: Sequence[Sequence[Sequence[str]]], *, at_once: int | None = None) -> str:
    """A script for a job array: element i carries out the commands `harness ARGUMENTS` of tasks[i], one after another.

    At most `at_once` elements run at the same time; an element that is preempted goes back into the queue alone.
    """
    limit = f"%{at_once}" if at_once else ""
    options = {"array": f"0-{len(tasks) - 1}{limit}", "output": job.logs / "%x-%A_%a.log"}
    cases = [f"    {i}) {' && '.join(map(_srun, commands))} ;;" for i, commands in enumerate(tasks)]
    choice = "\n".join(["carry_out() {", '    case "$SLURM_ARRAY_TASK_ID" in', *cases, "    esac", "}"])
    return _script(job, options, "carry_out", choice)


def _srun(arguments: Sequence[str]) -> str:
    return shlex.join([*SRUN, "python", "-m", "harness", *arguments])


def _script(job: Job, more: Mapping[str, object], command: str, functions: str = "") -> str:
    options = {
        "job-name": job.name,
        "partition": job.partition,
        "nodes": job.nodes,
        "ntasks-per-node": job.processes_per_node,
        "gpus-per-node": job.processes_per_node,
        "cpus-per-task": job.cpus_per_process,
        "time": job.time,
        "signal": f"B:TERM@{SAVE_SECONDS}",
        "open-mode": "append",
        **more,
    }
    lines = [f"#SBATCH --{name}={shlex.quote(str(value))}" for name, value in options.items() if value is not None]
    body = _body(shlex.quote(str(job.logs)), command, f"{functions}\n\n" if functions else "")
    return "\n".join(["#!/bin/bash", *lines, "#SBATCH --requeue", body])


def _body(logs: str, command: str, functions: str) -> str:
    return f"""
# Before the first submission: activate the environment in which `python -m harness` works, and
#   mkdir -p {logs}

export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$(({FIRST_PORT} + SLURM_JOB_ID % {NUM_PORTS}))
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # which srun no longer takes from the job by itself
export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}}

# The signal comes to this script alone, and goes on to the processes as SIGTERM, once: srun would kill them for it.
# SIGTERM is what this script asks for; SIGUSR1 and SIGUSR2 come if `sbatch --signal` asks for another.
stop() {{
    trap '' TERM USR1 USR2
    stopped=yes
    scancel --signal=TERM "$SLURM_JOB_ID"
}}
trap stop TERM USR1 USR2

{functions}{command} &
step=$!
while stopped=; wait "$step"; code=$?; [ -n "$stopped" ]; do :; done # a signal ends `wait` early

if [ "$code" -eq {Preempted.exit_code} ]; then # saved: the same command continues
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def submit(job: Job, script: str) -> str:
    """Write `script` beside the logs of `job` and hand it to sbatch; returns the job's number, or raises SetupError."""
    path = job.logs / f"{job.name}.sh"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script, encoding="utf-8")
    try:
        done = subprocess.run(["sbatch", str(path)], capture_output=True, text=True)
    except OSError:
        raise SetupError(
            f"sbatch is not to be found here. The script lies in {path}: submit it from a machine of the cluster."
        ) from None
    number = re.search(r"Submitted batch job (\d+)", done.stdout)
    if done.returncode or not number:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing."]
        raise SetupError(f"sbatch refused {path}: {said[-1]}")
    return number[1]
