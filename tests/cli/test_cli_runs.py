"""`harness runs` as a user meets it: what it says of folders in every state."""

import json
import os
import re
from functools import partial
from pathlib import Path

import command_line
import pytest
from run_folders import unfinished, write_run

DEEP = "[" * 1200
DOCUMENTS = ("config.yaml", "manifest.json", "metrics.jsonl", "events.jsonl", "result.json")


ask = partial(command_line.invoke, "runs")
answer = partial(command_line.answer, "runs")
refused = partial(command_line.refused, "runs")


def listed(*roots: Path) -> dict[str, dict]:
    return {run["run"]: run for run in json.loads(answer("list", *roots, "--json"))["runs"]}


# list ---------------------------------------------------------------------------------------------------------------


def test_list_has_a_line_for_every_run_under_its_configuration_in_80_columns(runs):
    lines = answer("list", runs).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["run", "seed", "steps", "steps/s", "fd-digits@1k", "age", "state"]
    dit, maskdit, sweep = (
        next(i for i, line in enumerate(lines) if line.startswith(name))
        for name in ("dit-tiny: DiT", "maskdit-tiny: MaskDiT", "sweep/sddit-tiny: SD-DiT, mask_ratio 0.5")
    )
    assert lines[dit + 1].split()[1:5] == ["0", "600", "10", "5.125"]
    assert lines[dit + 2].split()[1:5] == ["1", "600", "10", "-"]
    assert lines[maskdit + 1].split()[1:5] == ["0", "40/600", "5", "-"]
    assert lines[maskdit + 1].split()[-1] == "unfinished"
    row = next(line for line in lines[sweep:] if line.startswith("  seed0-"))
    assert row.split()[1:5] == ["0", "600", "10", "11.9"]
    text = " ".join(" ".join(lines).split())
    assert "Damaged mdt-tiny/seed0-" in text
    assert "manifest.json cannot be read" in text
    assert "notes: holds no run" in text
    assert "other: no result.json and no configuration of a run" in text
    assert text.endswith("5 runs: 3 finished, 1 unfinished, 1 damaged; 2 not a run.")


def test_list_as_json_says_the_same_of_each(runs):
    found = listed(runs)
    assert {run["state"] for run in found.values()} == {"finished", "unfinished", "damaged", "foreign"}
    (dit,) = (run for name, run in found.items() if name.startswith("dit-tiny/seed0"))
    assert (dit["metric"], dit["distance"], dit["steps_done"], dit["steps_asked"]) == ("fd-digits@1k", 5.125, 600, 600)
    assert (dit["recipe"], dit["method"], dit["seed"], dit["steps_per_sec"]) == ("dit-tiny", "DiT", 0, 10.0)
    (stopped,) = (run for run in found.values() if run["state"] == "unfinished")
    assert (stopped["steps_done"], stopped["steps_asked"], stopped["steps_per_sec"]) == (40, 600, 5.0)
    assert list(found) == sorted(found, key=lambda name: (name.rpartition("/")[0], found[name]["seed"] or 0, name))


def test_distances_of_different_metrics_stand_under_their_own_names(tmp_path):
    write_run(tmp_path, "dit", distance=5.0)
    write_run(tmp_path, "dit", size="s", distance=68.4)
    text = answer("list", tmp_path)
    paper, demo = text.split("\n\n")[:2]
    assert ("fd-digits@1k" in demo, "dit-tiny: DiT" in demo, "68.4" in demo) == (True, True, False)
    assert ("fid50k" in paper, "dit-s: DiT" in paper, "68.4" in paper) == (True, True, True)
    assert "400k" in paper


