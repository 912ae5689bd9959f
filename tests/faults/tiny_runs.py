"""Runs of seconds in this process, and the numbers they end with."""

import hashlib
from pathlib import Path

from small import small_config

from harness.recipes.config import RunConfig
from harness.records.schema import Result
from harness.records.store import load_run
from harness.runs import training_run as experiment

SETTINGS = ("steps=6", "checkpoint_every=2", "log_every=1")


class Notes:
    """A progress that keeps what it is told."""

    def __init__(self):
        self.said: list[str] = []

    def note(self, text):
        self.said.append(text)

    def stage(self, name, total, unit="images"):
        pass

    def metrics(self, line):
        pass

    def advance(self, done):
        pass


def config(*assignments: str) -> RunConfig:
    return small_config("dit", *SETTINGS, *assignments)


def train(out: Path, *assignments: str) -> tuple[Result, Path, list[str]]:
    """A run's result, its folder, and what was told. Trains and does not evaluate."""
    progress, cfg = Notes(), config(*assignments)
    result = experiment.run(
        cfg, out, command="harness run dit-tiny", progress=progress, with_evaluation=False, force=False
    )
    return result, out / cfg.recipe / cfg.run_id, progress.said


def weights_of(folder: Path) -> dict[str, str]:
    """The hashes of the last checkpoint's weights, averaged and not."""
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    files = ("method.safetensors", "ema.safetensors")
    return {"step": newest.name, **{name: hashlib.sha256((newest / name).read_bytes()).hexdigest() for name in files}}


def losses_of(folder: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in load_run(folder).metrics]
