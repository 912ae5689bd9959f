"""Many processes, one run: which of them this one is, how they meet, and how `--nproc` starts them on one machine.

The environment is torchrun's or SLURM's: `torchrun -m harness run ...` and `srun python -m harness run ...` work too.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType

from harness.system.errors import HarnessError, Interrupted, Preempted, SetupError, UsageError
from harness.system.processes import signals, slurm
from harness.system.processes.world import World

JOIN = timedelta(minutes=10)  # how long all processes may take to start and meet
PATIENCE = timedelta(hours=2)  # timeout of a collective: the main process measures images while the others wait
LEAVE_SECONDS = 60.0  # how long the others may take to end once the main process has
SAVE_SECONDS = (
    15 * 60.0
)  # the longest time from a signal to the end: a log interval of steps, then gigabytes to a slow disk
FAIL_SECONDS = 3.0  # how long the others may take to end by themselves, and say why, once one has failed
POLL_SECONDS = 0.05
SHOWN_LINES = 40  # the last of a failed process's stderr
STOPPED: dict[int, int] = {number: error.exit_code for number, error in signals.STOPS.items()}
CONTINUES = "The same command continues from the last checkpoint, or starts where there is none yet."
STORE = "harness, attempt {}"  # torchrun may try again with the same store
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


def current() -> World:
    """Which process of how many this one is, from the environment; one of one where nothing is said.

    Raises SetupError for an environment that contradicts itself.
    """
    if "RANK" in os.environ or "WORLD_SIZE" in os.environ:
        alone = os.environ.get("WORLD_SIZE") == "1"
        defaults = World() if alone else [None] * len(TORCHRUN)
        world = World(*(slurm.number(name, default=value) for name, value in zip(TORCHRUN, defaults, strict=True)))
    else:
        world = World(*(slurm.this_task() or World()))
    if 0 <= world.rank < world.size and 0 <= world.local_rank < world.local_size <= world.size:
        return world
    raise SetupError(
        f"the environment says process {world.rank} of {world.size}, and {world.local_rank} of {world.local_size} on "
        f"this machine, which cannot be. {slurm.HOW_TO_START}"
    )


def processors() -> int:
    """How many this program may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# Meeting ---------------------------------------------------------------------------------------------------------


@contextmanager
def joined(timeout: timedelta = JOIN) -> Iterator[World]:
    """The run's processes, able to exchange tensors until the end of the block; one process needs none of it.

    Raises SetupError when they do not meet within `timeout`.
    """
    world = current()
    if world.size == 1:
        yield world
        return
    import torch.distributed as dist

    store = _connected(world, timeout)
    try:
        yield world
        _until_main_has_left(store, world)
    except (Preempted, Interrupted, KeyboardInterrupt):
        _until_main_has_left(store, world)
        raise
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo/" not in str(error):
            raise
        _say(store, f"{world.rank} lost touch")
        raise HarnessError(
            f"process {world.rank} of {world.size} lost touch with another, which has ended or hangs; that one's error "
            f"says why. {CONTINUES}"
        ) from error
    finally:
        _leave(store, world)


def _connected(world: World, timeout: timedelta):
    """Join the process group; returns the store that all processes see."""
    from torch.distributed import PrefixStore, Store, TCPStore, init_process_group

    address, port = slurm.meeting_point()
    device = _own_device(world)
    keeps_store = world.is_main and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # else the launcher does
    store: Store | None = None
    try:
        store = TCPStore(address, port, is_master=keeps_store, timeout=timeout, wait_for_workers=False)
        store = PrefixStore(STORE.format(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)), store)
        store.set(f"{world.rank} is here", "")
        store.wait([f"{rank} is here" for rank in range(world.size)], timeout)
        backend = "nccl" if device else "gloo"
        init_process_group(
            backend, store=store, rank=world.rank, world_size=world.size, timeout=PATIENCE, device_id=device
        )
    except RuntimeError as error:
        absent = []
        with suppress(RuntimeError):
            absent = [str(rank) for rank in range(world.size) if store and not store.check([f"{rank} is here"])]
        why = f"process {' and '.join(absent)} did not come" if absent else str(error).splitlines()[0]
        raise SetupError(
            f"process {world.rank} of {world.size} could not join the others at {address}:{port} within "
            f"{timeout.total_seconds():.0f} s: {why}. Check that all were started, that every machine reaches this "
            "address, and that the port is free; MASTER_ADDR and MASTER_PORT choose others."
        ) from error
    return store