def test_a_folder_reached_by_two_roots_is_listed_once_and_a_link_is_not_followed(runs):
    names = [run["run"] for run in json.loads(answer("list", runs, runs / "dit-tiny", "--json"))["runs"]]
    assert sum("dit-tiny/seed0" in name and "dd" not in name and "mask" not in name for name in names) == 1
    target = next((runs / "dit-tiny").glob("seed0-*"))
    (runs / "a-link").symlink_to(target)
    (runs / "lost").symlink_to(runs / "gone")
    found = listed(runs)
    assert (found["a-link"]["state"], found["a-link"]["reason"]) == ("foreign", "a link, which is not followed")
    assert found["lost"]["reason"] == "a link that leads nowhere"
    assert found[f"dit-tiny/{target.name}"]["state"] == "finished"


@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe" * 50, b"[1]", DEEP.encode()])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_junk_in_a_document_is_a_state_and_never_a_traceback(name, content, tmp_path):
    folder = write_run(tmp_path, "sddit")
    (folder / "events.jsonl").write_text('{"time": "2026-01-01T00:00:00+00:00", "event": "start", "step": 0}\n')
    (folder / name).write_bytes(content)
    (run,) = listed(tmp_path).values()
    assert run["state"] == ("finished" if name in ("metrics.jsonl", "events.jsonl") else "damaged")
    assert bool(run["reason"]) == (run["state"] == "damaged")
    for command in ("list", "show"):
        done = ask(command, tmp_path if command == "list" else folder)
        assert done.exit_code == 0, done.output
        assert not command_line.too_wide(done.stdout)


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling link", "absent"])
def test_a_document_that_is_no_file_is_a_state_and_never_waited_for(name, kind, tmp_path):
    folder = write_run(tmp_path, "sddit")
    path = folder / name
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "dangling link":
        path.symlink_to(folder / "nowhere")
    (run,) = listed(tmp_path).values()
    optional = name in ("metrics.jsonl", "events.jsonl")
    absent = "finished" if optional else "unfinished" if name == "result.json" else "damaged"
    assert run["state"] == (absent if kind == "absent" else "damaged")
    assert ask("show", folder).exit_code == 0


