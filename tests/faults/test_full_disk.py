"""A disk that is full or read-only: the command says so in one line, ends with exit code 4, and can be repeated."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from commands import Disk, Done, harness, refused
from photographs import photographs
from positions import LONG, SEED, record

from harness.records.store import load_run
from harness.training import checkpoint

pytestmark = pytest.mark.slow  # the process that the commands are forked from imports everything first

SMALL = ["width=16", "depth=3", "num_heads=2", "batch_size=8", "log_every=2", "checkpoint_every=2"]
QUICK = ["num_images=60", "sampling.num_steps=3", "untrained=false", "metrics=[fd,class_accuracy]"]
SETTINGS = [part for setting in (*SMALL, *QUICK) for part in ("--set", setting)]
RUN = ["run", "dit-tiny", "--steps", "6", *SETTINGS, "--out"]
ENCODING = ["--vae", "random-tiny", "--size", "32", "--flips", "--nproc", "1", "--out"]
MENDS = ("Free some space", "Correct that and repeat", "Choose another folder", "choose another")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory) -> tuple[Path, Done]:
    """A run that nothing happened to, and how many files it opened for writing."""
    out = tmp_path_factory.mktemp("whole")
    done = harness(*RUN, out / "runs", cwd=out, before="untrained_classifier", HARNESS_CACHE=cache)
    assert done.code == 0, done.stderr
    return next(out.glob("runs/dit-tiny/*")), done


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    run, _ = whole
    return Path(shutil.copytree(run, tmp_path / "runs" / "dit-tiny" / run.name))


def numbers_of(run: Path):
    """What a run ends with, without its times: weights, averaged or not, metrics, images, logged losses."""
    found = load_run(run)
    newest = sorted((run / "checkpoints").iterdir())[-1]
    names = ("method.safetensors", "ema.safetensors")
    return (
        {name: hashlib.sha256((newest / name).read_bytes()).hexdigest() for name in names},
        newest.name,
        {name: (e.metrics, e.samples_sha256) for name, e in found.evaluations.items()},
        [(line["step"], line["loss"]) for line in found.metrics],
        hashlib.sha256((run / "samples" / "grid.png").read_bytes()).hexdigest(),
    )


def assert_told(done: Done) -> None:
    told = refused(done)
    assert any(mend in told for mend in MENDS), f"no way to mend it: {told}"
    assert "[Errno" not in told or "'" in told, f"it does not say which file: {told}"


def some(opened: int, short: int, long: int) -> list[int]:
    """Some of the moments at which files are opened, evenly spread from the first to the last."""
    return sorted(set(np.linspace(0, opened - 1, long if LONG else short).round().astype(int).tolist()))


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith((".tmp", ".probe", ".write-probe"))]


# Full ------------------------------------------------------------------------------------------------------------


class Work(NamedTuple):
    """A command about the finished run in a folder."""

    arguments: Callable[[Path], list]
    clear: Callable[[Path], None]  # what the command makes goes
    result: Callable[[Path], dict]  # what there is of it now, by name
    moments: tuple[int, int] = (2, 5)  # at which the disk fills up, in the short and in the long form
    lost: str = "nothing"


def redrawn(command: str, *options: str) -> Work:
    """A command that writes figures and tables beside the runs."""
    return Work(
        lambda run: [command, run.parents[1], "--out", run.parents[2] / "out", *options],
        lambda run: shutil.rmtree(run.parents[2] / "out", ignore_errors=True),
        lambda run: dict.fromkeys(path.name for path in (run.parents[2] / "out").rglob("*")),
        (1, 3),
    )


WORKS = {
    "run": Work(
        lambda run: [*RUN, run.parents[1]],
        lambda run: shutil.rmtree(run, ignore_errors=True),
        lambda run: {"run": numbers_of(run)} if (run / "result.json").exists() else {},
        (3, 16),
        "the steps since the last checkpoint",
    ),
    "sample --npz": Work(
        lambda run: ["sample", run, "--num", "12", "--npz"],
        lambda run: [shutil.rmtree(path.parent) for path in run.glob("samples/*/samples.npz")],
        lambda run: {path: path.read_bytes() for path in run.glob("samples/*/samples.npz")},
        lost="one part's drawing",
    ),
    "evaluate RUN": Work(
        lambda run: ["evaluate", run, "--set", "sampling.num_steps=4"],
        lambda run: [shutil.rmtree(run / "features"), *(path.unlink() for path in run.glob("evaluations/step6-*"))],
        lambda run: {path: json.loads(path.read_text())["metrics"] for path in run.glob("evaluations/step6-*")},
        lost="one part's features",
    ),
    "data encode": Work(
        lambda run: [
            *("data", "encode", photographs(run.parents[2] / "photos", 12, 60, 80)),
            *(*ENCODING, run.parents[2] / "store"),
        ],
        lambda run: shutil.rmtree(run.parents[2] / "store", ignore_errors=True),
        lambda run: {path.name: path.read_bytes() for path in (run.parents[2] / "store").glob("[sl]*.npy")},
        lost="one shard",
    ),
    "compare": redrawn("compare", "--figure", "3"),
    "report": redrawn("report", "--records", "--format", "md,html"),
}


@pytest.mark.parametrize("command", WORKS if LONG else [name for name in WORKS if name != "report"])
def test_a_command_on_a_disk_that_fills_up_says_so_and_given_again_ends_the_same(command, copy, cache, tmp_path):
    work = WORKS[command]
    work.clear(copy)
    whole = harness(*work.arguments(copy), cwd=tmp_path, HARNESS_CACHE=cache)
    assert whole.code == 0, whole.stderr
    expected, told, moments = work.result(copy), 0, some(whole.opened, *work.moments)
    assert expected
    for moment in moments:
        work.clear(copy)
        failed = harness(*work.arguments(copy), cwd=tmp_path, disk=Disk(moment), HARNESS_CACHE=cache)
        if failed.code:  # a file of the cache, which costs time alone, may be the one that cannot be written
            told += 1
            assert_told(failed)
        for path in copy.glob("checkpoints/step-*"):  # whatever is there is whole
            assert checkpoint._verified_state(path, checkpoint.FILES)
        for name, value in work.result(copy).items():
            assert value == expected[name], f"from opened file {moment} on"
        assert leftovers(tmp_path) == [], f"from opened file {moment} on"
        again = harness(*work.arguments(copy), cwd=tmp_path, HARNESS_CACHE=cache)
        assert again.code == 0, again.stderr
        assert work.result(copy) == expected, f"from opened file {moment} on"
    assert told >= (len(moments) // 2 if command == "run" else len(moments))
    record("disk full", f"harness {command}, no writing from the n-th opened file on; then again", len(moments),
           lost=work.lost, told=told)  # fmt: skip


# A disk of its own -----------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """Four megabytes of memory mounted as a disk."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder], capture_output=True)
    if mounted.returncode:
        folder.rmdir()
        pytest.skip("mounting is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
        folder.rmdir()


def test_a_real_full_disk_is_told_and_a_run_goes_on_when_there_is_space_again(whole, cache, small_disk, tmp_path):
    run, done = whole
    moments = np.random.default_rng(SEED).integers(3, done.opened, 4).tolist() if LONG else [done.opened // 3]
    filler = small_disk / "filler"
    for moment in moments:
        disk = Disk(moment, str(filler))
        failed = harness(*RUN, small_disk / "runs", cwd=tmp_path, disk=disk, HARNESS_CACHE=cache)
        if failed.code:
            assert_told(failed)
        filler.unlink(missing_ok=True)
        again = harness(*RUN, small_disk / "runs", cwd=tmp_path, HARNESS_CACHE=cache)
        assert again.code == 0, again.stderr
        assert numbers_of(small_disk / "runs" / "dit-tiny" / run.name) == numbers_of(run)
        shutil.rmtree(small_disk / "runs")
    record("disk full", "harness run on a disk of 4 MB that fills up at a random moment; then again", len(moments),
           lost="the steps since the last checkpoint")  # fmt: skip


def test_a_disk_that_is_too_small_is_told_before_the_first_step(cache, small_disk, tmp_path):
    (small_disk / "filler").write_bytes(bytes(3_800_000))
    done = harness(*RUN, small_disk / "runs", cwd=tmp_path, HARNESS_CACHE=cache)
    assert "and the run needs about" in refused(done)
    assert not list(small_disk.rglob("metrics.jsonl"))


# Not to be written -----------------------------------------------------------------------------------------------


@pytest.fixture
def read_only(whole, cache) -> Iterator[Path]:
    """A read-only disk with a finished run and a full cache. For root too, whom modes do not stop."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    shutil.copytree(whole[0], folder / "runs" / "dit-tiny" / whole[0].name)
    shutil.copytree(cache, folder / "cache")
    mounted = [
        subprocess.run(["mount", *how, folder], capture_output=True).returncode
        for how in (["--bind", folder], ["-o", "remount,ro,bind"])
    ]
    if any(mounted):
        subprocess.run(["umount", "-l", folder], capture_output=True)
        shutil.rmtree(folder)
        pytest.skip("mounting is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
        shutil.rmtree(folder)


def commands_that_write(folder: Path, run: Path) -> dict[str, list]:
    commands = {
        "run": [*RUN, folder / "runs", "--seed", "5"],
        "sample": ["sample", run, "--num", "4"],
        "evaluate": ["evaluate", run, "--set", "sampling.num_steps=4"],
    }
    if LONG:
        commands["compare"] = ["compare", folder / "runs", "--out", folder / "out", "--figure", "3"]
        commands["report"] = ["report", folder / "runs", "--out", folder / "out"]
    return commands


@pytest.fixture
def somebody_elses(whole) -> Iterator[Path]:
    """A folder with a finished run in which another user may read and not write."""
    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    shutil.copytree(whole[0], folder / "runs" / "dit-tiny" / whole[0].name)
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("place", "uid", "reason"),
    [("read_only", None, "Read-only file system|cannot be written"), ("somebody_elses", 65534, "Permission denied")],
)
def test_what_cannot_be_written_is_told(place, uid, reason, whole, request):
    folder = request.getfixturevalue(place)
    commands = commands_that_write(folder, folder / "runs" / "dit-tiny" / whole[0].name)
    for name, command in commands.items():
        told = refused(harness(*command, cwd=folder, uid=uid, HARNESS_CACHE=str(folder / "cache")))
        assert re.search(reason, told), name
    where = "read-only disk" if uid is None else "read-only folder"
    who = "" if uid is None else " as another user"
    record(where, f"run, sample, evaluate, compare, report{who}: told", len(commands))


def test_what_needs_no_writing_works_on_a_read_only_disk(read_only, tmp_path):
    again = harness(*RUN, read_only / "runs", cwd=tmp_path, HARNESS_CACHE=str(read_only / "cache"))
    assert (again.code, "is finished; nothing to do" in again.stderr) == (0, True), again.stderr
    listed = harness("runs", "list", read_only / "runs", cwd=tmp_path)
    assert (listed.code, "finished" in listed.stdout) == (0, True)
    # Nothing can be kept in this cache, and a run needs nothing kept there.
    fresh = harness(*RUN, tmp_path / "runs", "--no-eval", cwd=tmp_path, HARNESS_CACHE=str(read_only / "nowhere"))
    assert fresh.code == 0, fresh.stderr
    record("read-only disk", "a finished run, runs list, and a run beside a read-only cache: go on", 3)


@pytest.mark.parametrize(
    "name", ["checkpoints", "metrics.jsonl", "evaluations", "samples"] if LONG else ["metrics.jsonl"]
)
def test_a_file_in_a_folders_place_or_a_folder_in_a_files_is_told(name, copy, cache, tmp_path):
    """What reading meets is as it should be but for one thing, so that what is told is about that."""
    (copy / "result.json").unlink()
    (copy / "evaluations" / "final.json").unlink()
    shutil.rmtree(copy / "features")
    place = copy / name
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    place.mkdir() if name == "metrics.jsonl" else place.write_text("")
    assert_told(harness(*RUN, tmp_path / "runs", cwd=tmp_path, HARNESS_CACHE=cache))


def test_a_configuration_that_was_damaged_is_not_sampled(copy, cache, tmp_path):
    path = copy / "config.yaml"
    text = path.read_text()
    damages = [("width: 16", "width: 1v"), ("width: 16", "width: 17"), ("method: dit", "method: dht"), ("w", "\x00")]
    for good, bad in damages[:: 1 if LONG else 3]:
        path.write_text(text.replace(good, bad, 1))
        told = refused(harness("sample", copy, "--num", "4", cwd=tmp_path, HARNESS_CACHE=cache))
        assert "config.yaml" in told
    record("configuration", "a changed character in config.yaml, then harness sample: told", len(damages))
