"""Names from files lead nowhere else: not out of the runs, not through a link, not into the terminal."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import seed_corpus
from hostile_values import TEXTS
from run_folders import write_run
from small import small_config
from typer.testing import CliRunner

from harness.cli import app
from harness.recipes.config import RunConfig, validate
from harness.records.folders import removal
from harness.records.store import load_run
from harness.reporting import archive
from harness.system.errors import DataError, UsageError

ESCAPE = "\x1b]0;owned\x07\x1b[2J"
WRITTEN = "\\x1b]0;owned\\x07\\x1b[2J"  # as YAML may write it


def ask(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    return done.exit_code, done.output


@pytest.mark.parametrize("name", [*TEXTS, "../" * 40 + "tmp/x", "a/../../b", ".hidden", "-rf", "a\nb", "a" * 101])
@pytest.mark.parametrize("field", ["recipe", "method", "size"])
def test_a_name_that_could_lead_out_of_the_runs_is_refused(name, field):
    cfg = small_config("dit")
    document = {**cfg.model_dump(mode="json"), field: name}
    try:
        found = validate(document, type(cfg.knobs))
    except UsageError as error:
        said = str(error)
    else:
        said = f"{field} is "
        assert isinstance(found, RunConfig)
        assert (Path("/runs") / found.recipe / found.run_id).resolve().parent.parent == Path("/runs")
    assert f"{field} is " in said


def test_a_configuration_of_a_recipe_elsewhere_writes_nothing(tmp_path):
    text = small_config("dit").to_yaml().replace("recipe: dit-tiny", f"recipe: {tmp_path}/elsewhere")
    (tmp_path / "config.yaml").write_text(text)
    code, said = ask("run", "--config", tmp_path / "config.yaml", "--out", tmp_path / "runs")
    assert code == 2, said
    assert "recipe is" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml"]


# Links -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path) -> Path:
    """What no command may touch or show."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "samples.npz").write_bytes(b"mine")
    (folder / "secret.json").write_text("secret")
    return folder


@pytest.mark.parametrize("name", ["samples", "samples/more", "checkpoints", "evaluations", "features"])
@pytest.mark.parametrize("keep_records", [True, False])
def test_removing_a_run_never_follows_a_link_out_of_it(tmp_path, outside, name, keep_records):
    run = write_run(tmp_path / "runs", "dit")
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).symlink_to(outside)
    own = run / ("x" if name == "samples" else "samples") / "samples.npz"
    own.parent.mkdir(exist_ok=True)
    own.write_bytes(b"its own")
    removal.remove(removal.plan(run, tmp_path / "runs", keep_records=keep_records, force=True), tmp_path / "runs")
    assert sorted(path.name for path in outside.iterdir()) == ["samples.npz", "secret.json"]
    assert name == "samples" or not own.exists()


@pytest.mark.parametrize("name", ["evaluations/x.json", "events.jsonl", "samples/grid.png", "evaluations", "samples"])
def test_records_are_never_copied_through_a_link(tmp_path, outside, name):
    run = write_run(tmp_path / "runs", "dit")
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).symlink_to(outside if "." not in name else outside / "secret.json")
    with pytest.raises(DataError, match="is a link"):
        archive.copy_records(run, tmp_path / "archive")
    copied = [path for path in (tmp_path / "archive").rglob("*") if path.is_file()]
    assert not any(b"secret" in path.read_bytes() for path in copied)


@pytest.mark.parametrize("named", [".", "../{name}", "../../{recipe}/{name}"])
def test_records_of_a_run_named_by_a_relative_path_replace_no_other_folder(tmp_path, monkeypatch, named):
    """ "." and ".." have no name: the archive itself was taken for the run's own folder in it, and emptied."""
    run = write_run(tmp_path / "runs", "dit")
    other = tmp_path / "archive" / "kept.txt"
    other.parent.mkdir()
    other.write_text("kept")
    monkeypatch.chdir(run)
    relative = Path(named.format(name=run.name, recipe=run.parent.name))
    kept = archive.copy_records(load_run(relative).path, tmp_path / "archive")
    assert other.read_text() == "kept"
    assert kept == tmp_path / "archive" / run.parent.name / run.name
    assert (kept / "result.json").is_file()


def test_a_zip_of_another_project_is_never_unpacked(tmp_path):
    values = seed_corpus.npy(np.ones((8, 2, 2), np.float32))
    with zipfile.ZipFile(tmp_path / "repa.zip", "w") as file:
        file.writestr("../../escaped/img-mean-std-00000000.npy", values)
        file.writestr("dataset.json", '{"labels": null}')
    before = sorted(tmp_path.rglob("*"))
    code, said = ask("data", "import", tmp_path / "repa.zip", "--from", "repa-zip", "--out", tmp_path / "out", "--vae",
                     "stabilityai/sd-vae-ft-ema")  # fmt: skip
    assert code == 4, said
    assert sorted(tmp_path.rglob("*")) == before


# The terminal ------------------------------------------------------------------------------------------------------


def test_no_escape_sequence_of_a_file_reaches_the_terminal(tmp_path):
    runs = tmp_path / "runs"
    run = write_run(runs, "dit")
    (run / "config.yaml").write_text(f'method: dit\n"{WRITTEN}": 1\n', encoding="utf-8")
    named = runs / f"dit-tiny{ESCAPE}"
    os.rename(run.parent, named)
    samples = tmp_path / f"x{ESCAPE}.npz"
    samples.write_bytes(b"PK")
    strange = tmp_path / "strange.npz"
    strange.write_bytes(seed_corpus.npz({f"a{'b' * 3}": np.zeros(2)}).replace(b"abbb", b"a\x1b[2"))
    for arguments in (
        ("runs", "list", runs),
        ("runs", "show", named / run.name),
        ("runs", "rm", named / run.name, "--runs", runs),
        ("report", runs, "--out", tmp_path / "report"),
        ("compare", runs, "--out", tmp_path / "report"),
        ("run", "--config", named / run.name / "config.yaml"),
        ("evaluate", samples, "--reference", "digits", "--features", "digits"),
        ("evaluate", strange, "--reference", "digits", "--features", "digits"),
        ("data", "verify", tmp_path / f"no{ESCAPE}"),
        ("sample", f"no{ESCAPE}"),
        ("run", f"no{ESCAPE}"),
        ("evaluate", tmp_path / f"no{ESCAPE}"),
    ):
        code, said = ask(*arguments)
        assert "\x1b]0" not in said, arguments
        assert "\x1b[2" not in said, arguments
        assert code in (0, 2, 4), said
