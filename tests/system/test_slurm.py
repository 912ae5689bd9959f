"""Jobs: the script that is printed and submitted, run against stand-ins for SLURM's commands."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.system.errors import SetupError, UsageError
from harness.system.processes import slurm

# srun runs the command once a task, and reports the highest exit code, as the real one does.
SRUN = """#!/bin/bash
while [ "${1#-}" != "$1" ]; do [ "$1" = --output ] && shift; shift; done
for rank in $(seq 0 $((TASKS - 1))); do
    SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_STEP_NUM_TASKS=$TASKS "$@" & pids="$pids $!"
done
for pid in $pids; do wait "$pid"; code=$?; [ "$code" -gt "${highest:-0}" ] && highest=$code; done
exit "${highest:-0}"
"""
# scontrol and scancel note how they are called.
NOTES = """#!/bin/bash
echo "${0##*/} $*" >> "$FAKES/calls"
[ "$1" = show ] && printf 'gpu03\\ngpu04\\n'
exit 0
"""
SBATCH = """#!/bin/bash
cp "$1" "$FAKES/submitted.sh" && echo "Submitted batch job 4242"
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Path:
    """Stand-ins for SLURM's commands come first on the path; `python` is this one."""
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    python = f'#!/bin/bash\nexec {shlex.quote(sys.executable)} "$@"\n'
    commands = {"srun": SRUN, "scontrol": NOTES, "scancel": NOTES, "sbatch": SBATCH, "python": python}
    for name, text in commands.items():
        (fakes / name).write_text(text)
        (fakes / name).chmod(0o755)
    for name in [name for name in os.environ if name.startswith(("SLURM", "SUBMITIT", "MASTER_", "RANK", "WORLD_"))]:
        monkeypatch.delenv(name)
    job = {"SLURM_JOB_ID": "4242", "SLURM_JOB_NODELIST": "gpu[03-04]", "SLURM_CPUS_PER_TASK": "8"}
    for name, value in {**job, "FAKES": str(fakes), "TASKS": "1", "PATH": f"{fakes}:{os.environ['PATH']}"}.items():
        monkeypatch.setenv(name, value)
    return fakes


def job(tmp_path: Path, **changes) -> slurm.Job:
    asked = {"nodes": 2, "processes_per_node": 8, "time": "24:00:00", "partition": None, "name": "dit-s"}
    return slurm.Job(**{**asked, "logs": tmp_path / "runs" / "slurm", **changes})


def calls(fakes: Path) -> list[str]:
    file = fakes / "calls"
    return [line for line in file.read_text().splitlines() if "show" not in line] if file.exists() else []


def replace_srun(fakes: Path, body: str) -> None:
    (fakes / "srun").write_text(f"#!/bin/bash\n{body}\n")


def run_script(tmp_path: Path, arguments: list[str], meanwhile=lambda script: None) -> tuple[int, str]:
    """Exit code and stdout of the job."""
    (tmp_path / "job.sh").write_text(slurm.sbatch_script(job(tmp_path), arguments))
    with subprocess.Popen(["bash", str(tmp_path / "job.sh")], stdout=subprocess.PIPE, text=True) as script:
        meanwhile(script)
        output, _ = script.communicate(timeout=30)
    return script.returncode, output


# The script --------------------------------------------------------------------------------------------------------


def test_the_script_is_complete_and_names_nobody():
    asked = slurm.Job(
        nodes=2, processes_per_node=8, time="24:00:00", partition="gpu", name="sddit-s", logs=Path("runs/slurm")
    )
    script = slurm.sbatch_script(asked, ["run", "sddit-s", "--steps", "400k"])
    assert [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")] == [
        "job-name=sddit-s",
        "partition=gpu",
        "nodes=2",
        "ntasks-per-node=8",
        "gpus-per-node=8",
        "cpus-per-task=8",
        "time=24:00:00",
        "signal=B:TERM@300",
        "open-mode=append",
        "output=runs/slurm/%x-%j.log",
        "requeue",
    ]
    assert "python -m harness run sddit-s --steps 400k &" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    assert str(Path.home()) not in script
    assert sys.executable not in script
    assert os.uname().nodename not in script


