"""Many processes as one run: who is who, how they meet, how they end. The processes are real, and train nothing."""

import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from command_line import alive

from harness.system import errors
from harness.system.errors import SetupError, UsageError
from harness.system.processes import launch
from harness.system.processes.world import World

LAUNCH = (
    "import sys; from harness.system.processes import launch; "
    "launch.run_processes(2, sys.argv[2:], entry=[sys.executable, sys.argv[1]])"
)
# What a harness does around its training, without the training.
CHILD = """
import os, signal, sys, time, typer
from pathlib import Path
from harness.cli.app.answer import AGAIN, answering
from harness.system import errors
from harness.system.processes import launch, signals
rank, folder = int(os.environ["RANK"]), Path(sys.argv[1])

def work():
{body}

(folder / f"pid{{rank}}").write_text(str(os.getpid()))
try:
    answering(work, AGAIN)()
except typer.Exit as exit:
    sys.exit(exit.exit_code)
"""
HANGS = """
    (folder / f"ready{rank}").touch()
    time.sleep(60)
"""


def train(saving: float) -> str:
    """Until a signal comes; then the main process saves for so many seconds, and the others end at once."""
    return f"""
    with signals.deferred() as inbox:
        (folder / f"ready{{rank}}").touch()
        while not inbox.received:
            time.sleep(0.01)
        time.sleep({saving} if rank == 0 else 0)
        (folder / f"saved{{rank}}").touch()
    raise signals.error(inbox.received, 7)
"""


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in [*launch.TORCHRUN, "MASTER_ADDR", "MASTER_PORT", *(n for n in os.environ if n.startswith("SLURM"))]:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(tmp_path, capfd):
    """Exit code, stdout and stderr of a run, to which `meanwhile` happens once all its processes are at work."""

    def run(body: str, nproc: int = 2, meanwhile=None) -> tuple[int, str, str]:
        (tmp_path / "child.py").write_text(CHILD.format(body=body))
        happens = (lambda: (wait_for(tmp_path, "ready*", nproc), meanwhile())) if meanwhile else lambda: None
        thread = threading.Thread(target=happens)
        thread.start()
        code = launch.run_processes(nproc, [str(tmp_path)], entry=[sys.executable, str(tmp_path / "child.py")])
        thread.join()
        return code, *capfd.readouterr()

    previous = {number: signal.signal(number, lambda *late: None) for number in launch.STOPPED}
    yield run
    for number, handler in previous.items():
        signal.signal(number, handler)


def signalled(*numbers: signal.Signals, every: float = 0.3):
    """The process that started the run gets these signals."""

    def send() -> None:
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(every)

    return send


def wait_for(tmp_path: Path, pattern: str, count: int) -> None:
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob(pattern))) < count:
        assert time.monotonic() < deadline, f"no {pattern}"
        time.sleep(0.01)


def assert_all_end_within(seconds: float, tmp_path: Path) -> None:
    deadline = time.monotonic() + seconds
    pids = [int(path.read_text()) for path in tmp_path.glob("pid*")]
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, "a process outlived its run"
        time.sleep(0.02)


# Ends --------------------------------------------------------------------------------------------------------------


def test_only_the_main_process_speaks_when_all_goes_well(run):
    body = "    print(f'answer of {rank}'); print(f'progress of {rank}', file=sys.stderr)"
    assert run(body) == (0, "answer of 0\n", "progress of 0\n")


@pytest.mark.parametrize("error", ["DataError", "Diverged", "Preempted", "Interrupted"])
def test_the_run_ends_as_all_its_processes_end_and_says_why_once(error, run):
    body = f"    raise errors.{error}('it is so.')"
    assert run(body) == (getattr(errors, error).exit_code, "", "error: it is so.\n")


def test_the_run_ends_as_the_process_that_failed_whatever_that_does_to_the_others(run):
    body = """
    import torch
    import torch.distributed as dist
    with launch.joined():
        if rank == 1:
            raise errors.DataError("shard 7 is damaged.")
        dist.all_reduce(torch.ones(1))
"""
    code, _, err = run(body)
    assert code == 4
    assert err.splitlines()[-1] == "error: process 1 of 2: shard 7 is damaged."
    assert "bug" not in err
    assert "Traceback" not in err


