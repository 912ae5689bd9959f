"""A whole run of a small network in this process, and the numbers that it ends with."""

import hashlib
from pathlib import Path

from small import small_config

from harness.recipes.config import RunConfig
from harness.records.schema import Result
from harness.records.store import load_run
from harness.runs import training_run
from harness.system.progress import NoProgress

EVALUATED = ("num_images=60", "sampling.num_steps=3")
SIX_STEPS = ("steps=6", "checkpoint_every=2", "log_every=1")


class Silent:
    """A progress that keeps the notes and the names of stages."""

    def __init__(self):
        self.notes: list[str] = []

    def note(self, text):
        self.notes.append(text)

    def stage(self, name, total, unit="images"):
        self.notes.append(name)

    def metrics(self, line):
        pass

    def advance(self, done):
        pass


def run(
    out: Path, *assignments: str, method="dit", with_evaluation=False, force=False
) -> tuple[Result, Path, list[str]]:
    """A run's result, its folder, and its notes."""
    progress = Silent()
    cfg = small_config(method, *assignments)
    result = training_run.run(
        cfg, out, command=f"harness run {method}-tiny", progress=progress, with_evaluation=with_evaluation, force=force
    )
    return result, out / f"{method}-tiny" / cfg.run_id, progress.notes


def trained(cfg: RunConfig, out: Path, command: str = "harness run", *, evaluate: bool = False) -> Path:
    """The folder of a run of this configuration."""
    training_run.run(cfg, out, command=command, progress=NoProgress(), with_evaluation=evaluate, force=False)
    return out / cfg.recipe / cfg.run_id


def weights_of(folder: Path) -> dict[str, str]:
    """The hashes of the last checkpoint's weights, averaged and not."""
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    files = ("method.safetensors", "ema.safetensors")
    return {"step": newest.name, **{name: hashlib.sha256((newest / name).read_bytes()).hexdigest() for name in files}}


def losses_of(folder: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in load_run(folder).metrics]
