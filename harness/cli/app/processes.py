"""Commands that several processes carry out together: how they start, and which of them prints."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.app import completion
from harness.cli.app.answer import progress_for
from harness.cli.app.state import state
from harness.system.errors import UsageError

if TYPE_CHECKING:
    from harness.system.processes.world import World
    from harness.system.progress import Progress

EXECUTION = "Execution"  # heading of the options that change how a command is carried out
SLURM = "With SLURM"

Nproc = Annotated[
    int | None,
    typer.Option(
        "--nproc", min=1, max=4096, metavar="N", help="Processes on this machine, one a GPU.", rich_help_panel=EXECUTION
    ),
]
Launcher = Annotated[
    str,
    typer.Option(
        help="local, or slurm: submit this command as a job.",
        metavar="NAME",
        autocompletion=completion.among("local", "slurm"),
        rich_help_panel=SLURM,
    ),
]
Nodes = Annotated[
    int,
    typer.Option(
        min=1, max=100_000, metavar="N", help="Machines of a job, each with --nproc GPUs.", rich_help_panel=SLURM
    ),
]
Time = Annotated[str, typer.Option(metavar="HH:MM:SS", help="Time limit of a job.", rich_help_panel=SLURM)]
Partition = Annotated[str | None, typer.Option(metavar="NAME", help="Partition of a job.", rich_help_panel=SLURM)]
PrintSbatch = Annotated[
    bool, typer.Option("--print-sbatch", help="Print the job's script, submit nothing.", rich_help_panel=SLURM)
]


def refuse_of_a_job(ctx: typer.Context, launcher: str, print_sbatch: bool) -> None:
    """UsageError for a typed option that would be ignored, since this command starts no job."""
    if launcher == "slurm" or print_sbatch:
        return
    for name in ("nodes", "time", "partition"):
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(
                f"--{name} is of a SLURM job, and this command starts none: add --launcher slurm or --print-sbatch, or "
                f"leave --{name} out. --nproc is how many processes start on this machine."
            )


def start_all(nproc: int | None) -> None:
    """Carry this command out in `nproc` processes and end with their exit code; nothing in one of them, or for None.

    They read the same settings as this one, and --nproc among them says nothing to one of several.
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
