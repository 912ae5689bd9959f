"""The worked example of docs/fifth_method, installed outside the tree: a fifth method that no file here names."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from inspect import signature
from pathlib import Path

import pytest
import test_contract
import torch
from run_folders import write_run
from safetensors.torch import load_file
from small import small_config
from typer.testing import CliRunner

import baselines
from harness.cli import app
from harness.recipes.reading import broken, families, load_recipe, plugins, recipe_names
from harness.records.schema import Manifest, Result, read_record
from harness.system.errors import SetupError, UsageError

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "fifth_method"
LAST = "step-000000014"
PROMISES = [name for name in vars(test_contract) if name.startswith("test_")]
SMALL = [
    "--set", "width=16", "--set", "num_heads=2", "--set", "batch_size=8", "--set", "checkpoint_every=7",
    "--set", "num_images=60", "--set", "sampling.num_steps=3",
    "--set", "untrained=false", "--steps", "14",
]  # fmt: skip


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> Path:
    """Where pip put the example: a folder beside the environment, without a network and without what it depends on."""
    folder = tmp_path_factory.mktemp("fifth")
    copy = shutil.copytree(
        EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    )
    quiet = [
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--no-compile",
        "--disable-pip-version-check",
    ]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *quiet, "--target", folder / "installed", copy],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return folder / "installed"


def forget() -> None:
    plugins._claims.cache_clear()
    plugins.family.cache_clear()


@pytest.fixture
def installed(target, monkeypatch):
    monkeypatch.syspath_prepend(target)
    forget()
    yield
    forget()
    for name in [name for name in sys.modules if name.partition(".")[0] == "minsnr_method"]:
        del sys.modules[name]


@pytest.fixture
def other_package(tmp_path, monkeypatch):
    """Installs a package by hand: its entry point, module and recipes, whatever they are."""

    def install(method: str, module: str, *, recipes: str | None = "", code: str = "") -> None:
        site = tmp_path / f"{method}-site"
        record = site / "rogue-1.0.dist-info"
        record.mkdir(parents=True)
        (record / "METADATA").write_text("Metadata-Version: 2.1\nName: rogue\nVersion: 1.0\n")
        (record / "entry_points.txt").write_text(f"[{plugins.GROUP}]\n{method} = {module}\n")
        package = site / module.partition(".")[0]
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / f"{module.rpartition('.')[2]}.py").write_text(code)
        if recipes is not None:
            (package / f"{method}.yaml").write_text(recipes)
        monkeypatch.syspath_prepend(site)
        forget()

    yield install
    forget()
    for name in [name for name in sys.modules if name.startswith("rogue_")]:
        del sys.modules[name]


def harness(*arguments: str) -> str:
    done = CliRunner().invoke(app, [*arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_method_and_its_tests_are_small():
    assert len((EXAMPLE / "minsnr_method" / "minsnr.py").read_text().splitlines()) < 100


def test_a_fifth_method_is_found_without_importing_it(target):
    code = (
        "import sys; from harness.recipes.reading import recipe_names; from harness.recipes.reading import origin;"
        "loaded = [name for name in ('torch', 'minsnr_method.minsnr') if name in sys.modules];"
        "print('minsnr-tiny' in recipe_names(), origin('minsnr'), loaded)"
    )
    environment = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=1) == ["True", "dit-harness-minsnr 0.1.0 []\n"]


def test_the_recipes_of_a_fifth_method_stand_with_the_others_and_say_where_they_come_from(installed):
    listed = json.loads(harness("recipes", "list", "--json"))
    assert {r["recipe"]: r["from"] for r in listed["recipes"]}["minsnr-s"] == "dit-harness-minsnr 0.1.0"
    assert {r["from"] for r in listed["recipes"] if not r["recipe"].startswith("minsnr-")} == {"harness"}
    shown = json.loads(harness("recipes", "show", "minsnr-tiny", "--json"))
    settings = {s["setting"]: (s["value"], s["source"]) for s in shown["settings"]}
    assert settings["knobs.snr_gamma"] == (5, "Min-SNR repository, configs/in256: min_snr_5; inf: DiT's loss")
    assert settings["formulation"][0] == "iddpm"
    assert settings["protocol.steps"] == (1000, load_recipe("dit-tiny").sources["protocol.steps"])


@pytest.mark.parametrize("promise", PROMISES)
def test_a_fifth_method_keeps_the_contract(installed, digits, promise):
    """As `pytest tests/baselines/test_contract.py -k minsnr` runs them where the package is installed."""
    check = vars(test_contract)[promise]
    check(**{"name": "minsnr", "digits": digits} if "digits" in signature(check).parameters else {"name": "minsnr"})


def test_the_tests_of_the_example_pass(installed):
    spec = spec_from_file_location("test_minsnr", EXAMPLE / "tests" / "test_minsnr.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    checks = [check for name, check in vars(module).items() if name.startswith("test_")]
    assert len(checks) == 4
    for check in checks:
        check()


@pytest.fixture(scope="module")
def trained(target, tmp_path_factory) -> Path:
    """A short run of the fifth method; the same again, cut off half-way and continued; one of DiT's by its records."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(target)
        forget()
        harness("run", "minsnr-tiny", *SMALL, "--out", str(folder / "straight"))
        shutil.copytree(folder / "straight" / "minsnr-tiny", folder / "cut" / "minsnr-tiny")
        cut = run_folder(folder / "cut")
        (cut / "result.json").unlink()
        shutil.rmtree(cut / "checkpoints" / LAST)
        harness("run", "minsnr-tiny", *SMALL, "--out", str(folder / "cut"))
    write_run(folder / "straight", "dit")
    forget()
    return folder


