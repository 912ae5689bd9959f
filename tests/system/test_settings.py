"""harness.toml and HARNESS_* variables: which value holds, where it is said to come from, what is refused."""

import json

import command_line
import pytest
from command_line import flowing
from command_line import invoke as harness

from harness.records.schema import Manifest, read_record
from harness.system import settings
from harness.system.errors import UsageError

KNOWN = {
    "run": {"precision": False, "steps": False, "nproc": False, "no_eval": False, "set": True},
    "bench": {"window": False, "batch": False},
    "runs list": {"json": False},
}
TINY = '[run.set]\nwidth = 16\ndepth = 3\nnum_heads = 2\nbatch_size = 8\nbetas = [0.9, 0.95]\nflips = "none"\n'
TINY_FLAGS = [
    *("--set", "width=16", "--set", "depth=3", "--set", "num_heads=2", "--set", "batch_size=8"),
    *("--set", "betas=[0.9, 0.95]", "--set", "flips=none"),
]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder to work in, and a user without settings."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user"))
    for name in settings.FOLDERS.values():
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def own(tmp_path, here):
    """The user's own settings file."""
    file = settings.files()[0]
    assert file.is_relative_to(tmp_path / "user")
    file.parent.mkdir(parents=True)
    return file


def answer(*arguments):
    return json.loads(command_line.answer(*arguments, "--json"))


def shown():
    return {row["setting"]: (row["value"], row["origin"]) for row in answer("config", "show")["settings"]}


def test_a_flag_goes_before_a_variable_before_the_folder_s_file_before_the_user_s_before_the_recipe(
    own, here, monkeypatch
):
    def precision(*flags):
        return answer("run", "dit-tiny", "--dry-run", *flags)["config"]["protocol"]["precision"]

    assert precision() == "fp32"  # the recipe's
    own.write_text('[run]\nprecision = "bf16"\n')
    assert precision() == "bf16"
    (here / "harness.toml").write_text('[run]\nprecision = "fp32"\n')
    assert precision() == "fp32"
    monkeypatch.setenv("HARNESS_RUN_PRECISION", "bf16")
    assert precision() == "bf16"
    assert precision("--precision", "fp32") == "fp32"
    assert precision("--set", "precision=fp32") == "fp32"  # typed too, if otherwise
    assert precision("--no-settings") == "fp32"


def test_config_show_says_each_value_and_where_it_comes_from(own, here, monkeypatch):
    own.write_text('[run]\nnproc = 4\nprecision = "tf32"\n[folders]\ncache = "kept"\n')
    (here / "harness.toml").write_text('[run]\nprecision = "bf16"\n[runs.list]\njson = false\n')
    monkeypatch.setenv("HARNESS_VAE", "/weights")
    monkeypatch.setenv("HARNESS_EVALUATE_NUM", "500")
    theirs = settings.shown(own)
    found = shown()
    assert found["run.nproc"] == (4, theirs)
    assert found["run.precision"] == ("bf16", "harness.toml")
    assert found["runs.list.json"] == (False, "harness.toml")
    assert found["evaluate.num"] == ("500", "HARNESS_EVALUATE_NUM")
    assert found["folders.cache"] == (str(own.parent / "kept"), theirs)
    assert found["folders.vae"] == ("/weights", "HARNESS_VAE")
    assert found["folders.data"][1] == "default"
    assert "run.seed" not in found
    everything = harness("config", "show", "--all", "--origin").stdout
    assert "run.seed" in everything
    assert "HARNESS_EVALUATE_NUM" in everything


def test_a_run_made_through_settings_is_the_run_of_the_same_flags_and_says_what_it_was_told(here):
    (here / "harness.toml").write_text(f'[run]\nsteps = "6"\nno_eval = true\nout = "kept"\nseed = 3\n{TINY}')
    done = answer("run", "dit-tiny")
    flags = ["--steps", "6", "--seed", "3", *TINY_FLAGS]
    planned = answer("run", "dit-tiny", "--no-settings", *flags, "--dry-run")
    assert done["run_id"] == planned["run_id"]
    manifest = read_record(here / "kept" / "dit-tiny" / done["run_id"] / "manifest.json", Manifest)
    for setting in ("protocol.steps=6", "seed=3", "width=16"):
        assert f"--set {setting}" in manifest.command
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_NO_SETTINGS", "1")
        replanned = answer(*_as_typed(manifest.command), "--dry-run")
    assert replanned["run_id"] == done["run_id"]


