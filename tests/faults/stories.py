"""Commands that are killed until they end, and what must be true of them then.

A story is one command in a fresh folder: killed at a random moment, given again, killed again, until it ends. Every
piece of work that it starts (a step, a part of the images, a part of the features, a shard) is written down by the
command itself, so that work done twice cannot hide.
"""

import functools
import hashlib
import json
import os
import shutil
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PIECES = "pieces.log"  # in a story's folder: what its commands started, a line each
IMAGES, PART, FEATURE_PART, SHARD = 64, 8, 16, 4  # images in all, of a part, of a part of the features, of a shard
TIMED = (
    "steps_per_sec", "images_per_sec", "data_wait_share", "timed_steps", "timed_seconds", "peak_memory_bytes", "mfu",
)  # fmt: skip
SMALL = {
    "width": 32, "depth": 3, "num_heads": 2, "batch_size": 16, "log_every": 1, "num_images": IMAGES,
    "sampling.num_steps": 4, "sample_batch": PART,
}  # fmt: skip
SMALLER = {
    "maskdit": {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
    "sddit": {
        "decoder_depth": 1, "decoder_heads": 2, "num_prototypes": 32, "head_hidden": 16, "head_bottleneck": 8,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Story:
    """A command, and how its work is seen on the disk."""

    kind: str
    name: str
    arguments: tuple[str, ...]
    finished: Callable[[Path], set[str]]  # the pieces in a story's folder that need not be made again
    result: Callable[[Path], dict[str, Any]]  # what has to be the same in the end
    prepare: Callable[[Path], None] = lambda folder: None
    again: bool = True  # whether the finished command writes nothing when it is repeated


def settings(values: dict[str, Any]) -> list[str]:
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def run_arguments(method: str, **values: Any) -> tuple[str, ...]:
    """`harness run` of a tiny network of `method`."""
    chosen = {**SMALL, **SMALLER.get(method, {}), **values}
    return ("run", f"{method}-tiny", *settings(chosen))


# What a command starts ----------------------------------------------------------------------------------------------


def count_pieces(folder: Path) -> None:
    """In the child, ahead of its command: small pieces, and a line for each that it starts."""
    from harness.data.latents import encode, shards
    from harness.evaluation import generation
    from harness.evaluation.networks import extract
    from harness.training.step import TrainStep

    def told(owner: Any, name: str, piece: Callable[..., str]) -> None:
        real = getattr(owner, name)

        @functools.wraps(real)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with open(folder / PIECES, "ab", buffering=0) as file:
                file.write(piece(*args, **kwargs).encode() + b"\n")
            return real(*args, **kwargs)

        setattr(owner, name, wrapped)

    extract.PART_IMAGES = FEATURE_PART
    encode.encode.__kwdefaults__["shard_images"] = SHARD
    told(TrainStep, "__call__", lambda self, batch, step, **rest: f"step {step + 1}")
    told(extract, "_kept", lambda path, features: _feature_part(path))
    told(shards, "write_shard", lambda folder, number, *rest: f"shard {number}")
    draw_in_parts = generation.draw_in_parts

    def drawn_in_parts(parts: Path, number: int, size: int, shape: Any, draw: Any, **rest: Any) -> Any:
        drawing = types.SimpleNamespace(draw=draw)
        told(drawing, "draw", lambda first, stop: _part(parts, first))
        return draw_in_parts(parts, number, size, shape, drawing.draw, **rest)

    generation.draw_in_parts = drawn_in_parts
    os.environ["HARNESS_CACHE"] = str(folder / "cache")


def started(folder: Path) -> list[str]:
    path = folder / PIECES
    return path.read_text().splitlines() if path.exists() else []


# Training ----------------------------------------------------------------------------------------------------------


def run_folder(folder: Path) -> Path | None:
    return next((folder / "runs").glob("*/seed*"), None) if (folder / "runs").exists() else None


def newest_checkpoint(folder: Path) -> int:
    run = run_folder(folder)
    found = run.glob("checkpoints/step-*") if run else ()
    return max((int(path.name.removeprefix("step-")) for path in found), default=0)


def steps_saved(folder: Path) -> set[str]:
    return {f"step {step}" for step in range(1, newest_checkpoint(folder) + 1)}


def saves(folder: Path) -> bool:
    run = run_folder(folder)
    return bool(run) and any(run.glob("checkpoints/.step-*.tmp"))


def trained(folder: Path) -> dict[str, Any]:
    """Weights byte for byte, and the log but for its times."""
    run = run_folder(folder)
    newest = run / "checkpoints" / f"step-{newest_checkpoint(folder):09d}"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        **{f"{newest.name}/{path.name}": sha256(path) for path in newest.glob("*") if path.suffix != ".json"},
        "metrics.jsonl": [{key: value for key, value in line.items() if key not in TIMED} for line in lines],
        "evaluations": {path.stem: measured(path) for path in sorted(run.glob("evaluations/*.json"))},
        "left over": left_over(folder),
    }


# Images and features ------------------------------------------------------------------------------------------------


def work_done(folder: Path) -> set[str]:
    """Every piece of a run that need not be made again: steps, images, features."""
    run = run_folder(folder)
    return steps_saved(folder) | (_images(run) | _features(run / "features") if run else set())


def features_cached(folder: Path) -> set[str]:
    return _features(folder / "cache" / "features")


def _images(run: Path) -> set[str]:
    """Parts that are drawn, and those that are no longer needed: their features are kept, or the images written."""
    found: set[str] = set()
    for parts in (*run.glob("samples/*/parts"), *run.glob("samples/parts-*")):
        hashes = [
            path for path in parts.glob("images-*.sha256") if path.stat().st_size and path.with_suffix(".npy").exists()
        ]
        found |= {_part(parts, int(path.stem.split("-")[1])) for path in hashes}
    for record in run.glob("samples/*/sampling.json"):
        found |= {_part(record.with_name("parts"), first) for first in range(0, IMAGES, PART)}
    for place in run.glob("features/*/*/"):
        if len(list(place.glob("features-*"))) == IMAGES // FEATURE_PART and (place.parent / "images.json").exists():
            parts = run / "samples" / f"parts-{place.parent.name}-{place.name}"
            found |= {_part(parts, first) for first in range(0, IMAGES, PART)}
    return found


def _part(parts: Path, first: int) -> str:
    return f"images {parts.parent.name}/{parts.name} {first}"


def _features(home: Path) -> set[str]:
    return {_feature_part(path) for path in home.glob("*/*/features-*.safetensors")}


def _feature_part(path: Path) -> str:
    return f"features {path.parent.parent.name}/{path.parent.name} {int(path.name.split('-')[1])}"


def evaluated(folder: Path) -> dict[str, Any]:
    run = run_folder(folder)
    found = {path.stem: measured(path) for path in sorted(run.glob("evaluations/*.json"))}
    return {"evaluations": found, "left over": left_over(folder)}


def sampled(folder: Path) -> dict[str, Any]:
    run = run_folder(folder)
    files = [path for path in sorted((run / "samples").rglob("*")) if path.is_file()]
    return {path.relative_to(run).as_posix(): sha256(path) for path in files}


def answered(folder: Path) -> dict[str, Any]:
    return {"answer": measured(folder / "answer.json"), "left over": left_over(folder)}


def measured(path: Path) -> dict[str, Any]:
    """An evaluation without what depends on when and how fast it was made."""
    document = json.loads(path.read_text())
    timed = ("seconds", "stage_seconds", "sample_execution", "sha256")
    return {key: value for key, value in document.items() if key not in timed}


# Encoding ------------------------------------------------------------------------------------------------------------


def shards_encoded(folder: Path) -> set[str]:
    store = folder / "latents"
    if (store / "manifest.json").exists():
        return {f"shard {int(path.stem.split('-')[1])}" for path in store.glob("shard-*[0-9].npy")}
    return {f"shard {int(path.stem.split('-')[1])}" for path in store.glob("shard-*.json")}


def encoded(folder: Path) -> dict[str, Any]:
    return {path.name: sha256(path) for path in sorted((folder / "latents").iterdir())}


# Files ---------------------------------------------------------------------------------------------------------------


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def writes(folder: Path) -> bool:
    """Whether a file was being written when the kill came."""
    return any(name.endswith(".tmp") for name in left_over(folder))


def left_over(folder: Path) -> list[str]:
    """Temporary files and locks: nothing may be left of a story that has ended."""
    found = [path for path in folder.rglob(".*") if path.suffix in (".tmp", ".lock")]
    return sorted(path.relative_to(folder).as_posix() for path in found)


def identities(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its inode and time: a file that was written again has others."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            status = path.stat()
            found[path.relative_to(folder).as_posix()] = (status.st_ino, status.st_mtime_ns)
    return found


def copied(source: Path, name: str = ".") -> Callable[[Path], None]:
    """A story that begins with what `source` holds, or with one folder of it."""
    return lambda folder: shutil.copytree(source / name, folder / name, dirs_exist_ok=True)


def all_of(methods: Sequence[str], photos: Path, run: Path) -> list[Story]:
    """The stories of every kind. `run` holds runs/ with a finished run, samples.npz, and the cache with a reference."""
    found = next((run / "runs").glob("*/seed*")).relative_to(run).as_posix()
    tiny = ("--vae", "random-tiny", "--size", "32", "--nproc", "1", "--batch", "2", "--flips")
    cache, everything = copied(run, "cache"), copied(run)
    return [
        *(Story("training", method, (*run_arguments(method, steps=24, checkpoint_every=4), "--no-eval"),
                work_done, trained)
          for method in methods),
        *(Story("saving", method, (*run_arguments(method, steps=6, checkpoint_every=1, width=64), "--no-eval"),
                work_done, trained)
          for method in methods),
        Story("encoding", "photographs", ("data", "encode", str(photos), *tiny, "--out", "latents"),
              shards_encoded, encoded),
        Story("sampling", "npz", ("sample", found, "--num", str(IMAGES), "--npz"), work_done, sampled, everything),
        Story("evaluating", "run", ("evaluate", found, "--seed", "5"), work_done, evaluated, everything, again=False),
        Story("evaluating", "npz", (
                "evaluate", "samples.npz", "--reference", "digits", "--features", "digits", "--out", "answer.json"),
              features_cached, answered, everything, again=False),
        Story("evaluating", "after training", run_arguments("dit", steps=4, checkpoint_every=2),
              work_done, trained, cache),
    ]  # fmt: skip
