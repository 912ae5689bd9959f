"""Which heavy packages commands leave alone, so that they answer quickly."""

import subprocess
import sys

import pytest
from run_folders import write_run

INVOKE = "from typer.testing import CliRunner; from harness.cli import app; done = CliRunner().invoke(app, {}); "
HEAVY = ("torch", "numpy", "pandas", "matplotlib", "scipy", "sklearn", "diffusers", "PIL", "tensorflow")
RUNS = [
    ["runs", "list", "runs"],
    ["runs", "show", "sddit-tiny"],
    ["runs", "export", "runs", "--to", "csv", "--out", "csv"],
    ["runs", "rm", "mdt-tiny", "--unfinished", "--yes"],
    ["recipes", "list"],
]
HELP = [["--help"], ["data", "encode", "--help"], ["published", "list", "--help"], ["run", "--help"]]
WRONG = [
    ["run", "dit-tiny", "--set", "mask_raio=1"],
    ["run", "dit-tiny", "--set", "depth=0"],
    ["run", "dit-tiny", "--data", "nowhere"],
    ["run", "dit-tiny", "--data", "nowhere", "--dry-run"],
    ["run", "dit-tiny", "--set", "steps=many", "--print-sbatch"],
    ["import-checkpoint", "x.pt", "--as", "dit-tiny", "--set", "depth=0"],
    ["bench", "dit-tiny", "--set", "depth=0"],
    ["bench", "dit-tiny", "--data", "nowhere"],
]


def imported(code: str, names: tuple[str, ...], cwd) -> list[str]:
    code = f"import sys; {code}; print([name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("commands", "heavy"), [(HELP, (*HEAVY, "yaml")), (RUNS, HEAVY)], ids=["help", "runs and recipes"]
)
def test_help_and_looking_at_runs_import_nothing_heavy(commands, heavy, tmp_path):
    write_run(tmp_path / "runs", "sddit")
    write_run(tmp_path / "runs", "mdt", finished=False)
    invoked = "".join(f"{INVOKE.format(command)}assert done.exit_code in (0, 2), done.output; " for command in commands)
    assert imported(invoked + "pass", heavy, tmp_path) == "[]"


@pytest.mark.parametrize("command", WRONG, ids=" ".join)
def test_a_wrong_setting_or_data_set_is_refused_before_torch_is_imported(command, tmp_path):
    code = f"{INVOKE.format(command)}assert done.exit_code == 2, done.output"
    assert imported(code, ("torch", "numpy"), tmp_path) == "[]"


def test_importing_the_package_imports_nothing_heavy(tmp_path):
    assert imported("import harness", (*HEAVY, "pydantic", "typer"), tmp_path) == "[]"