def test_what_may_not_be_read_is_told(runs, monkeypatch):
    real = os.scandir

    def refusing(path="."):
        if Path(path).name == "dit-tiny":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found = listed(runs)
    assert (found["dit-tiny"]["state"], found["dit-tiny"]["reason"]) == ("foreign", "cannot be read: Permission denied")
    monkeypatch.undo()

    def closed(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", closed)
    monkeypatch.setattr("builtins.open", closed)
    assert {run["state"] for run in listed(runs).values()} == {"damaged", "foreign"}


def test_a_hostile_name_cannot_write_to_the_terminal(tmp_path):
    (tmp_path / "a\x1b[31m\nb" / "empty").mkdir(parents=True)
    write_run(tmp_path / "r\x1b]0;owned\x07", "dit")
    text = answer("list", tmp_path)
    assert not {letter for letter in text if not letter.isprintable()} - {"\n"}
    assert "a?[31m?b" in text


def test_the_age_is_that_of_the_last_event_not_of_a_copy(tmp_path):
    folder = write_run(tmp_path, "dit")
    (folder / "events.jsonl").write_text(
        '{"time": "2001-01-01T00:00:00+00:00", "event": "start", "step": 0}\n'
        '{"time": "2001-01-02T00:00:00+00:00", "event": "checkpoint", "step": 600}\n'
        '{"time": "not a time", "event": "note", "text": "x"}\n'
    )
    (run,) = listed(tmp_path).values()
    assert run["last_active"] == "2001-01-02T00:00:00+00:00"
    assert answer("list", tmp_path).splitlines()[2].split()[-2].endswith("w")


def test_an_imported_checkpoint_is_a_run_of_its_own_state(tmp_path):
    trained = write_run(tmp_path, "dit", finished=False)
    imported = trained.with_name("imported-0123456789-abcdef")
    trained.rename(imported)
    for name in ("manifest.json", "metrics.jsonl"):
        (imported / name).unlink()
    record = {"schema_version": 1, "harness_version": "0", "file_name": "DiT.pt", "file_sha256": "0", "method": "dit"}
    record |= {"config_sha256": "0", "vae": None, "imported_at": "2026-01-01T00:00:00+00:00"}
    (imported / "import.json").write_text(json.dumps(record))
    (run,) = listed(tmp_path).values()
    assert (run["state"], run["steps_done"]) == ("imported", None)
    assert "imported" in answer("show", imported)


def test_an_empty_folder_has_no_run_and_a_missing_one_is_an_error(tmp_path):
    assert answer("list", tmp_path).startswith("no run in")
    refused("list", tmp_path / "gone", exit_code=4, says="gone does not exist")


# show ---------------------------------------------------------------------------------------------------------------


def test_show_says_what_differs_from_the_recipe_and_where_each_value_comes_from(tmp_path):
    folder = write_run(tmp_path, "sddit", knobs={"mask_ratio": 0.5}, milestones={300: 14.0}, guided={1.5: 8.0})
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["command"] = "harness run sddit-tiny --set mask_ratio=0.5"
    del manifest["sha256"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    document = json.loads(answer("show", folder, "--json"))
    differing = {d["setting"]: d for d in document["config"]["differing"]}
    assert differing["knobs.mask_ratio"] == {
        "setting": "knobs.mask_ratio",
        "value": 0.5,
        "recipe": 0.2,
        "source": "its command: --set mask_ratio=0.5",
    }
    assert "protocol.ema_warmup" not in differing
    assert [(e["name"], e["step"]) for e in document["evaluations"]] == [
        ("untrained", 0), ("step-000300", 300), ("cfg1.5", 600), ("final", 600),
    ]  # fmt: skip
    assert document["manifest"]["git_commit"] == "c" * 40
    assert document["memory"] == {"peak_bytes": 900_000_000, "kind": "process RSS"}
    sizes = {f["name"]: f["bytes"] for f in document["files"]}
    assert sizes["result.json"] == (folder / "result.json").stat().st_size

    text = answer("show", folder)
    assert not command_line.too_wide(text)
    text = command_line.flowing(text)
    for said in (
        "SD-DiT, finished after 600 steps",
        "knobs.mask_ratio 0.5 0.2 its command: --set mask_ratio=0.5",
        "command harness run sddit-tiny --set mask_ratio=0.5",
        "memory peak bytes 900.0 MB, kind process RSS",
        "cfg1.5: step 600, ema weights, 1 s fd-digits@1k 8 under: ",
        "guidance_scale 1.5",
        "final: step 600, ema weights, 1 s fd-digits@1k 5 ",
        "under: as untrained",
    ):
        assert said in text


def test_show_tells_starts_resumptions_and_checkpoints(tmp_path):
    folder = unfinished(tmp_path)
    events = [("start", 0), ("checkpoint", 20), ("checkpoint", 40), ("preemption", 45), ("resume", 40)]
    (folder / "events.jsonl").write_text(
        "".join(
            json.dumps({"time": f"2026-01-01T00:00:0{i}+00:00", "event": event, "step": step}) + "\n"
            for i, (event, step) in enumerate(events)
        )
        + '{"torn'
    )
    document = json.loads(answer("show", folder, "--json"))
    assert [(e["event"], e["step"]) for e in document["events"]] == events
    text = answer("show", folder)
    assert "MaskDiT, unfinished at step 40 of 600" in text
    assert "00:00:02+00:00  checkpoint: 2, steps 20 to 40" in text
    assert "00:00:04+00:00  resume, step 40" in text
    assert "events.jsonl has 1 damaged line(s)" in text


def test_show_as_json_stays_json_where_a_number_is_not_finite(tmp_path):
    folder = write_run(tmp_path, "dit")
    document = json.loads((folder / "result.json").read_text().replace('"fd-digits@1k": 5.0', '"fd-digits@1k": NaN'))
    del document["sha256"]
    (folder / "result.json").write_text(json.dumps(document))

    def refuse(constant):
        raise ValueError(constant)

    document = json.loads(answer("show", folder, "--json"), parse_constant=refuse)
    assert document["distance"] is None
    assert {e["name"]: e["metrics"]["fd-digits@1k"] for e in document["evaluations"]}["final"] == "nan"
    json.loads(answer("list", tmp_path, "--json"), parse_constant=refuse)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("dit-tiny/seed0", "dit-tiny/seed0-"),  # maskdit-tiny, which holds this name, is not meant
        ("maskdit", "maskdit-tiny/seed0-"),
        ("sweep/sddit-tiny", "sweep/sddit-tiny/seed0-"),
        ("sddit-tiny", "sweep/sddit-tiny/seed0-"),
        ("askdi", "maskdit-tiny/seed0-"),
    ],
)
def test_a_part_of_a_name_that_no_other_run_has_is_enough(said, meant, runs):
    found = json.loads(answer("show", said, "--runs", runs, "--json"))
    assert found["run"].startswith(meant)
    name = found["run"]
    for whole in (name, name.rpartition("/")[2], found["path"], f"{found['path']}/"):
        assert json.loads(answer("show", whole, "--runs", runs, "--json"))["run"] == name or "dit-tiny" not in name


