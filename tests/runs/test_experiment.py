"""A whole run in this process: what its folder holds, and what the same command does to it again."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from small import small_config
from tiny_run import EVALUATED, run

from harness.data import names, sources
from harness.data.dataset import InMemory
from harness.planning.plan import plan, resolve
from harness.records import machine
from harness.records.schema import Result, read_record
from harness.system.errors import DataError, UsageError


def test_a_result_holds_what_the_plan_announced_and_the_manifest_no_host_user_or_folder(tmp_path):
    result, folder, _ = run(tmp_path)
    planned = plan(small_config("dit"), 1)
    announced = planned.keys() & Result.model_fields.keys()
    assert announced >= {"recipe", "run_id", "method", "seed", "steps", "params", "gmacs_forward", "gmacs_step"}
    for key in announced - {"complete", "device"}:
        assert planned[key] == getattr(result, key), key
    assert read_record(folder / "result.json", Result) == result
    manifest = (folder / "manifest.json").read_text()
    assert not [private for private in (os.uname().nodename, str(tmp_path), str(Path.home())) if private in manifest]


def test_a_finished_run_is_not_repeated_unless_forced(tmp_path):
    first, folder, _ = run(tmp_path)
    marker = folder / "marker"
    marker.touch()
    again, _, notes = run(tmp_path)
    assert again == first
    assert "is finished; nothing to do" in notes[0]
    assert marker.exists()
    forced, _, notes = run(tmp_path, force=True)
    assert "training" in notes
    assert forced.run_id == first.run_id
    assert not marker.exists()


def test_a_run_without_evaluation_is_evaluated_later_without_training_again(tmp_path):
    run(tmp_path, *EVALUATED)
    result, folder, _ = run(tmp_path, *EVALUATED, with_evaluation=True)
    assert set(result.evaluations) == {"untrained", "final"}
    assert (folder / "events.jsonl").read_text().count('"event": "checkpoint"') == 2
    assert (folder / "samples" / "grid.png").stat().st_size > 0


MILESTONES = ("checkpoint_every=2", "keep_every=2", "evaluate_every=2", "steps=6")


def test_milestones_are_evaluated_after_training_and_do_not_change_the_run(tmp_path):
    plain, _, _ = run(tmp_path / "plain", *EVALUATED, "steps=6", with_evaluation=True)
    result, folder, _ = run(tmp_path / "curve", *EVALUATED, *MILESTONES, with_evaluation=True)
    assert result.run_id == plain.run_id
    assert {e.step for e in result.evaluations.values()} == {0, 2, 4, 6}
    assert result.evaluations["final"].metrics == plain.evaluations["final"].metrics
    distances = [e.metrics["fd-digits@1k"] for e in result.evaluations.values() if "fd-digits@1k" in e.metrics]
    assert len(set(distances)) == len(distances)
    assert {path.stem for path in (folder / "evaluations").glob("*.json")} == set(result.evaluations)


@pytest.mark.parametrize("gone", [False, True])
def test_milestones_asked_for_later_are_evaluated_where_their_checkpoints_are_left(gone, tmp_path):
    _, folder, _ = run(tmp_path, *EVALUATED, "checkpoint_every=2", "keep_every=2", "steps=6", with_evaluation=True)
    if gone:
        shutil.rmtree(folder / "checkpoints" / "step-000000002")
    result, _, notes = run(tmp_path, *EVALUATED, *MILESTONES, with_evaluation=True)
    assert {e.step for e in result.evaluations.values()} == ({0, 4, 6} if gone else {0, 2, 4, 6})
    assert any("no whole checkpoint of step 2" in note for note in notes) == gone
    assert (folder / "events.jsonl").read_text().count('"event": "checkpoint"') == 3
    again, _, notes = run(tmp_path, *EVALUATED, *MILESTONES, with_evaluation=True)
    assert again == result
    assert "is finished; nothing to do" in notes[0]


def test_a_damaged_result_is_made_again_from_the_checkpoint(tmp_path):
    first, folder, _ = run(tmp_path, *EVALUATED, with_evaluation=True)
    (folder / "result.json").write_text('{"schema_version": 1, "reci')
    second, _, _ = run(tmp_path, *EVALUATED, with_evaluation=True)
    assert second.evaluations == first.evaluations
    assert second.peak_memory_bytes == first.peak_memory_bytes


def test_the_measurement_belongs_to_the_process_that_trained(tmp_path):
    """Ten timed steps here, then an evaluation in what could be another process: speed and memory stay."""
    first, folder, _ = run(tmp_path, *EVALUATED, "steps=20")
    (folder / "result.json").unlink()
    second, _, _ = run(tmp_path, *EVALUATED, "steps=20", with_evaluation=True)
    assert first.timed_steps == 10
    for name in ("steps_per_sec", "steps_per_sec_sd", "timed_steps", "peak_memory_bytes"):
        assert getattr(first, name) == getattr(second, name), name


@pytest.mark.parametrize(
    ("part", "change", "says"),
    [
        ("device", {"threads": 64}, r"with 64 threads in 1 process.*; this is .* with 1 threads"),
        ("data", {"sha256": "0" * 64}, "was begun on other data of the name digits"),
        ("precision", {"precision": "bf16"}, "was begun with precision bf16"),
    ],
)
def test_a_run_begun_on_other_hardware_data_or_precision_is_not_continued_here(part, change, says, tmp_path):
    _, folder, _ = run(tmp_path)
    (folder / "result.json").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]
    manifest[part] |= change
    (folder / "manifest.json").write_text(json.dumps(manifest))
    weights = {path: path.read_bytes() for path in folder.glob("checkpoints/*/*")}
    with pytest.raises(DataError, match=says):
        run(tmp_path)
    assert {path: path.read_bytes() for path in folder.glob("checkpoints/*/*")} == weights


def test_synthetic_data_is_trained_on_but_never_evaluated(tmp_path):
    result, _, notes = run(tmp_path, "data=synthetic", "steps=1", with_evaluation=True)
    assert result.evaluations == {}
    assert any("for speed only" in note for note in notes)
    _, _, notes = run(tmp_path, "data=synthetic", "steps=1", with_evaluation=True)
    assert "is finished; nothing to do" in notes[0]


def test_a_disk_without_room_for_the_checkpoints_is_told_before_a_step(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(DataError, match="the run needs about"):
        run(tmp_path)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_batch_that_would_not_fit_is_taken_in_pieces_and_a_continued_run_keeps_its_own(tmp_path, monkeypatch):
    whole, folder, _ = run(tmp_path / "whole")
    (folder / "result.json").unlink()
    monkeypatch.setattr(machine, "available_memory", lambda device: 900_000)
    pieces, cut, notes = run(tmp_path / "pieces")
    assert any("it is taken in" in note for note in notes)
    assert pieces.run_id == whole.run_id
    _, _, notes = run(tmp_path / "whole")
    assert not any("it is taken in" in note for note in notes)
    taken = [yaml.safe_load((each / "config.yaml").read_text())["execution"]["micro_batch"] for each in (cut, folder)]
    assert taken[0] in (1, 2, 4)
    assert taken[1] is None


def test_settings_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(UsageError, match="this machine has none"):
        run(tmp_path, "residency=gpu")
    with pytest.raises(UsageError, match="keep_every"):
        resolve("dit-tiny", ["evaluate_every=300"])


def test_force_removes_nothing_before_the_new_run_can_begin(tmp_path, monkeypatch):
    _, folder, _ = run(tmp_path)

    def damaged(self, advance):
        raise DataError("a shard was damaged.")

    monkeypatch.setattr(InMemory, "check", damaged)
    with pytest.raises(DataError, match="a shard was damaged"):
        run(tmp_path, force=True)
    assert (folder / "result.json").exists()


def test_what_cannot_be_evaluated_is_told_before_training(tmp_path, digits, monkeypatch):
    cut = InMemory("cut", digits.clean[..., :4, :4], digits.labels, 10)
    monkeypatch.setitem(sources._MADE, "cut", lambda: cut)
    monkeypatch.setattr(names, "ALL", (*names.ALL, "cut"))
    with pytest.raises(DataError, match=r"takes images of shape \(8, 8, 1\); these are \(4, 4, 1\).*--no-eval"):
        run(tmp_path, "data=cut", "input={channels: 1, side: 4, num_classes: 10}", with_evaluation=True)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_checkpoint_of_another_configuration_stops_the_run_before_anything_is_written(tmp_path):
    _, folder, _ = run(tmp_path)
    _, other, _ = run(tmp_path, "seed=1")
    (other / "result.json").unlink()
    for path in sorted((folder / "checkpoints").iterdir()):
        shutil.rmtree(other / "checkpoints" / path.name)
        path.rename(other / "checkpoints" / path.name)
    before = (other / "config.yaml").stat().st_mtime_ns
    with pytest.raises(DataError, match="belongs to another configuration"):
        run(tmp_path, "seed=1")
    assert (other / "config.yaml").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_run_that_could_not_be_compiled_says_so_in_its_result_and_its_log(tmp_path, monkeypatch):
    from torch._inductor import config

    torch._dynamo.reset()
    monkeypatch.setattr("harness.model.compiling.WORTH_COMPILING", 0)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    with config.patch({"cpp.cxx": ("no-such-compiler",)}):
        result, folder, notes = run(tmp_path, "compile=auto")
    torch._dynamo.reset()
    assert result.compiled is False
    assert "no-such-compiler" in result.notes[0]
    assert any("is not compiled" in note for note in notes)
    assert "is not compiled" in (folder / "events.jsonl").read_text()
    plain, _, _ = run(tmp_path, force=True)
    assert (plain.compiled, plain.notes, plain.attention) == (False, [], "flash")


def test_an_older_config_is_carried_out_with_the_recipes_values_of_newer_settings_and_says_so(tmp_path):
    cfg, said = small_config("sddit"), []
    document = cfg.model_dump(mode="json")
    del document["sampling"]["guidance_interval"], document["evaluation"]["reference"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(document))
    again = resolve(tmp_path / "config.yaml", [], said.append)
    assert again == cfg
    assert len(said) == 1
    assert all(part in said[0] for part in ("guidance_interval null", "evaluation.reference data", cfg.run_id))
    (tmp_path / "config.yaml").write_text(cfg.to_yaml())
    assert resolve(tmp_path / "config.yaml", [], said.append) == cfg
    assert len(said) == 1


def test_the_committed_runs_can_be_carried_out_from_their_configurations():
    configs = sorted((Path(__file__).parents[2] / "reports" / "demo" / "runs").glob("*/*/config.yaml"))
    assert len(configs) >= 4
    for path in configs:
        assert resolve(path, []).recipe == path.parent.parent.name