@pytest.mark.parametrize(("code", "requeues"), [(75, ["scontrol requeue 4242"]), (0, []), (5, []), (130, [])])
def test_only_a_run_that_was_preempted_goes_back_into_the_queue(code, requeues, cluster, tmp_path):
    replace_srun(cluster, f"exit {code}")
    assert run_script(tmp_path, ["run", "dit-s"]) == (code, "")
    assert calls(cluster) == requeues


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_the_time_limit_reaches_the_processes_once_and_the_script_waits_for_their_save(number, cluster, tmp_path):
    saves = 'touch "$FAKES/working"; until grep -qs scancel "$FAKES/calls"; do sleep 0.05; done; sleep 1; exit 75'
    replace_srun(cluster, saves)

    def signal_twice(script: subprocess.Popen) -> None:
        while not (cluster / "working").exists():
            time.sleep(0.01)
        for _ in range(2):
            script.send_signal(number)
            time.sleep(0.3)

    assert run_script(tmp_path, ["run", "dit-s"], signal_twice) == (75, "")
    assert calls(cluster) == ["scancel --signal=TERM 4242", "scontrol requeue 4242"]


def test_the_processes_get_the_arguments_as_they_were_and_an_address_of_the_first_node(cluster, tmp_path):
    replace_srun(cluster, 'echo "$MASTER_ADDR $MASTER_PORT $SRUN_CPUS_PER_TASK $OMP_NUM_THREADS"; printf "%s\\n" "$@"')
    arguments = ["run", "--data", "my latents; $(rm -rf x)", "--set", "a='b'"]
    _, output = run_script(tmp_path, arguments)
    threads = os.environ.get("OMP_NUM_THREADS", "8")
    address, *command = output.splitlines()
    assert address == f"gpu03 {slurm.FIRST_PORT + 4242} 8 {threads}"
    assert command == [*slurm.SRUN[1:], "python", "-m", "harness", *arguments]


def test_the_script_really_starts_the_harness(cluster, tmp_path):
    code, output = run_script(tmp_path, ["--version"])
    assert code == 0
    assert output.startswith("harness ")


# Arrays ------------------------------------------------------------------------------------------------------------

TASKS = [[["run", "dit-s"]], [["run", "sddit-s", "--set", "a='b c'"], ["evaluate", "runs/x", "--cfg-scale", "1.5"]]]


def run_element(tmp_path: Path, index: int, monkeypatch) -> tuple[int, str]:
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(index))
    (tmp_path / "array.sh").write_text(slurm.array_script(job(tmp_path), TASKS, at_once=4))
    done = subprocess.run(["bash", str(tmp_path / "array.sh")], stdout=subprocess.PIPE, text=True, timeout=30)
    return done.returncode, done.stdout


def test_each_element_of_an_array_carries_out_its_own_commands_in_their_order(cluster, tmp_path, monkeypatch):
    replace_srun(cluster, 'shift 2; printf "%s|" "$@"; echo')
    assert run_element(tmp_path, 0, monkeypatch) == (0, "python|-m|harness|run|dit-s|\n")
    _, output = run_element(tmp_path, 1, monkeypatch)
    assert output.splitlines() == [
        "python|-m|harness|run|sddit-s|--set|a='b c'|",
        "python|-m|harness|evaluate|runs/x|--cfg-scale|1.5|",
    ]


def test_an_element_that_was_preempted_is_requeued_and_does_not_go_on_to_its_next_command(
    cluster, tmp_path, monkeypatch
):
    replace_srun(cluster, "echo started; exit 75")
    assert run_element(tmp_path, 1, monkeypatch) == (75, "started\n")
    assert calls(cluster) == ["scontrol requeue 4242"]