def test_export_takes_every_run_that_the_parts_of_names_fit(runs, tmp_path):
    two, three = (
        json.loads(answer("export", *said, "--to", "csv", "--runs", runs, "--out", tmp_path / "curves", "--json"))
        for said in (["dit-tiny"], ["dit-tiny/seed0", "dit-tiny", "maskdit"])
    )
    seeds = sorted(path.name for path in (runs / "dit-tiny").iterdir())
    assert sorted(run["run"].rpartition("/")[2] for run in two["runs"]) == seeds
    assert len(three["runs"]) + len(three["left_out"]) == 3
    unknown = ["sdit-tiny", "--to", "csv", "--runs", runs, "--out", tmp_path / "curves"]
    refused("export", *unknown, exit_code=2, says="Did you mean")


def test_an_ambiguous_name_lists_the_runs_and_an_unknown_one_the_nearest(runs):
    seeds = sorted(path.name for path in (runs / "dit-tiny").iterdir())
    several = f"'dit-tiny' may be dit-tiny/{seeds[0]} or dit-tiny/{seeds[1]}."
    for said, says in (("dit-tiny", several), ("sdit-tiny", "Did you mean sweep/sddit-tiny/seed0-"), ("", "no run")):
        refused("show", said, "--runs", runs, exit_code=2, says=says)


def test_a_folder_that_is_no_run_cannot_be_shown(runs):
    for path, says in ((runs, "lie below it: name one"), (runs / "notes", "not a run"), (runs / "other", "not a run")):
        refused("show", path, "--runs", runs, exit_code=4, says=says)


# export -------------------------------------------------------------------------------------------------------------


def test_an_export_of_an_unfinished_run_says_that_it_is_unfinished_and_how_far_it_came(runs, tmp_path):
    said = answer("export", runs, "--to", "csv", "--out", tmp_path / "csv").splitlines()
    states = [line for line in said if re.match("(unfinished|damaged|finished): ", line)]
    assert [re.sub(r"/seed0-\w+|\d+ of", "", line) for line in states] == [
        "unfinished: maskdit-tiny: so far to step  600",
        "damaged: mdt-tiny: what can be read of it, to step  600",
    ]
    document = json.loads(answer("export", runs, "--to", "csv", "--out", tmp_path / "csv", "--json"))
    assert {run["run"].split("/")[-2]: run["state"] for run in document["runs"]} == {
        "dit-tiny": "finished", "sddit-tiny": "finished", "maskdit-tiny": "unfinished", "mdt-tiny": "damaged",
    }  # fmt: skip
