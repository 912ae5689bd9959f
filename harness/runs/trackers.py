"""Histories of runs written for other programs: TensorBoard, Weights & Biases, trackio, and plain CSV.

Their packages are extras and imported only here, when they are asked for. Nothing is sent anywhere unless the user's
own settings of such a package say so. An export replaces the earlier one of the same run.
"""

import contextlib
import importlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from harness.records.folders.history import History, Point, write_csv
from harness.system.errors import SetupError, unknown

PROJECT = "dit-harness"
EVENT_FILE = "events.out.tfevents.harness"  # it names no host and no time, so that the next export replaces it


class Format(NamedTuple):
    """A format has the name of the package that writes it, but for csv, which needs none."""

    write: Callable[[Sequence[History], Path], list[Path]]  # it returns what was written for each history
    open_with: str  # a sentence with {out}


def require(name: str) -> None:
    """Raises UsageError when there is no such format, SetupError when its package is missing. Imports nothing."""
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    if name != "csv" and find_spec(name) is None:
        raise SetupError(f"{name} is not installed, and this export is written by it: {_install(name)}")


def export(histories: Sequence[History], name: str, out: Path) -> list[Path]:
    """Write each history under `out`; the file or folder of each.

    Raises as `require` does, SetupError when the package does not work, OSError when the disk refuses.
    """
    require(name)
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stdout(sys.stderr):  # what the packages print is not the answer
        return FORMATS[name].write(histories, out)


def how_to_open(name: str, out: Path) -> str:
    return FORMATS[name].open_with.format(out=out)


def _package(name: str, of: str | None = None) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SetupError(f"{name} cannot be imported: {error}. Install it again: {_install(of or name)}") from None


def _install(package: str) -> str:
    return f"pip install 'dit-harness[{package}]'"


def _values(point: Point) -> dict[str, float]:
    """A step's values and, where it is known, the time in seconds since 1970 at which the step was done."""
    return {**point.values, **({} if point.time is None else {"wall_time": point.time})}


def _to_csv(histories: Sequence[History], out: Path) -> list[Path]:
    return [write_csv(history, out) for history in histories]


def _to_tensorboard(histories: Sequence[History], out: Path) -> list[Path]:
    return [_event_file(history, out / history.name) for history in histories]


def _event_file(history: History, folder: Path) -> Path:
    """One event file for the run, written beside its place and renamed, so that a failure keeps the earlier one."""
    tensorboard = _package("torch.utils.tensorboard", of="tensorboard")
    summaries = _package("torch.utils.tensorboard.summary", of="tensorboard")
    temporary = folder / f".{EVENT_FILE}.{os.getpid()}.tmp"
    times = [point.time for point in history.points if point.time is not None]
    begun = times[0] if times else 0.0
    try:
        with tensorboard.SummaryWriter(temporary) as writer:
            settings = {k: json.dumps(v) if isinstance(v, bool) else v for k, v in history.settings.items()}
            _, start, end = summaries.hparams(settings, {})
            writer.file_writer.add_summary(start, 0, begun)
            for tag, text in _texts(history).items():
                writer.add_text(tag, text, 0, begun)
            for point in history.points:
                for tag, value in point.values.items():
                    writer.add_scalar(tag, value, point.step, point.time or 0.0)
            if history.finished:  # TensorBoard shows a run without an end as one that is still running
                writer.file_writer.add_summary(end, 0, times[-1] if times else 0.0)
        (written,) = temporary.iterdir()
        os.replace(written, folder / EVENT_FILE)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder / EVENT_FILE


def _texts(history: History) -> dict[str, str]:
    """Markdown, by tag: the settings, where the run comes from, and the conditions of each evaluation."""
    settings = [f"| {path} | `{value}` |" for path, value in history.settings.items()]
    texts = {"config": "\n".join(["| setting | value |", "|---|---|", *settings])}
    if history.manifest:
        texts["manifest"] = _code(history.manifest.model_dump(mode="json"))
    for series, evaluation in history.evaluations:
        texts.setdefault(f"{series}/protocol", _code(evaluation.protocol.model_dump(mode="json")))
    return texts


def _code(document: dict[str, Any]) -> str:
    return "\n".join(f"    {line}" for line in json.dumps(document, indent=2).splitlines())


def _to_wandb(histories: Sequence[History], out: Path) -> list[Path]:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # before the import: it would report to its makers
    wandb = _package("wandb")
    written = []
    try:
        for history in histories:
            id = re.sub(r"[^\w-]", "-", history.name)
            earlier = [path for path in out.glob("wandb/*") if re.fullmatch(rf"(offline-)?run-[\d_]+-{id}", path.name)]
            run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                id=id,
                name=history.name,
                group=history.recipe,
                config=history.config,
                dir=out,
                mode=os.environ.get("WANDB_MODE", "offline"),
                settings=wandb.Settings(
                    console="off", silent=True, disable_git=True, x_disable_stats=True, x_disable_meta=True,
                    x_disable_machine_info=True, x_save_requirements=False,
                ),  # the run was not made by this machine as it is now
            )  # fmt: skip
            for point in history.points:
                run.log(_values(point), step=point.step)
            run.summary["finished"] = history.finished
            folder = Path(run.dir).parent  # .../files
            run.finish()
            for old in earlier:
                if old != folder:
                    shutil.rmtree(old)
            written.append(folder)
    finally:
        wandb.teardown()
    return written


def _to_trackio(histories: Sequence[History], out: Path) -> list[Path]:
    os.environ["TRACKIO_DIR"] = str(out.resolve())  # before the import, which reads it
    if not {"TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"} & os.environ.keys():
        os.environ["HF_HUB_OFFLINE"] = "1"  # likewise: it would ask a server who the user is
    trackio = _package("trackio")
    for history in histories:
        try:
            earlier = [run for run in trackio.Api().runs(PROJECT) if run.name == history.name]
        except ValueError:
            earlier = []  # there is no such project yet
        run = trackio.init(
            project=PROJECT, name=history.name, group=history.recipe, config=dict(history.settings), embed=False,
            auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip
        for point in history.points:
            run.log(_values(point), step=point.step)
        trackio.finish()
        for old in earlier:
            old.delete()
    return [out] * len(histories)


FORMATS = {
    "csv": Format(_to_csv, "One folder a run: history.csv, evaluations.csv, config.csv."),
    "tensorboard": Format(_to_tensorboard, "Open it: tensorboard --logdir {out}"),
    "wandb": Format(_to_wandb, "Upload an offline run, if you want to: wandb sync {out}/wandb/offline-run-*"),
    "trackio": Format(_to_trackio, "Open it: TRACKIO_DIR={out} trackio show --project " + PROJECT),
}
