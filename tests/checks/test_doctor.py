"""`harness doctor` finds what is spoiled, says how to mend it, and survives whatever a check does."""

import errno
import fcntl
import io
import json
import platform
import resource
import shutil
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from harness.checks.doctor import accelerator, environment, examination, folders, libraries, machine
from harness.checks.doctor.finding import Check, failure, private
from harness.checks.doctor.worker import answer
from harness.cli.doctor import lines

TESTS = Path(__file__).parents[1]


def installed(monkeypatch, name: str, version: str | None) -> None:
    """As if pip had installed this version of a package, or None."""
    real = metadata.version

    def answered(asked: str) -> str:
        if asked != name:
            return real(asked)
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(metadata, "version", answered)


# The environment -------------------------------------------------------------------------------------------------


def test_this_environment_is_fine():
    for check in (environment.python, environment.version, environment.clock):
        assert check().status == "ok"
    assert [finding.status for finding in environment.dependencies()] == ["ok"]


def test_a_scipy_that_clean_fid_cannot_use_is_named_with_the_command_that_mends_it(monkeypatch):
    installed(monkeypatch, "scipy", "1.18.0")
    scipy, whole = environment.dependencies()
    assert (scipy.name, scipy.status, whole.status) == ("scipy", "failure", "failure")
    assert "scipy is 1.18.0; wanted is <1.18" in scipy.found
    assert "sqrtm" in scipy.found
    assert 'pip install "scipy<1.18"' in scipy.mend


def test_a_package_that_is_missing_is_named(monkeypatch):
    installed(monkeypatch, "tabulate", None)
    missing, _ = environment.dependencies()
    assert missing.status == "failure"
    assert missing.found == "tabulate is not installed; wanted is >=0.9"
    assert 'pip install "tabulate>=0.9"' in missing.mend


def test_an_extra_is_a_warning_only_when_it_is_broken(monkeypatch):
    monkeypatch.setattr(
        metadata, "requires", lambda name: ['nowhere>=1; extra == "wandb"', 'lmdb>=1.4; extra == "lmdb"']
    )
    installed(monkeypatch, "lmdb", "1.5")
    (finding,) = environment.extras()
    assert finding.status == "ok"
    assert "lmdb" in finding.found.partition("not there")[0]
    assert "wandb" in finding.found.partition("not there")[2]
    installed(monkeypatch, "lmdb", "0.9")
    broken, _ = environment.extras()
    assert (broken.status, broken.found) == ("warning", "lmdb is 0.9; wanted is >=1.4")
    assert "pip install -U 'dit-harness[lmdb]'" in broken.mend


def test_a_python_that_is_too_old_is_a_failure(monkeypatch):
    monkeypatch.setattr(platform, "python_version", lambda: "3.9.18")
    assert environment.python().status == "failure"


def test_a_clock_before_the_installation_is_a_warning(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1e9)
    finding = environment.clock()
    assert finding.status == "warning"
    assert finding.found.startswith("2001-09-09")


@pytest.mark.parametrize(("encoding", "columns", "says"), [("ascii", "80", "UTF-8"), ("utf-8", "40", "60 columns")])
def test_output_that_cannot_show_the_tables_is_a_warning(encoding, columns, says, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    monkeypatch.setenv("COLUMNS", columns)
    finding = environment.terminal()
    assert finding.status == "warning"
    assert says in finding.mend


def test_a_variable_that_names_no_folder_is_a_warning(tmp_path, monkeypatch):
    assert environment.variables().status == "ok"
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "nowhere"))
    finding = environment.variables()
    assert finding.status == "warning"
    assert "HARNESS_DATA" in finding.mend


def test_settings_that_are_wrong_or_read_by_nobody_are_found(monkeypatch):
    known = {"run": {"precision": "text"}}
    assert environment.configuration(known).status == "ok"
    monkeypatch.setenv("HARNESS_CAHCE", "somewhere")
    assert environment.configuration(known).mend == "Did you mean HARNESS_CACHE?"
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
    assert "ulimit -n 1024" in finding.mend


@pytest.mark.parametrize(("gib", "status"), [(8, "ok"), (2, "warning"), (0.5, "failure")])
def test_little_memory_is_told(gib, status, monkeypatch):
    monkeypatch.setattr("harness.records.machine.available_memory", lambda device: int(gib * 2**30))
    assert machine.memory().status == status


def test_the_shared_memory_of_a_plain_container_is_a_warning(monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=60 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "--shm-size" in machine.shared_memory().mend


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
    monkeypatch.setattr(accelerator, "driver_version", lambda: driver)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    finding = accelerator._no_gpu(built_for)
    assert finding.status == status
    assert says in finding.found
    assert finding.mend


# Folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_is_tried_and_left_as_it_was(tmp_path):
    finding = folders.look_at("cache", tmp_path / "not" / "made", "Choose another")
    assert "writable, keeps locks" in finding.found or finding.status == "warning"
    (tmp_path / "own").mkdir()
    folders.look_at("cache", tmp_path / "own", "Choose another")
    assert list((tmp_path / "own").iterdir()) == []
    assert not (tmp_path / "not").exists()


def test_a_folder_that_takes_no_files_is_a_failure():
    finding = folders.look_at("runs/", Path("/proc/self"), "Choose another folder with --out")
    assert finding.status == "failure"
    assert "cannot be written" in finding.found
    assert finding.mend.startswith("Choose another folder with --out")


def test_a_disk_that_refuses_bytes_is_a_failure(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, before[1]))
    try:
        finding = folders.look_at("runs/", tmp_path / "cwd", "Choose another")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert finding.status == "failure"
    assert list((tmp_path / "cwd").iterdir()) == []