def test_an_array_has_an_element_for_each_task_and_a_log_for_each_element(tmp_path):
    script = slurm.array_script(job(tmp_path), TASKS, at_once=4)
    assert "#SBATCH --array=0-1%4" in script
    assert "%x-%A_%a.log" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    assert "#SBATCH --array=0-1\n" in slurm.array_script(job(tmp_path), TASKS)


def test_a_script_is_kept_and_submitted_or_says_where_it_lies(cluster, tmp_path, monkeypatch):
    script = slurm.sbatch_script(job(tmp_path), ["run", "dit-s"])
    assert slurm.submit(job(tmp_path), script) == "4242"
    assert (cluster / "submitted.sh").read_text() == script
    (cluster / "sbatch").write_text("#!/bin/bash\necho 'sbatch: error: invalid partition' >&2; exit 1\n")
    with pytest.raises(SetupError, match="invalid partition"):
        slurm.submit(job(tmp_path), script)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match=r"slurm/dit-s\.sh: submit it from a machine of the cluster"):
        slurm.submit(job(tmp_path), script)


# Inside a job ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        # A batch script, and a shell that salloc gives: nobody else is there.
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, None),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "1"}, None),
        (
            {
                "SLURM_STEP_NUM_TASKS": "7", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
                "SLURM_STEP_TASKS_PER_NODE": "4,3", "SLURM_NTASKS_PER_NODE": "8",
            },
            (5, 7, 1, 3),
        ),
        (
            {
                "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
                "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
            },
            (3, 4, 1, 2),
        ),
    ],
)  # fmt: skip
def test_a_task_knows_its_place_in_its_step(environment, place, cluster, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert slurm.this_task() == place


def test_a_step_meets_on_its_first_node_at_a_port_of_its_own(cluster, monkeypatch):
    assert slurm.first_node("gpu[03-05,9],big1") == "gpu03"
    assert slurm.first_node("rack[0-1]node[7,9]") == "rack0node7"
    assert slurm.first_node("a1,b2") == "a1"
    monkeypatch.setenv("SLURM_STEP_NODELIST", "gpu[04-05]")
    monkeypatch.setenv("SLURM_JOB_ID", "1000003")
    monkeypatch.setenv("SLURM_STEP_ID", "2")
    assert slurm.meeting_point() == ("gpu04", 15_000 + 1_000_005 % 16_000)
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1234")
    assert slurm.meeting_point() == ("10.0.0.1", 1234)


# What is asked of the cluster ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("time", "minutes"),
    [("24:00:00", 1440), ("0:10:00", 10), ("100:30:59", 6030), ("2-00", 2880), ("1-12:30", 2190), ("1-0:0:0", None)],
)
def test_a_time_limit_means_what_slurm_takes_it_for(time, minutes, tmp_path):
    if minutes is None:
        with pytest.raises(UsageError):
            job(tmp_path, time=time)
    else:
        assert job(tmp_path, time=time).minutes == minutes


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"time": "24"}, "hours:minutes:seconds"),  # 24 minutes to SLURM
        ({"time": "24h"}, "hours:minutes:seconds"),
        ({"time": "24:00"}, "hours:minutes:seconds"),  # 24 minutes to SLURM
        ({"time": "1:70:00"}, "hours:minutes:seconds"),
        ({"time": "0:09:59"}, "at least 10 minutes"),
        ({"nodes": 0}, "nodes of a job is 0"),
        ({"processes_per_node": 0}, "processes per node of a job is 0"),
        ({"name": "a b"}, "names no job or partition"),
        ({"partition": "gpu\n#SBATCH --nodes=99"}, "names no job or partition"),
        ({"logs": Path("runs\n#SBATCH --nodes=99")}, "line break"),
    ],
)
def test_what_slurm_would_misread_is_refused(changes, says, tmp_path):
    with pytest.raises(UsageError, match=says):
        job(tmp_path, **changes)