def test_a_crash_of_another_process_is_shown_with_what_it_said(run):
    body = """
    if rank == 1:
        print("how it came about", file=sys.stderr, flush=True)
        os._exit(9)
    time.sleep(30)
"""
    assert run(body) == (
        9,
        "",
        "how it came about\n"
        "error: process 1 of 2 ended with exit code 9. "
        "The same command continues from the last checkpoint, or starts where there is none yet.\n",
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_the_run_in_seconds_and_leaves_no_orphan(rank, run, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "processors", lambda: 3)
    killed = []

    def kill() -> None:
        os.kill(int((tmp_path / f"pid{rank}").read_text()), signal.SIGKILL)
        killed.append(time.monotonic())

    code, _, err = run(HANGS, nproc=3, meanwhile=kill)
    assert time.monotonic() - killed[0] < launch.FAIL_SECONDS + 2
    assert code == 1
    assert err.startswith(f"error: process {rank} of 3 was killed by SIGKILL. If nobody did that, memory ran out")
    assert len(err.splitlines()) == 1
    assert_all_end_within(1, tmp_path)


def test_processes_end_with_the_one_that_started_them(tmp_path):
    (tmp_path / "child.py").write_text(CHILD.format(body=HANGS))
    starter = subprocess.Popen([sys.executable, "-c", LAUNCH, str(tmp_path / "child.py"), str(tmp_path)])
    wait_for(tmp_path, "ready*", 2)
    starter.kill()
    starter.wait()
    assert_all_end_within(2, tmp_path)


# Signals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGHUP, 75), (signal.SIGUSR1, 75), (signal.SIGUSR2, 75)],
)
def test_a_signal_reaches_all_processes_and_a_slow_save_is_waited_for(number, exit_code, run, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "FAIL_SECONDS", 0.5)
    longer_than_others_are_given_after_a_failure = train(saving=1.5)
    code, _, err = run(longer_than_others_are_given_after_a_failure, meanwhile=signalled(number))
    assert code == exit_code
    assert err == f"error: {number.name} at step 7: saved. The same command continues from there.\n"
    assert sorted(path.name for path in tmp_path.glob("saved*")) == ["saved0", "saved1"]


def test_a_signal_to_one_process_that_stops_the_others_lets_the_main_one_save(run, tmp_path):
    body = train(saving=launch.FAIL_SECONDS + 1)
    body = body.replace("not inbox.received", "not inbox.received and not (folder / 'saved1').exists()")
    body = body.replace("raise signals", "inbox.received = inbox.received or signal.SIGTERM\n    raise signals")
    code, _, _ = run(body, meanwhile=lambda: os.kill(int((tmp_path / "pid1").read_text()), signal.SIGTERM))
    assert code == 75
    assert (tmp_path / "saved0").exists()


@pytest.mark.parametrize(
    ("numbers", "saving", "exit_code"),
    [((signal.SIGTERM,) * 3, 1.5, 75), ((signal.SIGINT,) * 2, 60, 130)],
    ids=["a scheduler that repeats itself cuts no save short", "a second interrupt stops at once"],
)
def test_a_signal_that_comes_again(numbers, saving, exit_code, run, tmp_path):
    code, _, _ = run(train(saving), meanwhile=signalled(*numbers))
    assert code == exit_code
    assert (tmp_path / "saved0").exists() == (exit_code == 75)


@pytest.mark.parametrize("alone", [False, True], ids=["all are stopped", "one stops by itself"])
def test_a_process_that_does_not_end_after_a_stop_is_ended_and_the_run_can_be_continued(
    alone, run, tmp_path, monkeypatch
):
    monkeypatch.setattr(launch, "SAVE_SECONDS", 1.0)
    if alone:
        code, _, err = run(f"    if rank == 1:\n        raise errors.Preempted('alone.')\n{HANGS}")
    else:
        code, _, err = run(train(saving=60), meanwhile=signalled(signal.SIGTERM))
    assert code == 75
    assert "process 0 of 2 did not end in time after the signal to stop" in err
    assert_all_end_within(1, tmp_path)


def test_a_signal_before_the_run_listens_is_a_preemption_too(run):
    body = f"    signal.signal(signal.SIGTERM, signal.SIG_DFL)\n{HANGS}"
    assert run(body, meanwhile=signalled(signal.SIGTERM)) == (
        75,
        "",
        "error: stopped before the run began. "
        "The same command continues from the last checkpoint, or starts where there is none yet.\n",
    )


# Meeting -----------------------------------------------------------------------------------------------------------

SUM = "World(rank={0}, size=2, local_rank={0}, local_size=2) 3.0"
REDUCES = """
    import torch
    import torch.distributed as dist
    with launch.joined() as world:
        total = torch.tensor(float(world.rank + 1))
        dist.all_reduce(total)
        world.wait()
    # In one write: two processes share the stream, and unbuffered, print would write piece by piece.
    assert os.environ["OMP_NUM_THREADS"]
    print(f"{world} {total.item()}\\n", end="")
"""


