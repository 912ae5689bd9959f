"""Commands that several processes carry out together: how they start, and which of them prints."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from harness.cli.app.answer import progress_for, show
from harness.cli.app.options import EXECUTION, option
from harness.cli.app.state import state
from harness.system.errors import UsageError

if TYPE_CHECKING:
    from harness.system.processes.slurm import Job
    from harness.system.processes.world import World
    from harness.system.progress import Progress

SLURM = "With SLURM"

Nproc = Annotated[int | None, option("Processes on this machine, one a GPU.", "N", panel=EXECUTION, min=1, max=4096)]
Launcher = Annotated[
    Literal["local", "slurm"], option("local, or slurm: submit this command as a job.", "NAME", panel=SLURM)
]
Nodes = Annotated[int, option("Machines of a job, each with --nproc GPUs.", "N", panel=SLURM, min=1, max=100_000)]
Time = Annotated[str, option("Time limit of a job.", "HH:MM:SS", panel=SLURM)]
Partition = Annotated[str | None, option("Partition of a job.", "NAME", panel=SLURM)]
PrintSbatch = Annotated[bool, option("Print the job's script, submit nothing.", name="--print-sbatch", panel=SLURM)]


def is_a_job(ctx: typer.Context, launcher: str, print_sbatch: bool) -> bool:
    """Whether this command is for a SLURM job. UsageError where it is not, and an option of a job was typed."""
    if launcher == "slurm" or print_sbatch:
        return True
    for name in ("nodes", "time", "partition"):
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(
                f"--{name} belongs to a SLURM job, and this command starts none: add --launcher slurm or "
                f"--print-sbatch, or leave --{name} out. --nproc is how many processes start on this machine."
            )
    return False


def start_all(nproc: int | None) -> None:
    """Carry this command out in `nproc` processes and end with their exit code; nothing in one of them, or for None.

    The processes read the same settings as this one. A --nproc that is set there does not start further processes.
    """
    from harness.system.processes import launch

    if nproc is not None and launch.current().size == 1 and not (nproc == 1 and "--nproc" in state.taken):
        raise typer.Exit(launch.run_processes(nproc, launch.without(sys.argv[1:], "--nproc")))


@contextmanager
def together(label: str) -> Iterator[tuple["World", "Progress"]]:
    """The processes of this command, joined, and a progress that only the main one shows, under `label`."""
    from harness.system.processes import launch

    with launch.joined() as world:
        progress = progress_for(label, shown=world.is_main)
        try:
            yield world, progress
        finally:
            progress.close()


def submit(job: "Job", script: str, print_only: bool, as_json: bool, **facts: int) -> None:
    """Print the script of a SLURM job, or submit it and print its number."""
    from harness.system.processes import slurm

    if print_only:
        print(script, end="")
    else:
        show({"job": slurm.submit(job, script), **facts}, as_json, lambda answer: [answer["job"]])
