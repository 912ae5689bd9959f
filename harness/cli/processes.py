"""Commands that several processes carry out together: how they start, and who tells the user."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.answer import progress_for

if TYPE_CHECKING:
    from harness.progress import Progress
    from harness.world import World

Nproc = Annotated[int | None, typer.Option("--nproc", metavar="N", help="Processes on this machine, one a GPU.")]


def start_all(nproc: int | None) -> None:
    """Carry this command out in `nproc` processes and end with their exit code; nothing in one of them, or for None."""
    from harness import launch

    if nproc is not None and launch.current().size == 1:
        raise typer.Exit(launch.run_processes(nproc, launch.without(sys.argv[1:], "--nproc")))


@contextmanager
def together(label: str) -> Iterator[tuple["World", "Progress"]]:
    """The processes of this command, joined, and a progress that only the main one shows, under `label`."""
    from harness import launch

    with launch.joined() as world:
        progress = progress_for(label, shown=world.is_main)
        try:
            yield world, progress
        finally:
            progress.close()
