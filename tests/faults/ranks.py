"""One of the two processes of a run is killed or told to stop: the run ends in seconds, and the same command goes on.

    python tests/faults/ranks.py --times 5

The processes are forked instead of started anew, which spares each of them the seconds of its imports; what ends them,
passes signals on and speaks for them is harness.system.processes.launch as it is.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: this process forks, and may have no other thread

import argparse
import ctypes
import functools
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import forked
import stories
from ledger import REPORTS, Fault, Ledger

from harness.system import locks
from harness.system.errors import DataError
from harness.system.processes import launch

STEPS, EVERY = 24, 4
ARGUMENTS = (*stories.run_arguments("dit", steps=STEPS, checkpoint_every=EVERY), "--no-eval", "--nproc", "2")
PROMPT = launch.FAIL_SECONDS + 10.0  # seconds from the fault to the end of the run, on a machine with other work
FAULTS = {  # which process gets what, the exit code, the last line
    "rank 0 is killed": (
        0,
        signal.SIGKILL,
        1,
        r"error: process 0 of 2 was killed by SIGKILL.* The same command contin",
    ),
    "another command holds the folder": (0, None, 4, r"error: another command works on .*: process \d+, since 20"),
    "rank 1 is killed": (
        1,
        signal.SIGKILL,
        1,
        r"error: process 1 of 2 was killed by SIGKILL.* The same command contin",
    ),
    "rank 0 gets SIGTERM": (0, signal.SIGTERM, 75, r"error: SIGTERM at step \d+: saved. The same command continues"),
    "rank 1 gets SIGTERM": (1, signal.SIGTERM, 75, r"error: SIGTERM at step \d+: saved. The same command continues"),
}


class Forked:
    """What harness.system.processes.launch asks of a process that it starts, for one that is forked from it."""

    def __init__(self, command: list[str], *, env: dict[str, str], stdout: int | None, stderr: Any, **rest: Any):
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            ctypes.CDLL(None).prctl(
                1, signal.SIGKILL
            )  # as harness.system.processes.launch.main: it dies with the one that started it
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
            forked.become(command[command.index("harness") + 1 :])

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


def _forking(folder: Path) -> Callable[[], None]:
    def install() -> None:
        stories.count_pieces(folder)()
        launch.subprocess = type("", (), {**vars(subprocess), "Popen": Forked})

    return install


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def run(folder: Path, fault: str | None = None, after_step: int = 0) -> tuple[list[str], float]:
    """The run of two processes in `folder` to its end, or to `fault`; what is wrong, and seconds from fault to end."""
    log = folder.parent / f"{folder.name}.log"
    log.write_text("")
    rank, number, code, says = FAULTS[fault] if fault else (0, None, 0, "")
    hit: list[float] = []

    def victim(pid: int) -> int:
        if len(_lines(folder)) <= after_step:
            return 0
        hit.append(time.monotonic())
        return int((folder / f"rank{rank}.pid").read_text())

    hold = _held(folder) if code == DataError.exit_code else None
    end = forked.command(ARGUMENTS, folder, log, before=_forking(folder), kill=number, victim=victim)
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


def _held(folder: Path) -> locks.Hold | None:
    found = stories.run_folder(folder)
    return locks.take(found.with_name(f".{found.name}.run.lock"))


def _lines(folder: Path) -> list[str]:
    found = stories.run_folder(folder)
    path = found / "metrics.jsonl" if found else folder / "absent"
    return path.read_text().splitlines() if path.exists() else []


@functools.cache
def _expected(root: Path) -> dict[str, Any]:
    folder = root / "uninterrupted"
    folder.mkdir()
    problems, _ = run(folder)
    assert not problems, problems
    return stories.trained(folder)


def tell(faults: Sequence[str], times: int, ledger: Ledger, root: Path) -> list[str]:
    """Every fault `times` times, one after the other in one run, which must then end as one that met none."""
    problems, slowest, survived = [], dict.fromkeys(faults, 0.0), dict.fromkeys(faults, 0)
    for number in range(times):
        folder, wrong = root / f"run{number}", []
        folder.mkdir()
        for turn, fault in enumerate(faults):
            saved = stories.newest_checkpoint(folder)
            before = len(stories.started(folder))
            found, seconds = run(folder, fault, after_step=(turn + 1) * EVERY + number % EVERY)
            again = {piece for piece in stories.started(folder)[before:] if int(piece.split()[1]) <= saved}
            found += [f"made again although finished: {sorted(again)}"] if again else []
            slowest[fault] = max(slowest[fault], seconds)
            wrong += [f"{fault}: {problem}" for problem in found]
        found, _ = run(folder)
        if not found:
            result, expected = stories.trained(folder), _expected(root)
            found = [f"differs: {key}" for key in expected if result.get(key) != expected[key]]
        problems += wrong + [f"in the end: {problem}" for problem in found]
        for fault in faults:
            survived[fault] += not found and not any(problem.startswith(fault) for problem in wrong)
        if not wrong and not found:
            shutil.rmtree(folder)
    for fault in faults:
        code = FAULTS[fault][2]
        what = f"{fault}, of a run of 2 processes: all end with {code} and say why, and the same command goes on"
        ledger.add(
            Fault(
                "processes",
                what,
                times,
                survived[fault],
                f"{EVERY} steps",
                {"seconds to the end": f"{slowest[fault]:.1f}"},
            )
        )
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5, help="of each fault")
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS), metavar="FAULT")
    parser.add_argument("--out", type=Path, default=REPORTS)
    given = parser.parse_args()
    ledger, root = Ledger("ranks"), Path(tempfile.mkdtemp(prefix="harness-ranks-"))
    problems = tell(given.only, given.times, ledger, root)
    print(ledger.write(given.out), *problems, sep="\n")
    if problems:
        sys.exit(f"{len(problems)} problems; the runs are in {root}")
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