def _own_device(world: World):
    """The GPU of this process, made its current one; None where there is none at all."""
    import torch

    if not torch.cuda.is_available():
        return None
    count = torch.cuda.device_count()
    if 1 < count <= world.local_rank:
        raise SetupError(
            f"process {world.local_rank} of this machine has no GPU: there are {count}. Start at most as many on each."
        )
    device = torch.device("cuda", world.local_rank if count > 1 else 0)  # SLURM may show each task its own GPU alone
    torch.cuda.set_device(device)
    return device


def _until_main_has_left(store, world: World) -> None:
    """Wait, since schedulers end a run soon after its first process ends, and the main one may still save."""
    if not world.is_main:
        with suppress(RuntimeError):  # it went without a word, and the store with it
            store.wait(["main has left"], PATIENCE)


def _say(store, word: str) -> None:
    with suppress(RuntimeError):  # the process that kept the store has ended
        store.set(word, "")


def _leave(store, world: World) -> None:
    import torch.distributed as dist

    if world.is_main:
        _say(store, "main has left")
    # After an error, NCCL may wait for a process that has ended; this one must still end.
    leaving = threading.Thread(target=dist.destroy_process_group, daemon=True)
    leaving.start()
    leaving.join(LEAVE_SECONDS / 2)


# Starting --------------------------------------------------------------------------------------------------------


def without(arguments: Sequence[str], option: str) -> list[str]:
    """The command line without `option` and its value, written `--option value` or `--option=value`."""
    values = [i + 1 for i, argument in enumerate(arguments) if argument == option]
    kept = [argument for i, argument in enumerate(arguments) if i not in values and argument != option]
    return [argument for argument in kept if not argument.startswith(f"{option}=")]


def run_processes(
    nproc: int, arguments: Sequence[str], *, entry: Sequence[str] = (sys.executable, "-m", "harness")
) -> int:
    """Run `python -m harness ARGUMENTS` as `nproc` processes that join each other; returns the run's exit code.

    That is 0, or the code of the process that failed first. Signals to stop are passed on, and the processes
    have SAVE_SECONDS to save. stdout is the main process's; the others' stderr is shown when one of them is to blame.

    The processes get torchrun's environment, but torchrun's agent does not start them. When one process ends with an
    error, such as 75 while the main one still saves, the agent sends SIGTERM to the others and SIGKILL 30 s later. It
    ends with 1, whatever their exit codes. When it is killed, its processes go on.
    """
    _refuse(nproc)
    noted: list[signal.Signals] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(signal.Signals(number))

    with signals.handled(dict.fromkeys(signals.watched(), note)), tempfile.TemporaryDirectory() as folder:
        group = _Processes([*entry, *arguments], nproc, noted, Path(folder))
        try:
            group.attend()
        finally:
            group.kill()
        return group.verdict()


def _refuse(nproc: int) -> None:
    if nproc < 1:
        raise UsageError(f"--nproc is {nproc}; it must be at least 1.")
    import torch

    has_gpu = torch.cuda.is_available()
    count, what = (torch.cuda.device_count(), "GPU") if has_gpu else (processors(), "processor core")
    if nproc > count:
        raise UsageError(f"--nproc is {nproc}, one process a {what}, and there are {count} here. Take {count} at most.")


def _own_store():
    """The store where the processes meet, on a port of the loopback that was free and stays taken."""
    from torch.distributed import TCPStore

    with socket.create_server(("127.0.0.1", 0)) as listening:  # a TCPStore that opens its own listens on every network
        port = listening.getsockname()[1]
        fd = listening.detach()
        return TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=fd)


