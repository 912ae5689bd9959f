"""`harness doctor` finds what is wrong, says what to do about it, and survives whatever a check does."""

import errno
import fcntl
import importlib
import json
import platform
import resource
import shutil
import socket
import sys
from importlib import metadata
from pathlib import Path

import pytest
from command_line import invoke

from harness.checks.doctor import environment, examination, folders, libraries, machine
from harness.checks.doctor.examination import Check
from harness.checks.doctor.words import private
from harness.checks.finding import failure, ok, warning
from harness.cli.app.answer import show
from harness.cli.doctor import lines


def installed(monkeypatch, **versions: str | None) -> None:
    """As if pip had installed these versions of packages, or not at all."""
    real = metadata.version

    def answered(asked: str) -> str:
        found = versions.get(asked, "") or real(asked)
        if asked in versions and versions[asked] is None:
            raise metadata.PackageNotFoundError(asked)
        return found

    monkeypatch.setattr(metadata, "version", answered)


# The environment -------------------------------------------------------------------------------------------------


def test_this_environment_is_fine():
    for check in (environment.python, environment.version, environment.packages):
        assert check().status == "ok"


def test_a_package_out_of_range_or_missing_is_named_with_the_command_that_installs_it(monkeypatch):
    installed(monkeypatch, scipy="1.18.0", tabulate=None)
    finding = environment.packages()
    assert finding.status == "failure"
    assert "scipy is 1.18.0; wanted is <1.18" in finding.found
    assert "sqrtm" in finding.found
    assert "tabulate is not installed; wanted is >=0.9" in finding.found
    assert '"scipy<1.18"' in finding.advice
    assert '"tabulate>=0.9"' in finding.advice


def test_a_package_of_an_extra_is_a_warning_only_when_it_is_installed_and_out_of_range(monkeypatch):
    requires = ['nowhere>=1; extra == "wandb"', 'lmdb>=1.4; extra == "lmdb"', 'none>=1; sys_platform == "beos"']
    monkeypatch.setattr(metadata, "requires", lambda name: requires)
    installed(monkeypatch, lmdb="1.5")
    assert environment.packages() == ok("all 1 are there and in range")
    installed(monkeypatch, lmdb="0.9")
    assert environment.packages() == warning("lmdb is 0.9; wanted is >=1.4", 'Run: pip install "lmdb>=1.4"')


def test_a_python_that_is_too_old_is_a_failure(monkeypatch):
    monkeypatch.setattr(platform, "python_version", lambda: "3.9.18")
    assert environment.python().status == "failure"


def test_settings_that_are_wrong_or_read_by_nobody_are_found(monkeypatch):
    known = {"run": {"precision": "text"}}
    assert environment.configuration(known).status == "ok"
    monkeypatch.setenv("HARNESS_CAHCE", "somewhere")
    assert environment.configuration(known).advice == "Did you mean HARNESS_CACHE?"
    Path("harness.toml").write_text("[run]\nprecison = 'bf16'\n")
    finding = environment.configuration(known)
    assert finding.status == "failure"
    assert "precison" in finding.found


# The machine -----------------------------------------------------------------------------------------------------


