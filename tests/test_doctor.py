"""`harness doctor` finds what is spoiled, says how to mend it, and survives whatever a check does."""

import errno
import fcntl
import hashlib
import io
import json
import os
import platform
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
import torch

from harness.cli.doctor import lines
from harness.data import vae
from harness.doctor import (
    accelerator,
    environment,
    examination,
    folders,
    libraries,
    machine,
    processes,
    trials,
    weights,
)
from harness.doctor.finding import Check, failure, private
from harness.doctor.worker import answer
from harness.evaluation import inception, self_test, transformers_networks
from harness.training import registry

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def nothing_there(tmp_path, monkeypatch):
    """A machine without weights, whose caches are in this test's folder."""
    for name in ("HARNESS_FEATURES", "HARNESS_VAE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HARNESS_CACHE", "HARNESS_DATA", "TORCH_HOME"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


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
    monkeypatch.setattr("harness.training.telemetry.available_memory", lambda device: int(gib * 2**30))
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


# Weights, references, data ---------------------------------------------------------------------------------------

EMA = "stabilityai/sd-vae-ft-ema"
WEIGHTS = {
    "inception": (weights.inception, inception.SHA256),
    "vae": (lambda: weights.vae(EMA, needed=True), vae.PUBLISHED[EMA].sha256),
    "dinov2": (lambda: weights.transformer("dinov2"), transformers_networks.DINOV2.published.sha256),
    "clip": (lambda: weights.transformer("clip"), transformers_networks.CLIP.published.sha256),
}


def place_named_by(mend: str, file: str) -> Path:
    """The file that a mend says to make."""
    name = re.search(r"(?:to|into) (\$HARNESS_\w+/[^\s;]+)", mend)[1].rstrip(".")
    path = Path(os.path.expandvars(name))
    return path if path.suffix else path / file


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_not_there_come_with_address_place_and_hash_and_others_in_their_place_are_a_failure(name):
    check, sha256 = WEIGHTS[name]
    absent = check()
    assert absent.status == ("ok" if name in ("dinov2", "clip") else "warning")
    assert "not there" in absent.found
    assert sha256 in absent.mend
    address = re.search(r"https://\S+", absent.mend)[0]
    path = place_named_by(absent.mend, address.rpartition("/")[2])
    path.parent.mkdir(parents=True)
    path.write_bytes(b"cut off")
    wrong = check()
    assert wrong.status == "failure"
    assert hashlib.sha256(b"cut off").hexdigest()[:12] in wrong.found
    assert address in wrong.mend


def test_weights_with_the_pinned_hash_are_fine(tmp_path, monkeypatch):
    path = tmp_path / "HARNESS_CACHE" / "inception" / inception.FILE
    path.parent.mkdir()
    path.write_bytes(b"stand-in")
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(b"stand-in").hexdigest())
    assert weights.inception().status == "ok"


def test_a_reference_or_latents_that_are_damaged_are_a_failure(tmp_path):
    name, data = "VIRTUAL_imagenet256_labeled.npz", tmp_path / "HARNESS_DATA"
    assert weights.reference(name, needed=True).status == "warning"
    assert weights.latents("imagenet-256", needed=True).status == "warning"
    (data / "references").mkdir()
    (data / "references" / name).write_bytes(b"PK\x03\x04 cut off")
    (data / "imagenet-256").mkdir()
    for finding in (weights.reference(name, needed=True), weights.latents("imagenet-256", needed=True)):
        assert finding.status == "failure"
        assert str(tmp_path) not in finding.found + finding.mend


class Exact:
    """A VAE that loses nothing: pixels themselves, times a scale."""

    scale = 0.5

    def moments(self, images):
        mean = images.float() / 127.5 - 1
        return torch.cat([mean, torch.zeros_like(mean)], dim=1)

    def decode(self, latents, precision):
        return latents


class Grey(Exact):
    """A VAE whose decoder knows nothing."""

    def decode(self, latents, precision):
        return 0 * latents


