"""Harness commands in child processes, each forked from one that has imported everything: real exit codes, quickly.

`harness` carries a command out, and `interrupted` sends it a signal while it works. The process that they are forked
from must stay single-threaded, or a child would inherit locks that nobody opens any more: it computes nothing itself.
"""

import builtins
import contextlib
import io
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import NamedTuple, NoReturn

PATIENCE = 300  # seconds that a command may take on a busy machine
POLL_SECONDS = 0.002
HEAVY = ["everything"]


class Done(NamedTuple):
    code: int
    stdout: str
    stderr: str
    opened: int  # files for writing, by Python


class End(NamedTuple):
    """How a command that may have got a signal ended."""

    code: int  # below zero: the signal that killed it
    worked: float  # seconds of processor time
    sent: bool  # whether the signal came before its end


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


def interrupted(
    arguments: Sequence[str], folder: Path, *, before: Callable[[], None],
    kill: signal.Signals | None = None, victim: Callable[[int], int] = lambda pid: 0,
) -> End:  # fmt: skip
    """Run `harness ARGUMENTS` in `folder`, its output in `log_of(folder)`; send `kill`, once, to a process of its.

    `victim` is asked again and again, with the command's own id, until it answers with that or with one of its
    children's. `before` runs in the child, ahead of the command. Whatever the command started has gone at the end.
    """
    child = prepared().Process(target=_answer_in_a_log, args=(tuple(arguments), folder, before))
    child.start()
    sent, started, worked = False, time.monotonic(), 0.0
    while child.is_alive():
        worked = max(worked, processor_seconds(child.pid))
        if kill and not sent and (chosen := victim(child.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(chosen, kill)
                sent = True
        if time.monotonic() - started > PATIENCE:
            os.killpg(child.pid, signal.SIGKILL)
            raise TimeoutError(f"harness {' '.join(arguments)} hangs: {log_of(folder).read_text()[-2000:]}")
        time.sleep(POLL_SECONDS)
    _wait_for_group(child.pid)
    return End(child.exitcode, worked, sent and child.exitcode != 0)


def log_of(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.log"


def _wait_for_group(pid: int) -> None:
    """Until no process of the command's own session is left: those that encode follow it by themselves."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(POLL_SECONDS)
    os.killpg(pid, signal.SIGKILL)
    raise TimeoutError("a process that a killed command started has outlived it")


def processor_seconds(pid: int) -> float:
    """Processor time of a command and of the processes it has started; 0 where the system does not tell."""
    total = 0.0
    for process in [pid, *children(pid)]:
        with contextlib.suppress(OSError, ValueError):
            for thread in os.listdir(f"/proc/{process}/task"):
                with contextlib.suppress(OSError):
                    total += int(Path(f"/proc/{process}/task/{thread}/schedstat").read_text().split()[0]) / 1e9
    return total


def children(pid: int) -> list[int]:
    """The processes that a command has started, where the system tells."""
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def prepared() -> ForkServerContext:
    """Starts the process that the others are forked from; it finds modules by its environment alone."""
    context = get_context("forkserver")
    before, root = dict(os.environ), Path(__file__).parents[2]
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (root, root / "tests", root / "tests" / "faults")))
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: who forks may have no other thread
    try:
        context.set_forkserver_preload(HEAVY)
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
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


def _answer_in_a_log(arguments: Sequence[str], folder: Path, before: Callable[[], None]) -> NoReturn:
    import torch

    os.setsid()
    with open(log_of(folder), "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)
    torch.set_num_threads(1)
    become(arguments, before)


def become(arguments: Sequence[str], before: Callable[[], None] = lambda: None) -> NoReturn:
    """End this process as `harness ARGUMENTS` ends."""
    from harness.__main__ import main

    code = 1
    try:
        before()
        sys.argv = ["harness", *arguments]
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


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
