"""One of the two processes of a run is killed or told to stop: the run ends in seconds, and the same command goes on.

The processes are forked instead of started anew, which spares each of them the seconds of its imports; what ends them,
passes signals on and speaks for them is harness.system.processes.launch as it is. HARNESS_FAULTS=long tries every fault
five times and writes the counts to reports/evidence/ranks.json.
"""

import ctypes
import functools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import stories
from command_line import alive
from commands import become, interrupted, log_of
from positions import LONG, record

from harness.system import locks
from harness.system.processes import launch

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="moments are chosen by /proc")]

TIMES = 5 if LONG else 1
STEPS, EVERY = 24, 4
ARGUMENTS = (*stories.run_arguments("dit", steps=STEPS, checkpoint_every=EVERY), "--no-eval", "--nproc", "2")
PROMPT = launch.FAIL_SECONDS + 10.0  # seconds from the fault to the end of the run, on a machine with other work
KILLED = r"error: process {} of 2 was killed by SIGKILL.* The same command contin"
SAVED = r"error: SIGTERM at step \d+: saved. The same command continues"
HELD = "another command holds the folder"
FAULTS = {  # which process gets what, the exit code, the last line
    "rank 0 is killed": (0, signal.SIGKILL, 1, KILLED.format(0)),
    HELD: (0, None, 4, r"error: another command works on .*: process \d+, since 20"),
    "rank 1 is killed": (1, signal.SIGKILL, 1, KILLED.format(1)),
    "rank 0 gets SIGTERM": (0, signal.SIGTERM, 75, SAVED),
    "rank 1 gets SIGTERM": (1, signal.SIGTERM, 75, SAVED),
}


class Forked:
    """What harness.system.processes.launch asks of a process that it starts, for one that is forked from it."""

    def __init__(self, command: list[str], *, env: dict[str, str], stdout: int | None, stderr: Any, **rest: Any):
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # as launch.main: it dies with the one that started it
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.environ.update(env)
            Path(f"rank{env['RANK']}.pid").write_text(str(os.getpid()))
            silent = os.open(os.devnull, os.O_RDWR)
            os.dup2(silent, 0)
            if stdout is not None:
                os.dup2(silent, 1)
            if stderr is not None:
                os.dup2(stderr.fileno(), 2)
            become(command[command.index("harness") + 1 :])

    def poll(self) -> int | None:
        if self.returncode is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, timeout: float) -> None:
        ends = time.monotonic() + timeout
        while self.poll() is None and time.monotonic() < ends:
            time.sleep(0.01)


def fork_ranks(folder: Path) -> None:
    """In the child, ahead of its command."""
    stories.count_pieces(folder)
    launch.subprocess = type("", (), {**vars(subprocess), "Popen": Forked})


def run(folder: Path, fault: str | None = None, after_step: int = 0) -> tuple[list[str], float]:
    """The run of two processes in `folder` to its end, or to `fault`; what is wrong, and seconds from fault to end."""
    log = log_of(folder)
    log.write_text("")
    rank, number, code, says = FAULTS[fault] if fault else (0, None, 0, "")
    hit: list[float] = []

    def victim(pid: int) -> int:
        if _lines_logged(folder) <= after_step:
            return 0
        hit.append(time.monotonic())
        return int((folder / f"rank{rank}.pid").read_text())

    found = stories.run_folder(folder)
    hold = locks.take(found.with_name(f".{found.name}.run.lock")) if fault == HELD else None
    end = interrupted(ARGUMENTS, folder, before=functools.partial(fork_ranks, folder), kill=number, victim=victim)
    if hold:
        hold.release()
    seconds = time.monotonic() - hit[0] if hit else 0.0
    said = log.read_text()
    problems = [] if end.code == code else [f"ended with {end.code} in place of {code}: {said[-800:]}"]
    if not re.search(says, said):
        problems.append(f"said: {said[-800:]}")
    if seconds > PROMPT and number == signal.SIGKILL:
        problems.append(f"took {seconds:.1f} s to end")
    time.sleep(0.05)
    for process in folder.glob("rank*.pid"):
        if alive(int(process.read_text())):
            problems.append(f"{process.stem} outlived the run")
    return problems, seconds


def _lines_logged(folder: Path) -> int:
    found = stories.run_folder(folder)
    path = found / "metrics.jsonl" if found else folder / "absent"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_run_of_two_processes_ends_with_either_of_them_and_goes_on_to_the_same_end(tmp_path):
    """Every fault, one after the other in one run, which must then end as one that met none."""
    whole = tmp_path / "whole"
    whole.mkdir()
    assert run(whole) == ([], 0.0)
    expected, slowest = stories.trained(whole), dict.fromkeys(FAULTS, 0.0)
    for number in range(TIMES):
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        for turn, fault in enumerate(FAULTS):
            saved, before = stories.newest_checkpoint(folder), len(stories.started(folder))
            problems, seconds = run(folder, fault, after_step=(turn + 1) * EVERY + number % EVERY)
            assert not problems, fault
            again = {piece for piece in stories.started(folder)[before:] if int(piece.split()[1]) <= saved}
            assert not again, f"{fault}: made again although finished: {sorted(again)}"
            slowest[fault] = max(slowest[fault], seconds)
        assert run(folder) == ([], 0.0)
        assert stories.trained(folder) == expected
    for fault, (_, _, code, _) in FAULTS.items():
        what = f"{fault}, of a run of 2 processes: all end with {code} and say why, and the same command goes on"
        slow = {"seconds to the end": f"{slowest[fault]:.1f}"}
        record("processes", what, TIMES, lost=f"{EVERY} steps", suite="ranks", **slow)
