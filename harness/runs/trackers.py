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
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from harness.records.folders.history import History, Point, write_csv
from harness.system.errors import SetupError, unknown

PROJECT = "dit-harness"
EVENT_FILE = "events.out.tfevents.harness"  # no host name and no clock in it: the next export finds it again


class Format(NamedTuple):
    write: Callable[[Sequence[History], Path], list[Path]]  # what was written for each
    package: str | None  # that it needs
    open_with: str  # a sentence with {out}


def require(name: str) -> None:
    """Raises UsageError when there is no such format, SetupError when its package is missing. Imports nothing."""
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    package = FORMATS[name].package
    if package and find_spec(package) is None:
        raise SetupError(f"{package} is not installed, and this export is written by it: {_install(package)}")


def export(histories: Sequence[History], name: str, out: Path) -> list[Path]:
    """Write each history under `out`; the file or folder of each.

    Raises as `require` does, SetupError when the package does not work, OSError when the disk refuses.
    """
    require(name)
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stdout(sys.stderr):  # what the packages say is not the answer
        return FORMATS[name].write(histories, out)


def how_to_open(name: str, out: Path) -> str:
    return FORMATS[name].open_with.format(out=out)


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SetupError(f"{name} cannot be imported: {error}. Install it anew: {_install(name)}") from None


def _install(package: str) -> str:
    return f"pip install 'dit-harness[{package.partition('.')[0]}]'"


def _values(point: Point) -> dict[str, float]:
    """A step's values and, where it is known, the time in seconds since 1970 at which the step was done."""
    return {**point.values, **({} if point.time is None else {"wall_time": point.time})}


# TensorBoard ------------------------------------------------------------------------------------------------------


def _to_tensorboard(histories: Sequence[History], out: Path) -> list[Path]:
    return [_event_file(history, out / history.name) for history in histories]


def _event_file(history: History, folder: Path) -> Path:
    """One event file for the run, written aside and renamed. The writer of records is TensorBoard's own."""
    records = _package("tensorboard.summary.writer.record_writer")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / EVENT_FILE
    temporary = folder / f".{path.name}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            writer = records.RecordWriter(file)
            for event in _events(history):
                writer.write(event.SerializeToString())
            writer.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _events(history: History) -> Iterator:
    """tensorboard.compat.proto.event_pb2.Event: settings as hyperparameters and text, then the values by step."""
    Event = _package("tensorboard.compat.proto.event_pb2").Event
    Summary = _package("tensorboard.compat.proto.summary_pb2").Summary
    hparams = _package("tensorboard.plugins.hparams.summary_v2")
    text = _package("tensorboard.plugins.text.summary_v2")

    times = [point.time for point in history.points if point.time is not None]
    begun, ended = (times[0], times[-1]) if times else (0.0, 0.0)
    yield Event(wall_time=begun, file_version="brain.Event:2")
    start = hparams.hparams_pb(history.settings, trial_id=history.name, start_time_secs=begun)
    yield Event(wall_time=begun, step=0, summary=start)
    for name, content in _texts(history).items():
        yield Event(wall_time=begun, step=0, summary=text.text_pb(name, content))
    for point in history.points:
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in point.values.items()]
        yield Event(wall_time=point.time or 0.0, step=point.step, summary=Summary(value=values))
    yield Event(wall_time=ended, step=0, summary=_session_end(history.finished, ended))


def _session_end(finished: bool, ended: float) -> object:
    """TensorBoard's hyperparameter page shows by it whether a run has finished."""
    metadata = _package("tensorboard.plugins.hparams.metadata")
    plugin_data = _package("tensorboard.plugins.hparams.plugin_data_pb2")
    status = _package("tensorboard.plugins.hparams.api_pb2")
    Summary = _package("tensorboard.compat.proto.summary_pb2").Summary
    end = plugin_data.SessionEndInfo(
        status=status.STATUS_SUCCESS if finished else status.STATUS_RUNNING, end_time_secs=ended
    )
    data = metadata.create_summary_metadata(plugin_data.HParamsPluginData(session_end_info=end))
    value = Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=data, tensor=metadata.NULL_TENSOR)
    return Summary(value=[value])


def _texts(history: History) -> dict[str, str]:
    """Markdown, by tag: the settings, where the run comes from, and the conditions of each evaluation."""
    settings = [f"| {path} | `{value}` |" for path, value in history.settings.items()]
    texts = {"config": "\n".join(["| setting | value |", "|---|---|", *settings])}
    if history.manifest:
        texts["manifest"] = _code(history.manifest.model_dump(mode="json"))
    for series, evaluation in history.evaluations:
        texts.setdefault(f"{series}/protocol", _code(evaluation.protocol.model_dump(mode="json")))
    return texts


def _code(document: dict) -> str:
    return "\n".join(f"    {line}" for line in json.dumps(document, indent=2).splitlines())


# Weights & Biases ---------------------------------------------------------------------------------------------------


def _to_wandb(histories: Sequence[History], out: Path) -> list[Path]:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # before the import: it would report to its makers
    wandb = _package("wandb")
    mode = os.environ.get("WANDB_MODE", "offline")
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
                mode=mode,
                settings=wandb.Settings(
                    console="off", silent=True, disable_git=True, x_disable_stats=True, x_disable_meta=True,
                    x_disable_machine_info=True, x_save_requirements=False,
                ),  # what this machine is and does now is not the run's
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


# trackio ------------------------------------------------------------------------------------------------------------


def _to_trackio(histories: Sequence[History], out: Path) -> list[Path]:
    os.environ["TRACKIO_DIR"] = str(out.resolve())  # before the import, which reads it
    if not {"TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"} & os.environ.keys():
        os.environ["HF_HUB_OFFLINE"] = "1"  # likewise: it would ask a server who the user is
    trackio = _package("trackio")
    for history in histories:
        earlier = _trackio_runs(trackio, history.name)
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


def _trackio_runs(trackio: ModuleType, name: str) -> list:
    try:
        return [run for run in trackio.Api().runs(PROJECT) if run.name == name]
    except ValueError:
        return []  # there is no such project yet


def _to_csv(histories: Sequence[History], out: Path) -> list[Path]:
    return [write_csv(history, out) for history in histories]


FORMATS = {
    "csv": Format(_to_csv, None, "One folder a run: history.csv, evaluations.csv, config.csv."),
    "tensorboard": Format(_to_tensorboard, "tensorboard", "Open it: tensorboard --logdir {out}"),
    "wandb": Format(_to_wandb, "wandb", "Upload an offline run, if you want to: wandb sync {out}/wandb/offline-run-*"),
    "trackio": Format(_to_trackio, "trackio", "Open it: TRACKIO_DIR={out} trackio show --project " + PROJECT),
}