class _Processes:
    """The processes of a run, from their start to the last one's end."""

    def __init__(self, command: list[str], nproc: int, noted: list[signal.Signals], folder: Path):
        self._nproc, self._noted, self._folder = nproc, noted, folder
        self._store = _own_store()
        # Exit code by rank, in the order of ending; below zero the signal that killed it.
        self._ends: dict[int, int] = {}
        self._late: list[int] = []  # ranks that were killed at the deadline
        self._running = {rank: self._start(rank, command) for rank in range(nproc)}

    def _start(self, rank: int, command: list[str]) -> subprocess.Popen:
        with open(self._folder / str(rank), "wb") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "harness.system.processes.launch", str(os.getpid()), *command],
                env=os.environ | _environment(rank, self._nproc, self._store.port),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if rank else None,
                stderr=errors if rank else None,
                start_new_session=True,  # so that Ctrl-C in the terminal reaches it once, through this process
            )

    def attend(self) -> None:
        """Until all have ended: pass signals on, and end the run when one of its processes fails or takes too long."""
        deadline, passed_on = float("inf"), 0
        while self._running:
            for rank, process in list(self._running.items()):
                if process.poll() is not None:
                    del self._running[rank]
                    self._ends[rank] = process.returncode
                    deadline = min(deadline, time.monotonic() + self._grace_after(rank))
            for received in self._noted[passed_on:]:
                # A second Ctrl-C means "at once"; a second SIGTERM only that a scheduler signals more than one way.
                if received == signal.SIGINT or received not in self._noted[:passed_on]:
                    for process in self._running.values():
                        process.send_signal(received)
                passed_on += 1
                deadline = min(deadline, time.monotonic() + SAVE_SECONDS)
            if time.monotonic() > deadline:
                self._late = list(self._running)
                return
            time.sleep(POLL_SECONDS)

    def _grace_after(self, rank: int) -> float:
        """How long the others may still take after this one's end."""
        if self._stopping:
            return SAVE_SECONDS  # the main process saves, also if this one fell meanwhile
        if self._ends[rank]:
            return FAIL_SECONDS
        return LEAVE_SECONDS if rank == 0 else float("inf")

    @property
    def _stopping(self) -> bool:
        """Whether the run, or one of its processes, was asked to stop."""
        return bool(self._noted) or any(map(_is_a_stop, self._ends.values()))

    def kill(self) -> None:
        """End what still runs, with all that it started."""
        for process in self._running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in self._running.values():
            with suppress(subprocess.TimeoutExpired):  # a wedged driver may keep even a killed process
                process.wait(FAIL_SECONDS)

    def verdict(self) -> int:
        """The exit code of the run; says on stderr what the main process has not said itself."""
        main, late = self._ends.get(0), f"process {' and '.join(map(str, self._late))} of {self._nproc} did not end"
        if self._stopping and (main is None or _is_a_stop(main)):
            if self._late:
                _say_error(f"{late} in time after the signal to stop. {CONTINUES}")
            elif main is not None and main < 0:
                _say_error(f"stopped before the run began. {CONTINUES}")
            code = main if main is not None else -self._noted[0] if self._noted else Preempted.exit_code
            return STOPPED.get(-code, code)
        failed = [rank for rank, code in self._ends.items() if code]
        # Not one that lost touch with another, if another failed; and only the main process if a stop was under way.
        cause = [0] if self._stopping and main else [rank for rank in failed if not self._lost_touch(rank)] or failed
        if cause:
            return self._failed(cause[0], main)
        if self._late:
            _say_error(f"{late} with the main process.")
        return HarnessError.exit_code if self._late else 0

    def _failed(self, rank: int, main: int | None) -> int:
        """Say why this process failed, unless the main process has said the same; returns the exit code."""
        code, name = self._ends[rank], f"process {rank} of {self._nproc}"
        if code < 0:
            killer = signal.Signals(-code).name
            memory = " If nobody did that, memory ran out: see --micro-batch." if killer == "SIGKILL" else ""
            _say_error(f"{name} was killed by {killer}.{memory} {CONTINUES}")
            return HarnessError.exit_code
        if main != code or self._lost_touch(0):
            lines = (self._folder / str(rank)).read_text(errors="replace").splitlines()[-SHOWN_LINES:]
            if lines and lines[-1].startswith("error: "):
                _say_error(f"{name}: {lines[-1].removeprefix('error: ')}")
            else:
                print(*lines, sep="\n", file=sys.stderr)
                _say_error(f"{name} ended with exit code {code}. {CONTINUES}")
        return code

    def _lost_touch(self, rank: int) -> bool:
        from torch.distributed import PrefixStore

        return PrefixStore(STORE.format(0), self._store).check([f"{rank} lost touch"])


def _is_a_stop(code: int) -> bool:
    """Whether a process ended so because it was asked to."""
    return code in STOPPED.values() or -code in STOPPED


def _say_error(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)


def _environment(rank: int, nproc: int, port: int) -> dict[str, str]:
    """The variables that torchrun sets for its processes; by default a share of the cores, and the loopback address."""
    unless_set = {"OMP_NUM_THREADS": str(max(1, processors() // nproc))}
    if sys.platform == "linux":
        unless_set["GLOO_SOCKET_IFNAME"] = "lo"  # gloo would look up the name of the host
    return {
        **{name: value for name, value in unless_set.items() if name not in os.environ},
        **{name: str(value) for name, value in zip(TORCHRUN, (rank, nproc, rank, nproc), strict=True)},
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


def main() -> None:
    """`python -m harness.system.processes.launch PARENT COMMAND...`: become COMMAND, killed when PARENT dies."""
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":  # elsewhere a parent that is killed leaves its processes to time out
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
        if os.getppid() != int(parent):
            sys.exit(f"error: process {parent}, which started this one, has ended.")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
