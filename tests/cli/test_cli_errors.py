"""How the program ends whatever happens, and its switches: one line, the exit codes of the list, no traceback."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version

import pytest
from command_line import SMALL, refused
from command_line import invoke as harness

# Something that happens while a module is read, long before a command begins.
WHILE_IMPORTING = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            {happens}
sys.meta_path.insert(0, Finder())
sys.argv = ["harness", *{arguments!r}]
from harness.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rnu"], "no command is called 'rnu'. Did you mean run"),
        (["recipes", "shwo"], "no command is called 'shwo'. Did you mean show? `harness recipes --help` lists them"),
        (["--qiet", "run"], "harness has no option --qiet. Did you mean --quiet"),
        (["run", "dit-tiny", "--stesp", "3"], "harness run has no option --stesp. Did you mean --steps"),
        (["run", "dit-tiny", "--lr", "1e-4"], "harness run has no option --lr. Here it is --set learning_rate=VALUE."),
        (["run", "dit-tiny", "--batch-size", "8"], "Here it is --set batch_size=N to train"),
        (["bench", "dit-tiny", "--batch-size", "8"], "Here it is --batch."),
        (["run", "dit-tiny", "--epochs", "8"], "Here it is --steps. A step is one batch: an epoch is the number of"),
        (["run", "dit-tiny", "--resume"], "Here it is the same command again, which continues from the newest"),
        (["run", "dit-tiny", "--cfg", "4"], "Here it is --set guidance_scale=VALUE."),
        (["sample", "runs", "--cfg", "4"], "harness sample has no option --cfg. Here it is --cfg-scale."),
        (["evaluate", "runs", "--batch-size", "8"], "--set sample_batch=N to sample"),
        (["compare", "--lr", "1"], "harness compare has no option --lr."),
        (["run", "dit-tiny", "--launcher", "slrum"], "--launcher is 'slrum'; it must be local or slurm. Did you"),
        (
            ["run", "dit-tiny", "--seed", "99999999999999999999", "--dry-run"],
            "--seed: the value '99999999999999999999' "
            "cannot be taken: it has a whole number beyond 64 bits; the largest is 9223372036854775807.",
        ),
        (["run", "dit-tiny", "--seed", "x"], "--seed must be a whole number"),
        (["run", "dit-tiny", "--seed"], "--seed"),
        (["run", "dit-tiny", "extra"], "unexpected extra argument"),
        (["run", "dit-tiny", "--steps", "1.5"], "--steps is '1.5'; it must be a whole number of at least 1"),
        (["run", "dit-tiny", "--compile", "yes"], "--compile is 'yes'; it must be on, off or auto"),
        (["run", "dit-tiny", "--nodes", "0"], "--nodes must be"),
        (["run", "dit-tiny", "--nodes", "2"], "--nodes belongs to a SLURM job, and this command starts none"),
        (["run", "dit-tiny", "--time", "01:00:00", "--dry-run"], "--time belongs to a SLURM job"),
        (["sweep", "figure3", "--partition", "gpu", "--dry-run"], "add --launcher slurm or --print-sbatch"),
        (["data", "encode", "somewhere"], "missing option '--out'"),
        (["runs", "export", "somewhere"], "missing option '--to'. Choose from: csv, tensorboard, wandb, trackio."),
        (["recipes", "show"], "missing argument 'RECIPE'"),
        (["evaluate", "nowhere.npz", "--metrics", "fidd"], "no metric is called 'fidd'. Did you mean fd"),
        (["sweep", "figure33"], "no sweep is called 'figure33'. Did you mean figure3"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_typed_wrongly_ends_with_2_and_one_line(arguments, says):
    stderr = refused(*arguments, exit_code=2, says=says)
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert "│" not in stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (["run", "sdit-tiny"], 2, "Did you mean sddit-tiny"),
        (["run", "dit-tiny", "--steps", "-5"], 2, "steps is '-5'; it must be a whole number of at least 1"),
        (["run", "sddit-tiny", "--set", "mask_ratio=1.5"], 2, "mask_ratio is 1.5; it must be less than 1"),
        (["run", "dit-tiny", "--data", "digit"], 2, "Did you mean digits"),
        (["run", "dit-tiny", "--set", "features=digit"], 2, "Did you mean digits"),
        (["run"], 2, "name a recipe"),
        (["run", "--config", "absent.yaml"], 4, "absent.yaml cannot be read"),
        (["run", "dit-tiny", "--out", "/dev/null/runs"], 4, "cannot be written"),
        (["run", "dit-tiny", "--precision", "tf32"], 3, "this processor has no TF32"),
        (["compare", "--figure", "33"], 2, "no figure is called '33'"),
        (["compare"], 4, "harness demo"),
        (["report", "nowhere"], 4, "nowhere"),
        (["bench", "sdit-tiny"], 2, "Did you mean sddit-tiny"),
        (["bench", "dit-tiny", "--precision", "fp64"], 2, "precision is 'fp64'; it must be"),
        (["bench", "dit-tiny", "--compile", "maybe"], 2, "--compile is 'maybe'; it must be on, off or auto"),
        (["bench", "dit-tiny", "--window", "0"], 2, "--window is 0; it must be a number of seconds above 0"),
        (["bench", "dit-tiny", "dit-tiny"], 2, "dit-tiny would be timed twice"),
        (["bench", "dit-tiny", "--precision", "tf32"], 3, "this processor has no TF32"),
        (["bench", "dit-tiny", "--set", "attention=cudnn"], 3, "torch has no such kernel"),
        (["bench", "dit-tiny", *SMALL, "--out", "/dev/null/bench"], 4, "cannot write to /dev/null/bench"),
        (["bench", "dit-tiny", "--batch", "100M"], 3, "--micro-batch"),
        (["bench", "dit-tiny", "--official", "nowhere"], 2, "nowhere holds no DiT"),
        (["published", "list", "--figure", "8"], 2, "--figure is '8'; it must be 3, 4, 5, 6 or 7."),
        (["published", "list", "--table", "0"], 2, "--table is '0'; it must be 1, 2, 3 or 4."),
        (["published", "list", "--method", "sdit"], 2, "Did you mean sddit"),
        (["published", "list", "--figure", "3", "--table", "1"], 2, "give one of them"),
        (["published", "list", "--csv", "--json"], 2, "give one of them"),
        (["recipes", "show", "sdit-s"], 2, "no recipe is called 'sdit-s'. Did you mean sddit-s"),
        (["recipes", "diff", "sdit-s", "dit-s"], 2, "no recipe is called 'sdit-s'. Did you mean sddit-s"),
        (["recipes", "diff", "dit-s", "sdit-s"], 2, "no recipe is called 'sdit-s'. Did you mean sddit-s"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_told_with_its_exit_code_and_nothing_is_written(arguments, exit_code, says, tmp_path):
    stderr = refused(*arguments, exit_code=exit_code, says=says, cwd=tmp_path)
    assert "warming up" not in stderr or exit_code == 3  # memory and kernels are found out by a step
    assert not list(tmp_path.rglob("*.json"))
    assert not (tmp_path / "reports").exists()


def test_no_arguments_show_the_help_on_stderr_and_end_with_2():
    for arguments in ([], ["runs"]):
        done = harness(*arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.lstrip().startswith("Usage: harness")


def test_a_wrong_setting_names_the_nearest_and_where_all_are_and_not_all_of_them():
    asked = ["run", "sddit-tiny", "--set", "mask_ration=0.3", "--dry-run"]
    stderr = refused(*asked, exit_code=2, says="Did you mean mask_ratio")
    assert "`harness recipes show sddit-tiny` lists all" in stderr
    assert len(stderr) < 250


@pytest.mark.parametrize(
    ("module", "happens", "exit_code"),
    [("harness.cli", "raise KeyboardInterrupt", 130), ("harness.recipes", "os.kill(os.getpid(), signal.SIGTERM)", 75)],
    ids=["SIGINT", "SIGTERM"],
)
def test_a_signal_while_modules_are_read_ends_with_its_code_and_one_line(module, happens, exit_code, tmp_path):
    code = WHILE_IMPORTING.format(module=module, happens=happens, arguments=["recipes", "list"])
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == exit_code
    assert re.fullmatch(r"error: .*\n", done.stderr)


@pytest.mark.parametrize("arguments", [["--help"], ["recipes", "list"]], ids=" ".join)
def test_a_reader_that_has_gone_is_no_error(arguments, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "harness", *arguments], cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [["--debug", "run"], ["run", "--debug"]], ids=["before", "after"])
def test_debug_shows_the_traceback_before_and_after_the_command(arguments):
    assert "Traceback" not in harness("run").stderr
    done = harness(*arguments)
    assert done.exit_code == 2
    assert "Traceback" in done.stderr
    assert done.stderr.rstrip().splitlines()[-1].startswith("error: name a recipe")
    assert "Traceback" not in harness("run").stderr  # it held for that command alone


def test_quiet_leaves_the_answer_and_errors_and_an_option_is_named_as_it_was_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loud = harness("run", "dit-tiny", "--steps", "4", *SMALL, "--no-eval", "--json")
    assert "training" in loud.stderr
    for arguments in (["-q", "run", "dit-tiny"], ["run", "dit-tiny", "--quiet"]):
        done = harness(*arguments, "--steps", "4", *SMALL, "--no-eval", "--json", "--force")
        assert (done.exit_code, done.stderr) == (0, "")
        assert json.loads(done.stdout)["complete"]
    folder = tmp_path / "runs" / "dit-tiny" / json.loads(done.stdout)["run_id"]
    done = harness("evaluate", str(folder), "--num", "5", "-q")
    assert done.exit_code == 2
    assert done.stderr == "error: --num is 5; it must be greater than or equal to 50.\n"
    done = harness("sample", str(folder), "--steps", "1", "-q")
    assert done.stderr.startswith("error: --steps is 1; it must be greater than or equal to 2.")


def test_version_tells_what_decides_a_number_without_importing_torch(tmp_path):
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print([m for m in ('torch', 'numpy') if m in sys.modules]))\n"
        "sys.argv = ['harness', '--version']\n"
        "from harness.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    mine, python, torch, cuda, imported = done.stdout.splitlines()
    assert re.fullmatch(r"harness \d+\.\d+\.\d+(, commit [0-9a-f]{12}\+?)?", mine)
    assert python == f"Python {sys.version.split()[0]}"
    assert torch.split()[1].partition("+")[0] == version("torch").partition("+")[0]
    assert cuda.startswith("CUDA")
    assert imported == "[]"
