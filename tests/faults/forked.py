"""Real commands in children of one process that has imported everything once: a start takes milliseconds, not seconds.

This process must stay single-threaded, or a child would inherit locks that nobody opens any more: OMP_NUM_THREADS is 1
before torch is imported, and it computes nothing itself.
"""

import contextlib
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from harness.__main__ import main
from harness.system import torchvision_guard

# What the commands import when they need it; from here on it is there in every child.
for _module in (
    "harness.runs.training_run", "harness.runs.sampling", "harness.runs.measuring", "harness.runs.exporting",
    "harness.data.latents.encode", "harness.data.latents.vae", "harness.evaluation.evaluate",
    "harness.evaluation.networks.digits_classifier", "sklearn.datasets", "PIL.Image",
):  # fmt: skip
    importlib.import_module(_module)
torchvision_guard.install()
importlib.import_module("diffusers").AutoencoderKL  # noqa: B018 (it is imported by being asked for)

POLL_SECONDS = 0.002
HANGS_AFTER = 600.0  # seconds: a command that takes so long is a failure of the suite


class End(NamedTuple):
    """How a command ended."""

    code: int  # below zero: the signal that killed it
    worked: float  # seconds of processor time
    sent: bool  # whether the signal came before its end


def command(
    arguments: Sequence[str],
    folder: Path,
    log: Path,
    *,
    before: Callable[[], None] = lambda: None,
    kill: signal.Signals | None = None,
    victim: Callable[[int], int] = lambda pid: 0,
) -> End:
    """Run `harness ARGUMENTS` in `folder`, its output in `log`; send `kill`, once, to the process that `victim` names.

    `victim` is asked again and again, with the command's own id, until it answers with that or with one of its
    children's. `before` runs in the child, ahead of the command. Whatever the command started has gone at the end.
    """
    assert_alone()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        with open(log, "ab", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.chdir(folder)
        become(arguments, before)
    sent, started, worked = False, time.monotonic(), 0.0
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            break
        worked = max(worked, processor_seconds(pid))
        if kill and not sent and (chosen := victim(pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(chosen, kill)
                sent = True
        if time.monotonic() - started > HANGS_AFTER:
            os.killpg(pid, signal.SIGKILL)
            raise TimeoutError(f"harness {' '.join(arguments)} hangs: {log.read_text()[-2000:]}")
        time.sleep(POLL_SECONDS)
    _wait_for_group(pid)
    code = os.waitstatus_to_exitcode(status)
    return End(code, worked, sent and code != 0)


def become(arguments: Sequence[str], before: Callable[[], None] = lambda: None) -> NoReturn:
    """End this process as `harness ARGUMENTS` ends."""
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
    """Of a command, where the system tells."""
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def assert_alone() -> None:
    """That this process may fork."""
    if os.path.isdir("/proc/self/task"):
        threads = os.listdir("/proc/self/task")
        assert len(threads) == 1, f"{len(threads)} threads; a child could inherit their locks"
