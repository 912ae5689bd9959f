"""Shell completion: what is offered where, that it is quick, and that it never says anything else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import baselines
from harness.cli import app
from harness.cli.app import completion
from harness.papers import sweeps
from harness.recipes import metric_names
from harness.recipes.reading import load_recipe, recipe_names, settings
from harness.reporting.figures import MAKERS


def offered(line: str) -> list[str]:
    """What bash is offered at the end of a line."""
    words = line.split(" ")
    told = {"_HARNESS_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = CliRunner().invoke(app, [], prog_name="harness", env=told)
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two run folders and one that is none."""
    monkeypatch.chdir(tmp_path)
    for name in ("dit-tiny/seed0-0123456789", "sddit-tiny/seed1-9876543210"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").touch()
    (tmp_path / "runs" / "dit-tiny" / "no-run").mkdir()
    return tmp_path / "runs"


def test_commands_options_and_recipes_are_offered():
    assert offered("harness ru") == ["run", "runs"]
    assert "--precision" in offered("harness run --p")
    assert offered("harness run sddit-") == [name for name in recipe_names() if name.startswith("sddit-")]
    assert offered("harness recipes diff dit-s mdt-") == [name for name in recipe_names() if name.startswith("mdt-")]
    assert offered("harness sweep ") == [*sweeps.names(), "all"]
    assert offered("harness run dit-s --precision ") == ["fp32", "tf32", "bf16"]
    assert offered("harness compare --figure l") == ["losses"]
    assert offered("harness import-checkpoint x.pt --as dit-l") == ["dit-l"]
    assert offered("harness evaluate RUN --features ") == sorted(metric_names.FEATURE_NETWORKS)


def test_the_last_member_of_a_list_is_completed_and_none_twice():
    assert "fid,recall" in offered("harness evaluate RUN --metrics fid,re")
    assert set(offered("harness evaluate RUN --metrics ")) >= {*metric_names.NAMED, "fid", "sfid", "all"}
    assert offered("harness bench dit-s --precision bf16,") == ["bf16,fp32", "bf16,tf32"]


def test_runs_are_offered_by_name_and_paths_are_left_to_the_shell(runs):
    assert offered("harness runs show sd") == ["sddit-tiny/seed1-9876543210"]
    assert offered("harness runs show --runs elsewhere sd") == []
    assert offered("harness sample runs/dit-tiny/s") == []


def test_every_setting_is_offered_after_set():
    keys = {key.removesuffix("=") for key in offered("harness run dit-xl --set ")}
    for name in ("sddit-tiny", "dit-xl"):
        recipe = load_recipe(name)
        paths = {found.path for found in settings(recipe, baselines.load(recipe.document["method"]).Config)}
        assert keys >= {path.rpartition(".")[2] for path in paths if not path.startswith("input.")}
    assert offered("harness run dit-s --set protocol.learning") == ["protocol.learning_rate="]
    assert "seed=" in offered("harness run dit-s --set s")


def test_names_that_completion_keeps_itself_are_those_of_the_module_that_imports_matplotlib():
    assert list(completion.FIGURES) == [*MAKERS, "all"]


@pytest.mark.parametrize("line", ["harness run ", "harness run dit-s --set ", "harness evaluate R --metrics "])
def test_completion_imports_nothing_heavy(line, tmp_path):
    code = (
        "import sys, atexit\n"
        "heavy = ('torch', 'numpy', 'pandas', 'matplotlib', 'scipy')\n"
        "atexit.register(lambda: print('heavy:', [m for m in heavy if m in sys.modules]))\n"
        "from harness.__main__ import main; main()"
    )
    told = {"_HARNESS_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | told, cwd=tmp_path, capture_output=True, text=True
    )
    *found, last = done.stdout.splitlines()
    assert found
    assert (last, done.stderr) == ("heavy: []", "")


def test_completion_says_nothing_where_it_fails(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "harness.toml").write_text("[broken")
    assert offered("harness sample nowhere/at/all/") == []
    assert offered("harness runs show x") == []

    def broken():
        print("noise")
        raise RuntimeError("a recipe cannot be read")

    monkeypatch.setattr("harness.recipes.reading.recipe_names", broken)
    assert offered("harness run dit") == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_by_the_script_it_is_given(tmp_path):
    """The script that --install-completion writes, in a real bash."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "harness").write_text(f'#!/bin/sh\nexec {sys.executable} -m harness "$@"\n')
    (folder / "harness").chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(Path(__file__).parents[2])}
    script = (
        'eval "$(_HARNESS_COMPLETE=source_bash harness)"; '
        "COMP_WORDS=(harness run sddit-t); COMP_CWORD=2; _harness_completion harness; "
        'echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["sddit-tiny"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_a_script(shell):
    done = CliRunner().invoke(app, [], prog_name="harness", env={"_HARNESS_COMPLETE": f"source_{shell}"})
    assert done.exit_code == 0
    assert f"complete_{shell}" in done.stdout