def run_folder(root: Path) -> Path:
    (folder,) = (root / "minsnr-tiny").iterdir()
    return folder


def test_a_run_of_a_fifth_method_is_a_run_like_any_other(trained):
    folder = run_folder(trained / "straight")
    result = read_record(folder / "result.json", Result)
    assert (result.method, result.steps, result.input_patches) == ("minsnr", 14, "100%")
    assert "fd-digits@60" in result.evaluations["final"].metrics
    assert read_record(folder / "manifest.json", Manifest).packages["dit-harness-minsnr"] == "0.1.0"


def test_a_fifth_method_continues_bit_for_bit(trained):
    straight, cut = (run_folder(trained / name) for name in ("straight", "cut"))
    assert any(json.loads(line).get("step") == 7 for line in (cut / "events.jsonl").read_text().splitlines())
    for name in ("method.safetensors", "ema.safetensors"):
        a, b = (load_file(folder / "checkpoints" / LAST / name) for folder in (straight, cut))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name
    a, b = (read_record(folder / "result.json", Result) for folder in (straight, cut))
    assert a.evaluations["final"].metrics == b.evaluations["final"].metrics


def test_compare_and_report_show_a_fifth_method_beside_the_others_without_its_package(trained, tmp_path):
    """From records alone: the package that trained it need not be there."""
    assert "minsnr" not in baselines.names()
    runs = str(trained / "straight")
    harness("report", runs, "--format", "md", "--out", str(tmp_path))
    figure = (tmp_path / "figure3.csv").read_text()  # as `harness compare` draws it
    assert ",minsnr," in figure
    assert "dit-tiny/" in figure
    report = (tmp_path / "report.md").read_text()
    assert "minsnr 100%" in report
    assert "dit-harness-minsnr 0.1.0" in report


@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_a_run_whose_package_is_absent_names_the_method_and_the_package(trained, command):
    done = CliRunner().invoke(app, [command, str(run_folder(trained / "straight"))])
    assert done.exit_code == SetupError.exit_code
    assert "a run of the method minsnr, which is not installed here" in done.stderr
    assert "dit-harness-minsnr 0.1.0: install that package" in done.stderr


def test_an_estimate_of_a_fifth_method_counts_what_has_no_formula(installed):
    """Min-SNR's network is DiT's, and so is what a step costs, but for some products of each pixel."""
    ours, dit = (json.loads(harness("run", f"{name}-tiny", "--dry-run", "--json")) for name in ("minsnr", "dit"))
    assert ours["gmacs_forward"] == dit["gmacs_forward"]
    assert ours["gmacs_step"] == pytest.approx(dit["gmacs_step"], rel=1e-2)
    assert ours["estimate"]["memory_bytes"] == pytest.approx(dit["estimate"]["memory_bytes"], rel=0.05)


