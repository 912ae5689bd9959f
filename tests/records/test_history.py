"""The history of a run as other programs get it: what TensorBoard reads back, tables, and the other trackers."""

import csv
import json
import sys
import types
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import pytest
from run_folders import write_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams

from harness.recipes.config import read_config
from harness.records.folders import history
from harness.runs import trackers
from harness.system.errors import DataError, SetupError, UsageError

START = datetime(2026, 1, 1, tzinfo=UTC).timestamp()


def at(seconds: float) -> str:
    return datetime.fromtimestamp(START + seconds, UTC).isoformat(timespec="seconds")


def write_lines(path: Path, documents: list[dict]) -> None:
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))


def logged(root: Path, method: str = "sddit", **settings) -> Path:
    """A run of 600 steps that logged every 100, saved every 200, and took 10 s for each 100."""
    folder = write_run(root, method, **settings)
    lines = [
        {"step": step, "images": 64 * step, "loss": 1 / step, "loss/denoise": 0.5, "mfu": None, "steps_per_sec": 10.0}
        | {"timed_steps": 100, "timed_seconds": 10.0}
        for step in range(100, 601, 100)
    ]
    write_lines(folder / "metrics.jsonl", lines)
    checkpoints = [{"time": at(step / 10), "event": "checkpoint", "step": step} for step in (200, 400, 600)]
    note = {"time": at(3), "event": "note", "text": "a note"}
    write_lines(folder / "events.jsonl", [{"time": at(0), "event": "start", "step": 0}, note, *checkpoints])
    return folder


def exported(folder: Path, to: str, out: Path) -> Path:
    (path,) = trackers.export([history.read(folder)], to, out)
    return path


def read_back(path: Path) -> EventAccumulator:
    return EventAccumulator(str(path.parent), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


# TensorBoard --------------------------------------------------------------------------------------------------------


def test_tensorboard_reads_every_value_at_its_step_and_time_guided_evaluations_apart_and_the_settings(tmp_path):
    folder = logged(tmp_path / "runs", knobs={"mask_ratio": 0.5}, milestones={150: 40.0, 300: 20.0}, guided={1.5: 4.0})
    back = read_back(exported(folder, "tensorboard", tmp_path / "out"))

    def curve(tag):
        return [(e.step, pytest.approx(e.value), e.wall_time - START) for e in back.Scalars(tag)]

    assert curve("loss") == [(step, 1 / step, step / 10) for step in range(100, 601, 100)]  # every 200 recorded
    assert [step for step, _, _ in curve("loss/denoise")] == list(range(100, 601, 100))
    assert "mfu" not in back.Tags()["scalars"]  # null: not known
    assert curve("evaluation/fd-digits@1k") == [(0, 300, 0), (150, 40, 15), (300, 20, 30), (600, 5, 60)]
    assert curve("evaluation (guidance_scale 1.5)/fd-digits@1k") == [(600, 4, 60)]
    assert len(back.Scalars("evaluation/is-digits@1k")) == 1

    content = back.SummaryMetadata(hparams.SESSION_START_INFO_TAG).plugin_data.content
    start = hparams.parse_session_start_info_plugin_data(content)
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    assert (values["knobs.mask_ratio"], values["protocol.steps"], values["protocol.ema_warmup"]) == (0.5, 600, "true")
    assert json.loads(values["protocol.betas"]) == read_config(folder / "config.yaml")["protocol"]["betas"]
    assert values["sampling.guidance_scale"] == "null"
    (text,) = back.Tensors("config/text_summary")
    assert "| knobs.mask_ratio | `0.5` |" in text.tensor_proto.string_val[0].decode()
    assert {"manifest/text_summary", "evaluation/protocol/text_summary"} <= set(back.Tags()["tensors"])


def test_a_second_export_replaces_the_first(tmp_path):
    folder, out = logged(tmp_path / "runs"), tmp_path / "out"
    path = exported(folder, "tensorboard", out)
    more = {"step": 700, "loss": 9.0}
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps(more) + "\n")
    assert exported(folder, "tensorboard", out) == path
    assert [p for p in out.rglob("*") if p.is_file()] == [path]
    assert [e.step for e in read_back(path).Scalars("loss")] == [*range(100, 601, 100), 700]
    assert read_back(path).Scalars("loss")[-1].wall_time == START + 70  # at the mean speed, after the last event


