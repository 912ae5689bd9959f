"""Harness commands in child processes, each forked from one that has imported everything: real exit codes, quickly."""

import builtins
import contextlib
import io
import os
import resource
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import NamedTuple

PATIENCE = 300  # seconds that a command may take on a busy machine
HEAVY = ["everything"]


class Done(NamedTuple):
    code: int
    stdout: str
    stderr: str
    opened: int  # files for writing, by Python


@dataclass(frozen=True)
class Disk:
    """A disk that takes nothing any more from the moment the command opens its `full_from`th file for writing."""

    full_from: int | None = None
    filler: str | None = None  # on a disk of its own: fill it with this file; None: forbid the process to write


def harness(*arguments: object, cwd: Path, disk: Disk = Disk(), before: str | None = None,
            uid: int | None = None, **environment: str) -> Done:  # fmt: skip
    """Carry out `harness ARGUMENTS`. `before`, a function of everything.py, is called in the child first."""
    context = prepared()
    ours, theirs = context.Pipe(duplex=False)
    given = {**os.environ, **environment}
    task = ([str(part) for part in arguments], str(cwd), given, disk, before, uid, theirs)
    child = context.Process(target=_carry_out, args=task)
    child.start()
    theirs.close()
    try:
        if not ours.poll(PATIENCE):
            raise AssertionError(f"harness {' '.join(task[0])} has not ended after {PATIENCE} s")
        return Done(*ours.recv())
    finally:
        if not ours.poll(0) and child.is_alive():
            child.join(5)
            child.kill()
        child.join()
        ours.close()


def prepared() -> ForkServerContext:
    """Starts the process that the others are forked from; it finds modules by its environment alone."""
    context = get_context("forkserver")
    before, root = os.environ.get("PYTHONPATH"), Path(__file__).parents[2]
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (root, root / "tests", root / "tests" / "faults")))
    try:
        context.set_forkserver_preload(HEAVY)
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
    return context


def refused(done: Done, code: int = 4) -> str:
    """The one line that a command ended with, which must be an error of this exit code without a traceback."""
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.code == code, f"exit code {done.code}, expected {code}: {done.stderr}"
    assert len(told) == 1, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert told[0] == done.stderr.rstrip().splitlines()[-1], done.stderr
    return told[0]


# In the child ----------------------------------------------------------------------------------------------------


def _carry_out(
    arguments: Sequence[str], cwd: str, environment: dict[str, str], disk: Disk, before: str | None,
    uid: int | None, answer: Connection,
) -> None:  # fmt: skip
    import everything
    import torch

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    torch.set_num_threads(1)
    if before is not None:
        getattr(everything, before)()
    if uid is not None:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does at its start
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        counter = _count_opened(disk)
        code = _exit_code(arguments)
    answer.send((code, stdout.getvalue(), stderr.getvalue(), counter[0]))


def _exit_code(arguments: Sequence[str]) -> int:
    from harness.cli import app

    try:
        app(list(arguments), prog_name="harness")
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 0


def _count_opened(disk: Disk) -> list[int]:
    counter, opened = [0], open

    def counted(file, mode="r", *arguments, **options):
        if set(mode) & set("wax+") and not str(file).startswith("/dev/"):
            if counter[0] == disk.full_from:
                _fill(disk, opened)
            counter[0] += 1
        return opened(file, mode, *arguments, **options)

    builtins.open = io.open = counted
    return counter


def _fill(disk: Disk, opened: Callable) -> None:
    if disk.filler is None:
        _, highest = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, highest))
        return
    with contextlib.suppress(OSError), opened(disk.filler, "wb", buffering=0) as file:
        while file.write(bytes(1 << 12)):
            pass