def test_more_threads_than_cores_are_a_warning(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert machine.cores().status == "ok"
    monkeypatch.setenv("OMP_NUM_THREADS", "9999")
    assert machine.cores().status == "warning"


def test_a_low_limit_of_open_files_is_a_warning():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    try:
        finding = machine.open_files()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert (finding.status, finding.found) == ("warning", "up to 512")
    assert "ulimit -n 1024" in finding.advice


@pytest.mark.parametrize(("gib", "status"), [(8, "ok"), (2, "warning"), (0.5, "failure")])
def test_little_memory_is_told(gib, status, monkeypatch):
    monkeypatch.setattr("harness.records.machine.available_memory", lambda device: int(gib * 2**30))
    assert machine.memory().status == status


def test_the_shared_memory_of_a_plain_container_is_a_warning(monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=60 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "--shm-size" in machine.shared_memory().advice


@pytest.mark.parametrize(
    ("driver", "built_for", "visible", "status", "says"),
    [
        (None, None, None, "warning", "tiny recipes"),
        ("550.54", None, None, "warning", "built without CUDA"),
        ("550.54", "12.8", "", "warning", "hides all"),
        ("550.54", "12.8", None, "failure", "finds no GPU"),
    ],
)
def test_why_there_is_no_gpu_is_told(driver, built_for, visible, status, says, monkeypatch):
    monkeypatch.setattr(machine, "driver_version", lambda: driver)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    finding = machine._no_gpu(built_for)
    assert finding.status == status
    assert says in finding.found
    assert finding.advice


def test_the_worst_gpu_decides_and_all_are_named(monkeypatch):
    found = [ok("A100"), warning("A100, in use", "End it."), failure("broken", "Restart it."), ok("A100")]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr(machine, "_gpu", lambda index: found[index])
    assert machine.gpus() == failure("GPU 0: A100; GPU 1: A100, in use; GPU 2: broken; GPU 3: A100", "Restart it.")


# Folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_is_tried_and_left_as_it_was(tmp_path):
    finding = folders.look_at(tmp_path / "not" / "made", "Choose another")
    assert "writable, keeps locks" in finding.found or finding.status == "warning"
    (tmp_path / "own").mkdir()
    folders.look_at(tmp_path / "own", "Choose another")
    assert list((tmp_path / "own").iterdir()) == []
    assert not (tmp_path / "not").exists()


def test_a_folder_that_takes_no_files_is_a_failure():
    finding = folders.look_at(Path("/proc/self"), "Choose another folder with --out")
    assert (finding.status, finding.advice[:14]) == ("failure", "Choose another")
    assert "cannot be written" in finding.found


def test_a_disk_that_refuses_bytes_is_a_failure(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, before[1]))
    try:
        finding = folders.look_at(tmp_path / "cwd", "Choose another")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert finding.status == "failure"
    assert list((tmp_path / "cwd").iterdir()) == []


@pytest.mark.parametrize(("free", "status"), [(50 * 2**20, "failure"), (2**30, "warning"), (2**40, "ok")])
def test_little_room_is_told(free, status, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert folders.look_at(tmp_path, "Choose another").status == status


def refuses(file, how):
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize(("flock", "says"), [(refuses, "takes no locks"), (lambda file, how: None, "to two at once")])
def test_a_file_system_whose_locks_do_not_hold_is_a_warning(flock, says, tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", flock)
    finding = folders.look_at(tmp_path, "Choose another")
    assert finding.status == "warning"
    assert says in finding.found


# Libraries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "check", "says"),
    [
        ("pandas", lambda: libraries.library("pandas"), "pip install --force-reinstall pandas"),
        ("torchvision", libraries.torchvision, "pip install torchvision"),
    ],
)
def test_a_library_that_cannot_be_imported_is_a_failure(module, check, says, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    finding = check()
    assert finding.status == "failure"
    assert says in finding.advice


# The examination -------------------------------------------------------------------------------------------------


def examined(*checks: Check, limit_seconds: float = 60.0) -> list[dict[str, str]]:
    return examination.examine(checks, lambda check: None, limit_seconds=limit_seconds)["checks"]


def leaves():
    print("words of a library")
    raise SystemExit("a library called exit")


def test_a_check_that_raises_or_exits_fails_alone_and_prints_nothing(capsys):
    found = examined(
        Check("a", "raises", lambda: 1 / 0),
        Check("a", "leaves", leaves),
        Check("b", "lacks", lambda: importlib.import_module("no_such_package")),
        Check("b", "last", lambda: ok("well")),
    )
    assert [(row["name"], row["status"], row["found"]) for row in found] == [
        ("raises", "failure", "ZeroDivisionError: division by zero"),
        ("leaves", "failure", "SystemExit: a library called exit"),
        ("lacks", "failure", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("last", "ok", "well"),
    ]
    assert "pip install" in found[2]["advice"]
    assert capsys.readouterr().out == ""


def test_when_the_time_is_over_the_other_checks_are_named_and_not_carried_out():
    (row,) = examined(Check("a", "late", leaves), limit_seconds=0.0)
    assert (row["name"], row["status"]) == ("late", "warning")
    assert "not looked at" in row["found"]


def test_findings_name_no_home_no_host_and_no_folder_that_a_variable_names(monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", "/scratch/of-a-person")
    monkeypatch.setattr(socket, "gethostname", lambda: "node0123")
    text = f"{Path.home()}/x /scratch/of-a-person/y node0123:29500"
    assert private(text) == "~/x $HARNESS_CACHE/y localhost:29500"
    (row,) = examined(Check("a", "fine", lambda: ok(text)))
    assert row["found"] == private(text)


@pytest.mark.slow
def test_the_whole_doctor_answers_once_on_stdout(tmp_path):
    done = invoke("doctor", "--json")
    document = json.loads(done.stdout)
    checks, summary = document["checks"], document["summary"]
    assert [check for check in checks if check["status"] == "failure"] == []
    assert done.exit_code == 0
    assert document["schema_version"] == 2
    for status in ("ok", "warning", "failure"):
        assert summary[status] == sum(check["status"] == status for check in checks)
    assert {"Python", "packages", "torch", "runs/", "Inception", "settings"} <= {check["name"] for check in checks}
    assert all(check["advice"] for check in checks if check["status"] != "ok")
    assert "doctor: looking at machine" in done.stderr
    assert list((tmp_path / "cwd").iterdir()) == []
    assert str(Path.home()) not in done.stdout or str(Path.home()) == "/"
    assert done.stdout.count(str(tmp_path)) == done.stdout.count(str(tmp_path / "hub"))  # where the test put the hub


def test_what_is_printed_fits_the_terminal_and_keeps_addresses_whole(capsys):
    long = "https://example.org/" + "x" * 90
    rows = [
        {"theme": "a", "name": "first", "status": "warning", "found": "words " * 30, "advice": f"Fetch {long}."},
        {"theme": "b", "name": "second", "status": "ok", "found": "one\x1b[31m", "advice": ""},
    ]
    show({"checks": rows, "summary": {"ok": 1, "warning": 1, "failure": 0, "seconds": 2.0}}, False, lines)
    printed = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 or long in line for line in printed)
    assert printed[-1] == "1 ok, 1 warning, 0 failures, in 2 s"
    assert "\x1b" not in "".join(printed)