def _as_typed(command):
    """The arguments of a manifest's command line, in which a value may hold blanks."""
    recipe, *assignments = command.removeprefix("harness run ").split(" --set ")
    return ["run", recipe, *(part for one in assignments for part in ("--set", one))]


def test_settings_of_set_add_up_and_the_typed_ones_win(own, here):
    own.write_text("[run.set]\nbatch_size = 8\ndepth = 3\n")
    (here / "harness.toml").write_text('[run]\nset = ["depth=5"]\n')
    config = answer("run", "dit-tiny", "--dry-run", "--set", "width=32")["config"]
    assert (config["protocol"]["batch_size"], config["network"]["depth"], config["network"]["width"]) == (8, 5, 32)
    config = answer("run", "dit-tiny", "--dry-run", "--set", "depth=4")["config"]
    assert config["network"]["depth"] == 4


def test_a_folder_of_the_settings_is_where_data_is_looked_for_and_a_variable_goes_before_it(here, monkeypatch):
    (here / "harness.toml").write_text('[folders]\ndata = "sets"\n')
    asked = ["run", "dit-tiny", "--data", "imagenet-256", "--set", "input=null", "--dry-run"]
    assert str(here / "sets") in harness(*asked).stderr
    assert str(here / "sets") in harness("--no-settings", *asked).stderr  # about options alone
    monkeypatch.setenv("HARNESS_DATA", str(here / "other"))
    assert str(here / "other") in harness(*asked).stderr


def test_runs_of_a_sweep_take_their_options_from_the_sweep_alone(here):
    (here / "harness.toml").write_text('[run]\nprecision = "bf16"\n')
    script = harness("sweep", "mask-ratio", "--scale", "tiny", "--seeds", "0", "--print-sbatch").stdout
    assert script.count(" run ") == script.count(" --no-settings run ") > 3


def test_a_job_is_told_what_the_settings_say_and_not_to_look_again(here, monkeypatch):
    (here / "harness.toml").write_text(
        f'[run]\nprecision = "bf16"\nlauncher = "slurm"\nnproc = 8\nno_eval = true\n{TINY}'
    )
    typed = ["run", "dit-tiny", "--precision", "fp32", "--print-sbatch"]
    monkeypatch.setattr("sys.argv", ["harness", *typed])
    script = harness(*typed).stdout
    told = next(line for line in script.splitlines() if " run " in line)
    assert "--ntasks-per-node=8" in script
    assert "run --no-settings" in told
    assert "--no-eval" in told
    assert "--set width=16" in told
    assert "dit-tiny --precision fp32" in told  # typed, after what is set
    assert "bf16" not in told
    assert "slurm" not in told.partition("run --no-settings")[2]