def test_an_export_that_fails_leaves_the_earlier_one_whole(tmp_path, monkeypatch):
    folder, out = logged(tmp_path / "runs"), tmp_path / "out"
    path = exported(folder, "tensorboard", out)
    first = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trackers.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        exported(folder, "tensorboard", out)
    assert [(p, p.read_bytes()) for p in out.rglob("*") if p.is_file()] == [(path, first)]


def test_no_host_name_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "my-own-host")
    path = exported(logged(tmp_path / "runs"), "tensorboard", tmp_path / "out")
    assert b"my-own-host" not in path.name.encode() + path.read_bytes()


# Times --------------------------------------------------------------------------------------------------------------


def test_steps_done_again_after_a_resumption_have_the_times_of_the_second_time(tmp_path):
    folder = logged(tmp_path)
    events = [("start", 0, 0), ("checkpoint", 200, 20), ("preemption", 290, 29), ("resume", 200, 1000)]
    events += [("checkpoint", 400, 1020), ("divergence", 410, 1021)]
    write_lines(folder / "events.jsonl", [{"time": at(t), "event": e, "step": s} for e, s, t in events])
    found = history.read(folder)
    for step, seconds, recorded in (
        (0, 0, True),
        (100, 10, False),
        (200, 20, True),  # and not 1000: it was done before the resumption
        (201, 1000.1, False),
        (290, 1009, False),
        (400, 1020, True),
        (600, 1040, False),  # 10 steps a second, as its log says
    ):
        time, known = found.time_of(step)
        assert (time - START, known) == (pytest.approx(seconds), recorded), step


@pytest.mark.parametrize("events", ["", "junk\n", '{"event": "start", "step": 0, "time": "never"}\n'])
def test_without_events_the_times_begin_with_the_manifest(events, tmp_path):
    folder = logged(tmp_path, started_at=at(5))
    (folder / "events.jsonl").write_text(events)
    assert [p.time - START for p in history.read(folder).points] == pytest.approx([5, 15, 25, 35, 45, 55, 65])


def test_without_any_recorded_time_none_is_made_up(tmp_path):
    folder = logged(tmp_path / "runs")
    for name in ("events.jsonl", "manifest.json", "result.json"):
        (folder / name).unlink()
    assert {p.time for p in history.read(folder).points} == {None}
    rows = table(exported(folder, "csv", tmp_path / "out") / "history.csv")
    assert {(row["time"], row["time_is"]) for row in rows} == {("", "")}
    assert len(read_back(exported(folder, "tensorboard", tmp_path / "out")).Scalars("loss")) == 6


# What there is --------------------------------------------------------------------------------------------------------


def test_tables_hold_every_value_with_its_conditions(tmp_path):
    folder = logged(tmp_path / "runs", milestones={300: 20.0}, guided={1.5: 4.0})
    out = exported(folder, "csv", tmp_path / "out")
    tables = {path.stem: table(path) for path in out.iterdir()}
    assert set(tables) == {"history", "evaluations", "config"}
    rows = {int(row["step"]): row for row in tables["history"]}
    assert list(rows) == [0, *range(100, 601, 100)]
    assert (rows[100]["loss"], rows[100]["images"], rows[100]["evaluation/fd-digits@1k"]) == ("0.01", "6400", "")
    assert (rows[200]["time_is"], rows[100]["time_is"]) == ("recorded", "between events")
    assert rows[300]["evaluation/fd-digits@1k"] == "20.0"
    (guided,) = [row for row in tables["evaluations"] if row["protocol.guidance_scale"] == "1.5"]
    assert (guided["metric"], guided["value"], guided["step"]) == ("fd-digits@1k", "4.0", "600")
    assert {row["setting"]: row["value"] for row in tables["config"]}["protocol.steps"] == "600"