def test_the_round_trip_tells_a_vae_that_works_from_one_that_does_not(monkeypatch):
    assert "not tried" in weights.round_trip(EMA).found
    for stand_in, status in ((Exact(), "ok"), (Grey(), "failure")):
        monkeypatch.setattr(vae, "load", lambda id, stand_in=stand_in: stand_in)
        assert weights.round_trip("stand-in").status == status


# A run in small --------------------------------------------------------------------------------------------------


def test_every_method_and_every_sampler_does_what_it_should():
    findings = [*trials.methods(), *trials.samplers()]
    assert {finding.status for finding in findings} == {"ok"}
    assert {f"step {name}" for name in registry.names()} < {finding.name for finding in findings}


def test_a_parameter_without_a_gradient_and_a_loss_that_is_not_finite_are_found(monkeypatch):
    build = registry.build

    def with_unused(cfg):
        method = build(cfg)
        method.register_parameter("unused", torch.nn.Parameter(torch.zeros(1)))
        return method

    def with_nan(cfg):
        method = build(cfg)
        forward = method.forward
        method.forward = lambda *given: {name: value * float("nan") for name, value in forward(*given).items()}
        return method

    monkeypatch.setattr(registry, "build", with_unused)
    assert "1 parameter(s) without a gradient, unused" in trials._step("dit").found
    monkeypatch.setattr(registry, "build", with_nan)
    assert trials._step("dit").found == "its loss is nan"


def test_a_broken_plug_in_is_a_failure_and_hides_no_other_method(monkeypatch):
    monkeypatch.setattr("harness.recipes.broken", lambda: {"tread": "its package is gone", "dit": "refused"})
    monkeypatch.setattr(registry, "names", lambda: ["dit", "tread"])
    assert {finding.name: finding.status for finding in trials.methods()} == {
        "step dit": "ok",
        "plug-in tread": "failure",
        "plug-in dit": "failure",
    }


def test_images_that_are_not_finite_and_wrong_metrics_are_found(monkeypatch):
    spoiled = {"heun": lambda denoise, noise, formulation, steps: noise().float() * float("nan")}
    monkeypatch.setattr("harness.diffusion.samplers.SAMPLERS", spoiled)
    monkeypatch.setattr("harness.evaluation.generation.SAMPLERS", spoiled)
    (finding,) = trials.samplers()
    assert finding.status == "failure"
    assert "128 of the 128 values of the images are not finite" in finding.found
    assert trials.metrics().status == "ok"
    monkeypatch.setattr(self_test, "frechet_distance", lambda a, b: 1.0)
    assert "Gaussians of known distance: 1 instead of" in trials.metrics().found


def test_processes_that_do_not_meet_are_a_failure_and_ones_that_are_slow_a_warning(monkeypatch):
    monkeypatch.setattr(processes, "START_SECONDS", 0.01)
    assert processes.all_reduce(2).status == "warning"
    monkeypatch.setattr(processes, "_attended", lambda *given: (None, processes.HERE, ""))
    finding = processes.all_reduce(2)
    assert finding.status == "failure"
    assert "did not meet" in finding.found
    monkeypatch.setattr(processes, "_attended", lambda *given: (1, processes.HERE, "error: a port is closed\n"))
    assert processes.all_reduce(2).found == "2 processes by gloo: error: a port is closed"


# The examination -------------------------------------------------------------------------------------------------


def test_a_check_that_raises_exits_kills_its_process_or_hangs_spoils_itself_alone(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE))
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


def test_the_whole_doctor_answers_once_on_stdout_within_a_minute(tmp_path):
    host = socket.gethostname()
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "harness", "doctor", "--json"], cwd=tmp_path / "cwd", capture_output=True, text=True
    )
    seconds = time.monotonic() - started
    document = json.loads(done.stdout)
    checks, summary = document["checks"], document["summary"]
    failed = [check for check in checks if check["status"] == "failure"]
    assert done.returncode == (3 if failed else 0), done.stderr
    assert failed == []
    assert seconds < 75
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