@pytest.mark.parametrize("table", ["run", "export", "reproduce", "runs.rm"])
def test_what_destroys_is_typed_and_set_by_no_file_and_no_variable(table, here, monkeypatch):
    """A harness.toml comes with a cloned folder: it must not decide that runs are started over or removed."""
    key = "yes" if table == "runs.rm" else "force"
    asked = [*table.split("."), "somewhere"]
    (here / "harness.toml").write_text(f"[{table}]\n{key} = true\n")
    done = harness(*asked)
    assert done.exit_code == 2
    assert f"{key} of [{table}] in harness.toml: --{key} removes or replaces what was kept" in flowing(done.stderr)
    (here / "harness.toml").unlink()
    name = settings.variable(table.replace(".", " "), key)
    monkeypatch.setenv(name, "1")
    done = harness(*asked)
    assert done.exit_code == 2
    assert f"{name}: --{key} removes or replaces what was kept" in flowing(done.stderr)
    monkeypatch.delenv(name)
    assert f"{table}.{key}" not in [row["setting"] for row in answer("config", "show", "--all")["settings"]]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[run]\nprecison = "bf16"', "[run] in harness.toml: no setting is called 'precison'. Did you mean precision"),
        ("[rnu]\nnproc = 8", "harness.toml: no command is called 'rnu'. Did you mean run"),
        ("[runs.lst]\njson = true", "[runs] in harness.toml: no command is called 'lst'. Did you mean list"),
        ("[run]\nprecision = [1]", "precision of [run] in harness.toml is [1]; it must be one value"),
        ("[run]\nset = 3", "set of [run] in harness.toml is 3; it must be a table of settings, or a list"),
        ("run = 3", "run in harness.toml is 3; it must be a table, [run] with its settings below"),
        ('[folders]\ndat = "x"', "[folders] in harness.toml: no setting is called 'dat'. Did you mean data"),
        ("[folders]\ndata = 3", "data of [folders] in harness.toml is 3; it must be the path of a folder"),
        ("[run", "harness.toml is not TOML"),
        ("a = " + "[" * 10_000, "harness.toml is not TOML"),
    ],
)
def test_what_a_file_has_wrong_is_named_with_the_file_and_the_key(here, text, says):
    (here / "harness.toml").write_text(text)
    with pytest.raises(UsageError) as error:
        settings.read(KNOWN)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("HARNESS_RUN_PRECISON", "bf16", "no setting is called 'HARNESS_RUN_PRECISON'. Did you mean HARNESS_RUN_PREC"),
        ("HARNESS_RUN_SET", "'width=16", 'HARNESS_RUN_SET is "\'width=16"; it must be KEY=VALUE texts'),
    ],
)
def test_what_a_variable_has_wrong_is_named_with_the_variable(monkeypatch, name, text, says):
    monkeypatch.setenv(name, text)
    with pytest.raises(UsageError) as error:
        settings.read(KNOWN)
    assert says in str(error.value)


def test_variables_of_other_programs_are_left_alone(monkeypatch):
    monkeypatch.setenv("HARNESS_BUILD_ID", "7")  # a CI system is called Harness too
    monkeypatch.setenv("HARNESS_RUNS", "elsewhere")
    assert settings.read(KNOWN) == settings.Settings({}, {command: {} for command in KNOWN})


def test_a_settings_file_that_is_no_text_or_too_large_is_an_error(here):
    for content in (b"\xff\xfe", b"#" * (settings.LARGEST_FILE + 1)):
        (here / "harness.toml").write_bytes(content)
        with pytest.raises(UsageError, match=r"harness\.toml is not TOML"):
            settings.read(KNOWN)


def test_help_and_version_work_beside_a_broken_settings_file(here):
    (here / "harness.toml").write_text("[run")
    for arguments in (["--help"], ["run", "-h"], ["--version"]):
        assert harness(*arguments).exit_code == 0
    assert harness("recipes", "list").exit_code == 2


@pytest.mark.parametrize(
    ("set_by", "text", "says"),
    [
        ("precision", '"fp99"', "--precision is 'fp99'"),
        ("nproc", "true", "--nproc must be a whole number"),
        ("nproc", '"many"', "--nproc must be a whole number"),
        ("no-eval", '"maybe"', "--no-eval must be a valid boolean"),
        ("steps", "1.5", "--steps is '1.5'; it must be a whole number"),
    ],
)
@pytest.mark.parametrize("place", ["file", "variable"])
def test_a_value_that_does_not_fit_is_refused_with_the_option_and_the_place_that_sets_it(
    place, set_by, text, says, here, monkeypatch
):
    name = settings.variable("run", set_by) if place == "variable" else "harness.toml"
    if place == "file":
        (here / "harness.toml").write_text(f"[run]\n{set_by} = {text}\n")
    else:
        monkeypatch.setenv(name, text.strip('"'))
    done = harness("run", "dit-tiny", "--dry-run")
    assert done.exit_code == 2
    assert says in done.stderr
    assert f"Set, not typed: --{set_by} by {name}" in done.stderr
    assert (
        "Set, not typed" not in harness("run", "dit-tiny", "--dry-run", "--precision", "fp98", "--no-settings").stderr
    )