def test_damaged_lines_are_left_out_and_of_two_about_a_step_the_later_one_is_taken(tmp_path):
    folder = logged(tmp_path)
    odd = ['{"torn', "[1]", '{"step": "x", "loss": 1}', '{"step": -1, "loss": 1}', '{"step": true, "loss": 1}', "\x00"]
    odd += [f'{{"step": 100, "loss": 8.0, "huge": 1{"0" * 400}}}']
    odd += ['{"step": 100, "loss": 7.0, "text": "x", "flag": true, "list": [1]}']
    with open(folder / "metrics.jsonl", "a") as file:
        file.write("\n".join(odd) + "\n")
    points = {point.step: point.values for point in history.read(folder).points}
    assert set(points) == {0, *range(100, 601, 100)}
    assert points[100] == {"loss": 7.0}


def test_an_unfinished_run_is_exported_as_far_as_it_went(tmp_path):
    folder = logged(tmp_path / "runs", finished=False)
    back = read_back(exported(folder, "tensorboard", tmp_path / "out"))
    assert len(back.Scalars("loss")) == 6
    finished = read_back(exported(logged(tmp_path / "finished"), "tensorboard", tmp_path / "other"))
    ended = [hparams.SESSION_END_INFO_TAG in b._plugin_to_tag_to_content.get("hparams", {}) for b in (back, finished)]
    assert ended == [False, True]  # TensorBoard shows a run without an end as running


def test_folders_without_a_history_are_left_out_and_told(tmp_path):
    good = logged(tmp_path)
    empty = write_run(tmp_path, "dit", finished=False)
    (empty / "metrics.jsonl").write_text("")
    (tmp_path / "notes").mkdir()
    histories, left_out = history.read_all([good, empty, tmp_path / "notes", good])
    assert [h.folder for h in histories] == [good.resolve()]
    assert [item.path.name for item in left_out] == [empty.name, "notes"]
    with pytest.raises(DataError, match="nothing was logged"):
        history.read_all([empty])


def test_two_runs_of_one_name_are_refused_before_one_replaces_the_other(tmp_path):
    folders = [logged(tmp_path / place) for place in ("a", "b")]
    with pytest.raises(UsageError, match="to the same place"):
        history.read_all(folders)


# wandb and trackio: stand-ins for their packages, which record what they are called with ---------------------------


class FakeRun:
    def __init__(self, calls: list, folder: Path):
        self.calls, self.dir, self.summary = calls, str(folder / "files"), {}

    def log(self, values: dict, step: int) -> None:
        self.calls.append(("log", step, values))

    def finish(self) -> None:
        self.calls.append(("finish",))


@pytest.fixture
def wandb(monkeypatch) -> list:
    """A package of that name; the list of its calls."""
    calls: list = []
    fake = types.ModuleType("wandb")
    fake.__spec__ = types.SimpleNamespace(name="wandb")

    def init(**options):
        number = sum(call[0] == "init" for call in calls)
        calls.append(("init", options))
        folder = options["dir"] / "wandb" / f"offline-run-20260101_00000{number}-{options['id']}"
        (folder / "files").mkdir(parents=True)
        return FakeRun(calls, folder)

    fake.init, fake.Settings, fake.teardown = init, dict, lambda: calls.append(("teardown",))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")  # what the export itself sets stays this test's
    return calls


def test_wandb_gets_an_offline_run_of_the_runs_own_id_with_steps_in_order(wandb, tmp_path, monkeypatch):
    folder = logged(tmp_path / "runs", guided={1.5: 4.0})
    path = exported(folder, "wandb", tmp_path / "out")
    ((_, options),) = [call for call in wandb if call[0] == "init"]
    assert options["mode"] == "offline"
    assert options["id"] == f"sddit-tiny-{folder.name}"
    assert options["config"] == read_config(folder / "config.yaml")
    assert options["settings"]["x_disable_machine_info"]
    steps = [call[1] for call in wandb if call[0] == "log"]
    assert steps == [0, *range(100, 601, 100)]  # one call a step: a second would be dropped
    last = [call[2] for call in wandb if call[0] == "log"][-1]
    assert (last["loss"], last["evaluation/fd-digits@1k"], last["wall_time"]) == (1 / 600, 5.0, START + 60)
    assert [call[0] for call in wandb[-2:]] == ["finish", "teardown"]
    assert path.name.startswith("offline-run-")
    monkeypatch.setenv("WANDB_MODE", "online")  # only where the user says so
    exported(folder, "wandb", tmp_path / "online")
    assert [call[1]["mode"] for call in wandb if call[0] == "init"] == ["offline", "online"]