@pytest.mark.parametrize("formulation", ["edm", "flow"])
def test_a_formulation_that_a_fifth_method_does_not_name_is_refused(installed, formulation):
    done = CliRunner().invoke(app, ["run", "minsnr-tiny", "--dry-run", "--set", f"formulation={formulation}"])
    assert done.exit_code == UsageError.exit_code
    assert f"formulation is '{formulation}', which minsnr cannot be trained with; it takes iddpm" in done.stderr


def test_a_plugin_that_cannot_be_imported_breaks_nothing_but_itself(other_package):
    recipes = "formulation: {value: edm, source: here}\nsizes: {tiny: }\n"
    other_package("broken", "rogue_a.code", recipes=recipes, code="import nothing_of_this_name")
    assert "broken-tiny" in recipe_names()
    baselines.build(small_config("dit"))
    with pytest.raises(
        SetupError, match=r"package rogue 1\.0, which cannot be imported: ModuleNotFoundError.*pip uninstall"
    ):
        baselines.load("broken")
    done = CliRunner().invoke(app, ["run", "broken-tiny", "--dry-run"])
    assert done.exit_code == 3
    assert CliRunner().invoke(app, ["--help"]).exit_code == 0


@pytest.mark.parametrize(
    ("recipes", "says"),
    [
        (None, "cannot be read: FileNotFoundError"),
        ("formulation: {value: edm, source: here}\nsizes: {huge: }\n", "sizes.huge"),
        ("formulation: {value: score, source: here}\nsizes: {tiny: }\n", "formulation.value"),
        ("formulation: edm\nsizes: {tiny: }\n", "formulation"),
        ("formulation: {value: edm, source: here}\nsizes: {tiny: {knobs: {a: 1}}}\n", "sizes.tiny.knobs.a"),
        ("[", "cannot be read: "),
        ("!!python/object/apply:os.system [true]", "cannot be read: ConstructorError"),
    ],
)
def test_recipes_of_a_plugin_that_are_none_are_left_out_and_told(other_package, recipes, says):
    other_package("broken", "rogue_b.code", recipes=recipes)
    assert "broken" in families()
    assert not [name for name in recipe_names() if name.startswith("broken")]
    assert says in broken()["broken"]
    assert "Left out: " in harness("recipes", "list")
    with pytest.raises(SetupError, match=r"rogue 1\.0"):
        load_recipe("broken-tiny")
    load_recipe("dit-tiny")


def test_a_plugin_cannot_take_the_name_of_a_built_in_method(other_package):
    other_package("dit", "rogue_c.code", code="raise SystemExit")
    assert baselines.load("dit").__name__ == "baselines.dit"
    assert "rogue 1.0: refused, for dit is a method of the harness's own" in broken()["dit"]
    assert plugins.packages(["dit"]) == {}
    assert "dit-tiny" in recipe_names()


def test_two_plugins_of_one_name_are_both_refused(installed, other_package):
    other_package("minsnr", "rogue_d.code")
    with pytest.raises(SetupError, match="both bring a method called minsnr; uninstall one"):
        baselines.load("minsnr")
    assert "minsnr" in broken()


@pytest.mark.parametrize(
    ("name", "module", "code", "says"),
    [
        ("two-words", "rogue_e.code", "", "without a hyphen"),
        ("alone", "rogue_f", "", "must lie in a package"),
        ("empty", "rogue_g.code", "", "no class Config and no Method"),
        ("other", "rogue_h.code", "class Config: pass\nclass Method: pass", "does not keep the contract"),
    ],
)
def test_a_plugin_that_is_no_method_is_refused(other_package, name, module, code, says):
    other_package(name, module, code=code)
    with pytest.raises(SetupError, match=says):
        baselines.load(name)


def test_a_method_that_nobody_brings_names_the_nearest(installed):
    with pytest.raises(UsageError, match="Did you mean minsnr"):
        baselines.load("minsn")
