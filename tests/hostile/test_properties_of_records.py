"""Run folders that somebody else wrote: read as they are, left out with a reason, and never more than that."""

import json
import os
from functools import cache
from pathlib import Path

import pytest
import yaml
from bench_records import bench as bench_record
from bench_records import contender
from examples import ours, tries
from hostile_values import TEXTS, as_json, mutated, torn
from hypothesis import given
from hypothesis import strategies as st
from run_folders import write_run

from harness.evaluation.images.image_sets import open_images
from harness.papers import published
from harness.recipes.config import read_config
from harness.recipes.naming import identity
from harness.records import trials
from harness.records.bench_record import Bench
from harness.records.folders import inspection, listing
from harness.records.schema import Evaluation, Manifest, Record, Result, read_lines, read_record
from harness.records.store import find_runs
from harness.reporting.report import earlier_claims
from harness.system.errors import HarnessError

RECORDS = {"manifest.json": Manifest, "result.json": Result, "evaluations/final.json": Evaluation}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run folder that examples write into."""
    run = write_run(tmp_path_factory.mktemp("hostile-runs"), "sddit", milestones={300: 7.0}, guided={1.5: 4.0})
    (run / "evaluations").mkdir()
    (run / "events.jsonl").write_text('{"time": "2026-01-01T00:00:00+00:00", "event": "start"}\n', encoding="utf-8")
    return run


@pytest.fixture(scope="module")
def original(folder) -> dict:
    """The run's documents, without the hash of themselves: then nothing but their content is judged."""
    found = {name: json.loads((folder / name).read_text()) for name in ("manifest.json", "result.json")}
    found["evaluations/final.json"] = found["result.json"]["evaluations"]["final"]
    found["config.yaml"] = yaml.safe_load((folder / "config.yaml").read_text())
    found["metrics.jsonl"] = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found["events.jsonl"] = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    for document in found.values():
        if isinstance(document, dict):
            document.pop("sha256", None)
    return found


def write(folder: Path, name: str, document: object) -> None:
    if name.endswith(".jsonl"):
        lines = document if isinstance(document, list) else [document]
        (folder / name).write_bytes(b"\n".join(map(as_json, lines)) + b"\n")
    else:
        (folder / name).write_bytes(as_json(document))  # YAML holds JSON


@tries("a run's record with parts replaced, removed or added", short=40, long=4_000)
@given(st.data())
def test_a_record_of_changed_parts_is_read_as_it_is_or_refused(folder, original, data):
    name = data.draw(st.sampled_from(sorted(RECORDS)))
    write(folder, name, data.draw(mutated(original[name])))
    found = ours(lambda: read_record(folder / name, RECORDS[name]))
    assert isinstance(found, HarnessError | Record)
    write(folder, name, original[name])


@tries("a whole run folder with parts replaced, removed or added", short=30, long=1_000)
@given(st.data())
def test_a_run_folder_of_changed_parts_is_used_or_left_out_and_can_always_be_listed(folder, original, data):
    names = data.draw(st.sets(st.sampled_from(sorted(original)), min_size=1, max_size=2))
    changed = {name: data.draw(mutated(original[name], most=2)) for name in sorted(names)}
    if isinstance(changed.get("config.yaml"), dict) and data.draw(st.booleans()):  # consistent, so that it is used
        try:
            sha256 = identity(changed["config.yaml"])
        except (TypeError, ValueError):
            sha256 = "0" * 64
        changed["manifest.json"] = {**original["manifest.json"], "config_sha256": sha256}
        seed = changed["config.yaml"].get("seed")
        changed["result.json"] = {**original["result.json"], "seed": seed, "run_id": f"seed{seed}-{sha256[:10]}"}
    for name, document in changed.items():
        write(folder, name, document)
    try:
        read_whole(folder)
    finally:
        for name in changed:
            write(folder, name, original[name])


