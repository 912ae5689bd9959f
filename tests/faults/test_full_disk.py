"""A disk that is full or read-only: the command says so in one line, ends with exit code 4, and can be repeated."""

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from commands import Disk, Done, harness, prepared, refused
from PIL import Image
from positions import LONG, SEED, record

from harness.data.latents import shards
from harness.data.latents.shards import Description, VaeIdentity
from harness.records.store import load_run
from harness.system.errors import DataError
from harness.training import checkpoint

pytestmark = pytest.mark.slow  # the process that the commands are forked from imports everything first

SMALL = ["width=16", "depth=3", "num_heads=2", "batch_size=8", "log_every=2", "checkpoint_every=2"]
QUICK = ["num_images=60", "sampling.num_steps=3", "untrained=false", "metrics=[fd,class_accuracy]"]
SETTINGS = [part for setting in (*SMALL, *QUICK) for part in ("--set", setting)]
RUN = ["run", "dit-tiny", "--steps", "6", *SETTINGS, "--out"]
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


def a_shard_too_many(folder: str) -> None:
    """In a child: a process that may write no file as long as a shard's."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
    try:
        shards.write_shard(Path(folder), 1, np.ones((3, 4, 2, 2)), np.arange(3))
    except DataError as error:
        sys.exit(0 if "shard-00001.npy cannot be written: " in str(error) else str(error))
    sys.exit("the disk took it")


def test_a_shard_on_a_full_disk_is_told_and_the_store_goes_on(tmp_path):
    description = Description(
        name="tiny", source="a test", layout="sample", channels=4, side=2, image_size=16, crop="adm-centre",
        vae=VaeIdentity(id="random-tiny"), num_images=6, num_classes=3,
    )  # fmt: skip
    values, labels = np.ones((3, 4, 2, 2)), np.arange(3)
    shards.begin(tmp_path, description)
    shards.write_shard(tmp_path, 0, values, labels)
    child = prepared().Process(target=a_shard_too_many, args=(str(tmp_path),))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert shards.finished_shards(tmp_path) == {0}
    assert not list(tmp_path.glob(".*"))
    shards.write_shard(tmp_path, 1, 2 * values, labels)
    assert len(shards.finish(tmp_path).shards) == 2


@pytest.mark.skipif(not LONG, reason="diffusers takes ten seconds to import: HARNESS_FAULTS=long")
def test_encoding_on_a_full_disk_is_told_and_the_same_command_makes_the_same_store(tmp_path, cache):
    generator = np.random.default_rng(SEED)
    for number in range(24):
        place = tmp_path / "images" / f"class{number % 2}" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(256, size=(64, 64, 3), dtype=np.uint8)).save(place)

    def encode(out: str, limit: int | None) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "harness", "data", "encode", "images", "--vae", "random-tiny", "--size", "64",
             "--flips", "--nproc", "1", "--out", out],
            cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "HARNESS_CACHE": cache},
            preexec_fn=limit and (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))),
        )  # fmt: skip

    assert encode("whole", None).returncode == 0
    names = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    limits = [100, 400, 1200, 20_000]
    for limit in limits:
        failed = encode("store", limit)
        assert_told(Done(failed.returncode, failed.stdout, failed.stderr, 0))
        assert encode("store", None).returncode == 0
        found = {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()}
        shards = {name for name in names if name.endswith(".npy")}
        assert found.keys() == names.keys()
        assert {name: found[name] for name in shards} == {name: names[name] for name in shards}
        shutil.rmtree(tmp_path / "store")
    record("disk full", "harness data encode, files of at most n bytes; then again", len(limits), lost="one shard")


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


def test_what_cannot_be_written_to_a_read_only_disk_is_told(read_only, whole, tmp_path):
    run = read_only / "runs" / "dit-tiny" / whole[0].name
    commands = commands_that_write(read_only, run)
    for name, command in commands.items():
        told = refused(harness(*command, cwd=tmp_path, HARNESS_CACHE=str(read_only / "cache")))
        assert "Read-only file system" in told or "cannot be written" in told, name
    record("read-only disk", "run, sample, evaluate, compare, report: told", len(commands))


def test_what_needs_no_writing_works_on_a_read_only_disk(read_only, tmp_path):
    again = harness(*RUN, read_only / "runs", cwd=tmp_path, HARNESS_CACHE=str(read_only / "cache"))
    assert (again.code, "is finished; nothing to do" in again.stderr) == (0, True), again.stderr
    listed = harness("runs", "list", read_only / "runs", cwd=tmp_path)
    assert (listed.code, "finished" in listed.stdout) == (0, True)
    # Nothing can be kept in this cache, and a run needs nothing kept there.
    fresh = harness(*RUN, tmp_path / "runs", "--no-eval", cwd=tmp_path, HARNESS_CACHE=str(read_only / "nowhere"))
    assert fresh.code == 0, fresh.stderr
    record("read-only disk", "a finished run, runs list, and a run beside a read-only cache: go on", 3)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_folder_of_somebody_else_is_told(whole, tmp_path_factory):
    nobody = 65534
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        run = Path(shutil.copytree(whole[0], folder / "runs" / "dit-tiny" / whole[0].name))
        folder.chmod(0o755)
        commands = commands_that_write(folder, run)
        for name, command in commands.items():
            told = refused(harness(*command, cwd=folder, uid=nobody, HARNESS_CACHE=str(folder / "cache")))
            assert "Permission denied" in told, name
        record("read-only folder", "run, sample, evaluate, compare, report as another user: told", len(commands))
    finally:
        shutil.rmtree(folder)


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