def test_a_second_wandb_export_replaces_the_first_and_no_other_run(wandb, tmp_path):
    folder, out = logged(tmp_path / "runs"), tmp_path / "out"
    other = out / "wandb" / f"offline-run-20260101_000000-my-sddit-tiny-{folder.name}"
    other.mkdir(parents=True)
    first = exported(folder, "wandb", out)
    second = exported(folder, "wandb", out)
    assert first != second
    assert set((out / "wandb").iterdir()) == {second, other}


@pytest.fixture
def trackio(monkeypatch) -> types.ModuleType:
    fake = types.ModuleType("trackio")
    fake.__spec__ = types.SimpleNamespace(name="trackio")
    fake.runs, fake.calls = [], []

    class Stored:
        def __init__(self, name):
            self.name = name

        def delete(self):
            fake.runs.remove(self)

    class Api:
        def runs(self, project):
            if not fake.runs:
                raise ValueError(f"Project '{project}' does not exist")
            return list(fake.runs)

    def init(**options):
        fake.calls.append(("init", options))
        fake.runs.append(Stored(options["name"]))
        print("said on stdout")
        return FakeRun(fake.calls, Path())

    fake.Api, fake.init, fake.finish = Api, init, lambda: fake.calls.append(("finish",))
    monkeypatch.setitem(sys.modules, "trackio", fake)
    forget_the_settings_of_trackio(monkeypatch)
    return fake


def forget_the_settings_of_trackio(monkeypatch) -> None:
    """The settings that an export makes go too, once the test is over."""
    for name in ("TRACKIO_DIR", "HF_HUB_OFFLINE", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_trackio_gets_the_run_into_the_asked_folder_once(trackio, tmp_path, capsys):
    folder, out = logged(tmp_path / "runs"), tmp_path / "out"
    for _ in range(2):
        assert exported(folder, "trackio", out) == out
    assert [run.name for run in trackio.runs] == [f"sddit-tiny/{folder.name}"]
    assert [call[1] for call in trackio.calls if call[0] == "log"] == [0, *range(100, 601, 100)] * 2
    assert trackers.os.environ["TRACKIO_DIR"] == str(out.resolve())
    assert trackers.os.environ["HF_HUB_OFFLINE"] == "1"  # nothing asked for a server
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_package_is_told_with_the_command_that_installs_it(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SetupError, match=rf"pip install 'dit-harness\[{name}\]'"):
        trackers.export([history.read(logged(tmp_path / "runs"))], name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_format_is_told_with_the_nearest():
    with pytest.raises(UsageError, match="Did you mean tensorboard"):
        trackers.require("tensorbord")


@pytest.mark.skipif(find_spec("trackio") is None, reason="trackio, an extra, is not installed")
def test_the_real_trackio_holds_each_step_once(tmp_path, monkeypatch):
    forget_the_settings_of_trackio(monkeypatch)
    folder, out = logged(tmp_path / "runs"), tmp_path / "out"
    for _ in range(2):
        exported(folder, "trackio", out)
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = trackio.Api().runs(trackers.PROJECT)
    rows = SQLiteStorage.get_logs(trackers.PROJECT, run.name, run_id=run.id)
    assert [(row["step"], row.get("loss")) for row in rows] == [(0, None), *((s, 1 / s) for s in range(100, 601, 100))]
    assert run.config["protocol.steps"] == 600
    assert run.config["_Username"] is None


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb, an extra, is not installed")
def test_the_real_wandb_writes_one_offline_run_that_does_not_describe_the_machine(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    folder, out = logged(tmp_path / "runs"), tmp_path / "out"
    for _ in range(2):
        path = exported(folder, "wandb", out)
    (offline,) = out.glob("wandb/offline-run-*")
    assert offline == path
    content = (offline / f"run-sddit-tiny-{folder.name}.wandb").read_bytes()
    assert b"evaluation/fd-digits@1k" in content
    assert b"loss/denoise" in content
    assert list((offline / "files").iterdir()) == []  # no wandb-metadata.json with host and user, no requirements.txt