@pytest.mark.slow
def test_no_process_leaves_before_the_main_one_has_saved(run, tmp_path):
    """A scheduler may end a run soon after the first of its processes has ended."""
    body = """
    try:
        with launch.joined():
            if rank == 0:
                time.sleep(1.5)
                (folder / "saved0").touch()
            raise errors.Preempted("saved.")
    finally:
        (folder / f"left{rank}").write_text(str((folder / "saved0").exists()))
"""
    assert run(body) == (75, "", "error: saved.\n")
    assert (tmp_path / "left1").read_text() == "True"


@pytest.mark.parametrize(
    "started_by", ["--nproc", *(pytest.param(name, marks=pytest.mark.slow) for name in ("torchrun", "srun"))]
)
def test_the_processes_add_their_numbers_up(started_by, run, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    (tmp_path / "child.py").write_text(CHILD.format(body=REDUCES))
    if started_by == "--nproc":
        code, out, err = run(REDUCES)
        assert (code, err) == (0, "")
        assert out == f"{SUM.format(0)}\n"  # the main process alone speaks
    elif started_by == "torchrun":
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        command = [*torchrun, str(tmp_path / "child.py"), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
        assert done.returncode == 0, done.stderr
        assert sorted(done.stdout.splitlines()) == [SUM.format(rank) for rank in (0, 1)]
    else:
        step = {
            "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NODELIST": "localhost",
            "SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_NODEID": "0",
        }  # fmt: skip
        (tmp_path / "child.py").write_text(CHILD.format(body=REDUCES).replace('"RANK"', '"SLURM_PROCID"'))
        tasks = [
            subprocess.Popen(
                [sys.executable, str(tmp_path / "child.py"), str(tmp_path)],
                env={**environment, **step, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for rank in (0, 1)
        ]  # fmt: skip
        for rank, task in enumerate(tasks):
            out, err = task.communicate(timeout=120)
            assert task.returncode == 0, err
            assert out == f"{SUM.format(rank)}\n"


def test_whoever_waits_in_vain_says_where_and_for_whom(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    store = launch._own_store()
    for name, value in zip(launch.TORCHRUN, (0, 3, 0, 3), strict=True):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    with (
        pytest.raises(SetupError, match=rf"127\.0\.0\.1:{store.port} within 1 s: process 1 and 2 did not come"),
        launch.joined(timedelta(seconds=1)),
    ):
        raise AssertionError("it joined nobody")


def test_a_single_process_joins_nobody():
    import torch.distributed as dist

    with launch.joined() as world:
        assert world == World()
        assert world.is_main
        world.wait()
        assert not dist.is_initialized()


# Who is who --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "world"),
    [
        ({}, World()),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, World(3, 4, 1, 2)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, World()),
        # A step of SLURM, below an allocation that asked for more.
        (
            {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NTASKS_PER_NODE": "2"},
            World(3, 4, 1, 2),
        ),
    ],
)
def test_a_process_knows_its_place(environment, world, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launch.current() == world


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}, "process 2 of 2"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4"}, "0 of 4 on this machine"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "LOCAL_RANK is missing"),
        ({"RANK": "0"}, "WORLD_SIZE is missing"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK is 'x', not a number"),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0"}, "SLURM_PROCID is missing"),
    ],
)
def test_an_environment_that_contradicts_itself_is_refused(environment, says, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SetupError, match=says):
        launch.current()


@pytest.mark.parametrize(
    ("nproc", "gpus", "says"),
    [
        (0, 2, "--nproc is 0"),
        (-1, 0, "--nproc is -1"),
        (3, 2, "one process a GPU, and there are 2 here. Take 2 at most"),
        (5, 0, "one process a processor core, and there are 4 here. Take 4 at most"),
    ],
)
def test_fewer_than_one_process_and_more_than_the_machine_has_are_refused(nproc, gpus, says, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: bool(gpus))
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr(launch, "processors", lambda: 4)
    with pytest.raises(UsageError, match=says):
        launch.run_processes(nproc, [])


def test_options_of_the_launcher_do_not_reach_the_processes():
    arguments = ["run", "dit-s", "--nproc", "8", "--set", "a=--nproc", "--nproc=4", "--nprocs", "1"]
    assert launch.without(arguments, "--nproc") == ["run", "dit-s", "--set", "a=--nproc", "--nprocs", "1"]
