"""`harness bench` as a user meets it: a real bench of tiny recipes, its files, and what it refuses."""

import json
import os
import signal

import pytest
from command_line import SMALL as SMALL_RUN
from command_line import invoke

from harness.bench import measure
from harness.records.bench_record import Bench
from harness.records.evidence import gather
from harness.records.schema import read_record
from harness.reporting.drawing.sheet import csv_of, save
from harness.reporting.figures import bench as bench_figure
from harness.reporting.tables import bench as bench_tables
from harness.system.errors import DataError

SMALL = [*SMALL_RUN, "--rounds", "2", "--window", "0.01"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A bench of two recipes, one factor varied, its folder and what it printed."""
    folder = tmp_path_factory.mktemp("bench")
    done = invoke("bench", "dit-tiny", "sddit-tiny", *SMALL, "--batch", "8,4", "--profile", "--json", cwd=folder)
    assert done.exit_code == 0, done.stderr
    return folder / "reports" / "latest", json.loads(done.stdout)


def test_the_document_has_a_contender_for_every_recipe_and_value_with_how_it_was_made(measured):
    _, document = measured
    assert [entry["name"] for entry in document["entries"]] == [
        "dit-tiny batch_size 8",
        "sddit-tiny batch_size 8",
        "dit-tiny batch_size 4",
        "sddit-tiny batch_size 4",
    ]
    for entry in document["entries"]:
        assert len(entry["windows"]) == 2
        speed = entry["steps_per_sec"]
        assert 0 < speed["lowest"] <= speed["median"] <= speed["highest"]
        assert entry["conditions"].items() >= {"code": "harness", "precision": "fp32", "compiled": False}.items()
        assert entry["mfu"] is None  # no data sheet of a processor
        assert entry["over_floor"] > 0.2
        assert entry["peak_allocated_bytes"] is None
        assert entry["joules_per_image"] is None
    assert document["entries"][0]["ratio"] == {"median": 1, "lowest": 1, "highest": 1}
    assert document["device"]["kind"] == "cpu"
    assert document["process_peak_rss_bytes"] > 1e7


def test_the_record_table_figure_and_trace_are_written_say_the_same_and_are_drawn_alike_again(measured, tmp_path):
    folder, document = measured
    record = read_record(folder / "bench.json", Bench)
    assert record.model_dump(mode="json") == document
    table = (folder / "bench.md").read_text()
    assert all(entry.name in table for entry in record.entries)
    assert "aten::" in table  # the top operators
    assert {p.suffix for p in folder.glob("bench.*")} == {".json", ".md", ".png", ".svg", ".csv"}
    assert len(list(folder.glob("trace-*.json.gz"))) == 4
    assert (folder / "bench.csv").read_text() == csv_of(bench_figure.make(record).frame)
    for again in save(bench_figure.make(record), tmp_path):
        assert again.read_bytes() == (folder / again.name).read_bytes()


def test_the_drawn_floor_is_the_one_in_the_table_which_fits_80_columns(measured):
    record = read_record(measured[0] / "bench.json", Bench)
    rows = (measured[0] / "bench.csv").read_text().splitlines()[1:]
    for entry, row in zip(record.entries, rows, strict=True):
        assert float(row.split(",")[-2]) == pytest.approx(1 / entry.floors[0].seconds)
    device, *rows = bench_tables.lines(record)  # the name of the device may be long
    assert device.startswith(record.device.name)
    assert max(map(len, rows)) <= 80


@pytest.mark.parametrize(
    ("place", "call", "number", "exit_code", "names", "says"),
    [
        ("warmed_up", 2, signal.SIGTERM, 75, ["dit-tiny"], "1 of 2 contenders were warm, none was timed"),
        ("_window", 4, signal.SIGINT, 130, ["dit-tiny", "maskdit-tiny"], "1 of 2 rounds were timed"),
    ],
    ids=["while the second warms up", "in the second round, by Ctrl-C"],
)
def test_a_bench_that_is_stopped_leaves_what_it_measured(
    place, call, number, exit_code, names, says, tmp_path, monkeypatch
):
    calls, original = [], getattr(measure, place)

    def interrupted(*arguments):
        calls.append(place)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return original(*arguments)

    monkeypatch.setattr(measure, place, interrupted)
    monkeypatch.setattr(measure, "SECONDS", 0.0)
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    done = invoke("bench", "dit-tiny", "maskdit-tiny", *SMALL, cwd=tmp_path)
    signal.signal(signal.SIGINT, previous)
    assert (done.exit_code, done.stdout) == (exit_code, "")
    told = " ".join(done.stderr.split())
    assert f"the bench was stopped: {says}" in told
    assert told.endswith("The same command starts over.")
    assert "continues" not in told
    folder = tmp_path / "reports" / "latest"
    record = read_record(folder / "bench.json", Bench)
    assert record.incomplete.startswith(says)
    assert [entry.name for entry in record.entries] == names
    assert {len(entry.windows) for entry in record.entries} == {record.rounds} == {1}
    assert f"stopped before its end:** {says}" in (folder / "bench.md").read_text()
    assert (folder / "bench.png").exists()
    with pytest.raises(DataError, match=f"unfinished: {says}"):  # so no claim is judged by it
        gather([folder])


def test_a_bench_that_is_stopped_before_anything_is_warm_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "ceilings", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    done = invoke("bench", "dit-tiny", *SMALL, cwd=tmp_path)
    assert done.exit_code == 75
    assert "the bench was stopped: nothing was measured. The same command starts over." in " ".join(done.stderr.split())
    assert not (tmp_path / "reports").exists()


@pytest.mark.slow
def test_an_estimate_says_what_a_step_takes_and_measures_nothing(tmp_path):
    done = invoke(
        "bench", "--estimate", "dit-s", "sddit-s", "--pipeline", "cached,online-vae", "--nproc", "8", cwd=tmp_path
    )
    assert done.exit_code == 0, done.stderr
    assert "1.66 times dit-s's" in done.stdout or "1.67 times dit-s's" in done.stdout
    assert "136.4 of the VAE" in done.stdout
    assert "8 x A100 80GB SXM" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert not (tmp_path / "reports").exists()