@pytest.mark.parametrize(("free", "status"), [(50 * 2**20, "failure"), (2**30, "warning"), (2**40, "ok")])
def test_little_room_is_told(free, status, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert folders.look_at("runs/", tmp_path, "Choose another").status == status


def refuses(file, how):
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize(("flock", "says"), [(refuses, "takes no locks"), (lambda file, how: None, "to two at once")])
def test_a_file_system_whose_locks_do_not_hold_is_a_warning(flock, says, tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", flock)
    finding = folders.look_at("runs/", tmp_path, "Choose another")
    assert finding.status == "warning"
    assert says in finding.found


# Libraries -------------------------------------------------------------------------------------------------------


def test_a_compiler_that_is_missing_or_broken_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    assert "fails" in libraries._by_cxx().found
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = libraries._by_cxx()
    assert (finding.status, finding.found) == ("warning", "no C++ compiler (g++, clang++ or $CXX)")


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
    assert says in finding.mend


# The examination -------------------------------------------------------------------------------------------------


def test_a_check_that_raises_exits_kills_its_process_or_hangs_spoils_itself_alone(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    asked = []
    told = examination.examine(3, lambda check: asked.append(check.name), module="spoiled_checks")
    found = {finding.name: finding for _, finding in told}
    assert asked == ["fine", "raises late", "leaves", "dies", "sleeps", "last"]
    assert found["fine"].status == found["first half"].status == "ok"
    assert (found["raises late"].status, found["raises late"].found) == (
        "failure", "RuntimeError: the second half failed",
    )  # fmt: skip
    assert found["leaves"].found == "SystemExit: a library called exit"
    assert found["dies"].status == "failure"
    assert "killed by SIGSEGV" in found["dies"].found
    assert "terminate called after throwing" in found["dies"].found
    assert (found["sleeps"].status, found["sleeps"].found) == ("warning", "not finished within 0.5 s")
    assert found["last"].found == "of 3"
    assert [theme for theme, _ in told] == sorted(theme for theme, _ in told)


def test_when_the_time_is_over_the_rest_is_named_and_nothing_else_happens():
    told = examination.examine(2, lambda check: None, limit_seconds=0.0)
    assert told[-1].finding.status == "warning"
    assert "all-reduce" in told[-1].finding.found


def test_a_missing_package_is_a_finding_with_the_command_that_brings_it():
    def ask():
        import no_such_package  # noqa: F401

    (finding,) = answer(Check("environment", "imports", ask))
    assert finding.status == "failure"
    assert "no_such_package" in finding.found
    assert "pip install" in finding.mend


def test_what_is_told_names_no_home_no_host_and_no_folder_that_a_variable_names(monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", "/scratch/of-a-person")
    monkeypatch.setattr(socket, "gethostname", lambda: "node0123")
    said = f"{Path.home()}/x /scratch/of-a-person/y node0123:29500"
    assert private(said) == "~/x $HARNESS_CACHE/y localhost:29500"
    assert failure("x", said, said).mend == "~/x $HARNESS_CACHE/y localhost:29500"


def test_the_whole_doctor_answers_once_on_stdout(tmp_path):
    host = socket.gethostname()
    done = subprocess.run(
        [sys.executable, "-m", "harness", "doctor", "--json"], cwd=tmp_path / "cwd", capture_output=True, text=True
    )
    document = json.loads(done.stdout)
    checks, summary = document["checks"], document["summary"]
    failed = [check for check in checks if check["status"] == "failure"]
    assert done.returncode == (3 if failed else 0), done.stderr
    assert failed == []
    assert document["schema_version"] == 1
    for status in ("ok", "warning", "failure"):
        assert summary[status] == sum(check["status"] == status for check in checks)
    assert {"Python", "packages", "torch", "runs/", "Inception", "settings"} <= {check["name"] for check in checks}
    assert all(check["mend"] for check in checks if check["status"] != "ok")
    assert "doctor: looking at machine" in done.stderr
    assert list((tmp_path / "cwd").iterdir()) == []
    assert str(Path.home()) not in done.stdout or str(Path.home()) == "/"
    assert str(tmp_path) not in done.stdout
    assert len(host) < 4 or host in ("localhost", "linux") or host not in done.stdout
    printed = lines(document, colour=False)
    for line in printed:  # what is longer is one word, an address or a path, that must stay whole
        assert len(line) <= 80 or len(line.split()) <= 4, line
    assert printed[-1].startswith(f"{summary['ok']} ok, {summary['warning']} warning")
    assert "\x1b" not in "".join(printed)
    assert "\x1b[33mwarning\x1b[0m" in "\n".join(lines(document, colour=True))