def read_whole(folder: Path) -> None:
    """All that figures, tables and listings take of a run."""
    runs, left_out = find_runs([folder])
    groups, without = trials.settings(runs)
    for setting in groups:
        for trial in setting.trials:
            assert trial.machine
            assert trial.variant
            assert isinstance(trial.curve, dict)
            assert isinstance(trial.guided, dict)
    for item in (*left_out, *without):
        assert item.reason
        assert "\n" not in item.reason
    (entry,) = listing.survey([folder])
    json.dumps(entry.as_json())
    ours(lambda: json.dumps(inspection.describe(folder), allow_nan=False))


@tries("a run's record with bytes changed, cut off or put in", short=40, long=5_000)
@given(st.data())
def test_a_record_of_any_bytes_is_read_or_refused(folder, original, data):
    path = folder / "torn.json"
    path.write_bytes(data.draw(torn(as_json(original["result.json"])) | st.binary(max_size=80)))
    ours(lambda: read_record(path, Result))
    objects, damaged = read_lines(path)
    assert all(isinstance(each, dict) for each in objects)
    assert damaged >= 0
    path.unlink()


@cache
def bench() -> dict:
    return bench_record(entries=(contender(),)).model_dump(mode="json")


@tries("bench.json with parts replaced, removed or added", short=30, long=3_000)
@given(st.data())
def test_a_bench_of_changed_parts_is_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "hostile-bench.json"
    path.write_bytes(as_json(data.draw(mutated(bench()))))
    assert isinstance(ours(lambda: read_record(path, Bench)), HarnessError | Bench)


@tries("claims.json with parts replaced, removed or added", short=40, long=4_000)
@given(st.data())
def test_earlier_verdicts_of_changed_parts_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "hostile-claims.json"
    claims = [{"claim": "fid-order", "verdict": "reproduced", "scale": "demo", "setting": "digits", "n": 3}]
    path.write_bytes(as_json(data.draw(mutated(claims))))
    found = ours(lambda: earlier_claims(path))
    assert isinstance(found, HarnessError) or all("claim" in each for each in found)


def a_large_file(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(2**40)  # takes no room


NOT_PLAIN = "it is not a file|Is a directory|more than the"


@pytest.mark.parametrize("place", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero"), a_large_file],
                         ids=["pipe", "folder", "device", "large file"])  # fmt: skip
@pytest.mark.parametrize(
    ("read", "says"),
    [
        (lambda path: read_record(path, Result), NOT_PLAIN),
        (read_config, NOT_PLAIN),
        (open_images, r"no images at|no PNG images|or no \.npz"),
    ],
    ids=["record", "configuration", "images"],
)
def test_what_is_no_plain_file_or_too_large_is_refused_before_it_is_read(read, says, place, tmp_path):
    place(tmp_path / "x.npz")
    with pytest.raises(HarnessError, match=says):
        read(tmp_path / "x.npz")


def test_depth_whole_numbers_and_halves_of_letters_that_no_record_holds_are_refused(tmp_path):
    for text in ("[" * 60 + "]" * 60, "9" * 30, '"\\ud800"', "[" * 100_000):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(HarnessError, match="cannot be read"):
            read_record(tmp_path / "x.json", Result)


COLUMNS = ["figure_or_table", "method", "model", "series", "metric", "value", "x", "x_unit", "quality", "batch_size"]
CELLS = ["1", "68.40", "table", "missing", "k_steps", "epochs", "FID-50K", "SD-DiT Tab.1", "not stated", "1e999", "inf"]
cells = st.sampled_from(TEXTS) | st.sampled_from(CELLS)


@tries("published numbers with cells replaced", short=10, long=500)
@given(st.dictionaries(st.sampled_from(COLUMNS), cells, max_size=4))
def test_published_numbers_of_changed_cells_are_rows_or_refused(changed):
    with pytest.MonkeyPatch.context() as patch:
        read = published.read
        typical = read(published.tables()[0])[0]
        patch.setattr(published, "tables", lambda: [None])
        patch.setattr(published, "read", lambda file: [{**typical, **changed}] if file is None else read(file))
        found = ours(published._rows.__wrapped__)
        assert isinstance(found, HarnessError) or len(found) == 1
