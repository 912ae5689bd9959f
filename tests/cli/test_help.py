"""What help texts, README.md and docs/ tell a user to type: it parses, and what needs nothing more, runs."""

import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from command_line import answer
from typer import Context
from typer.main import get_command
from typer.testing import CliRunner

import baselines
from harness.cli import app
from harness.cli.app import application, defaults
from harness.papers import sweeps
from harness.recipes import metric_names
from harness.recipes.config import apply_overrides
from harness.recipes.reading import load_recipe, recipe_names
from harness.reporting import figures

ROOT = Path(__file__).parents[2]
TEXTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
TEXTS.remove(ROOT / "docs" / "cli.md")  # made of the help texts, whose examples are read from themselves
COMMANDS = {f"harness {name}": command for name, command in defaults.commands(get_command(app))}
GROUPS = {path.rpartition(" ")[0] for path in COMMANDS}
SMALL = [
    *("--steps", "4", "--no-eval", "--set", "width=16", "--set", "depth=3", "--set", "num_heads=2"),
    *("--set", "batch_size=8"),
]  # fmt: skip
LOOKUPS = ("recipes list", "recipes show", "recipes diff", "published list", "runs list", "config show")
A_RUN_OF_ANOTHER_PACKAGE = "minsnr-"  # the example of docs/fifth-method.md, which is not installed


def words_of(line: str) -> list[str]:
    """A command line as the program gets it: without comment, variables before it, and where its output goes."""
    words = shlex.split(line.removeprefix("$ "), comments=True)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    ends = [i for i, word in enumerate(words) if word in (">", "|", "&&", "&")]
    return words[: ends[0]] if ends else words


def lines_of(text: str) -> list[str]:
    """The lines of code blocks, indented or fenced, that call the program."""
    joined = re.sub(r"\\\n\s*", " ", text)
    fenced = re.findall(r"^ *```\w*\n(.*?)^ *```", joined, flags=re.M | re.S)
    lines = [line.strip() for block in fenced for line in block.splitlines()]
    lines += [line.strip() for line in joined.splitlines() if line.startswith("    ")]
    return [line for line in lines if re.match(r"(\$ )?([A-Z_]+=\S* )*harness ", line)]


def examples_of(command) -> list[str]:
    return command.epilog.replace("\\[", "[").split("\n\n")[1:]


def options_of(command) -> set[str]:
    return {name for parameter in command.get_params(Context(command)) for name in parameter.opts} | {"--help", "-h"}


@cache
def told() -> list[str]:
    """Every command line that a help text, the README or a page of docs/ shows, once."""
    examples = [example for command in COMMANDS.values() for example in examples_of(command)]
    written = [line for file in TEXTS for line in lines_of(file.read_text(encoding="utf-8"))]
    return list(dict.fromkeys([*examples, *written]))


def parsed(words: list[str]):
    """The contexts of the commands that the words call, as Typer parsed them; nothing is carried out."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(application.Command, "invoke", lambda self, ctx: seen.append(ctx))
        done = CliRunner().invoke(app, words[1:], prog_name="harness")
    assert done.exit_code == 0, f"{shlex.join(words)}: {done.stderr}"
    return seen


def known(ctx) -> None:
    """Fails for a name in a parsed command that does not exist: a recipe, a setting, a sweep, a metric."""
    given = {name: value for name, value in ctx.params.items() if value}
    named = [value for key in ("recipe", "recipes", "a", "b", "as_") for value in _listed(given.get(key))]
    named = [name for name in named if not name.startswith(A_RUN_OF_ANOTHER_PACKAGE)]
    if ctx.info_name not in ("show",) or "recipes" in ctx.command_path:
        assert set(named) <= {*recipe_names(), "RECIPE"}, named
    for name in named if "set_" in given else ():
        document = load_recipe(name).document
        apply_overrides(document, given["set_"], baselines.load(document["method"]).Config.model_fields)
    if ctx.info_name == "sweep":
        sweeps.plan(given["name"], given["scale"])
    if "metrics" in given:
        metric_names.called(given["metrics"])
    if "features" in given:
        assert given["features"] in metric_names.FEATURE_NETWORKS
    if ctx.command_path == "harness compare":
        figures.named(given["figure"])
    for value in _listed(given.get("precision")):
        assert set(value.split(",")) <= {"fp32", "tf32", "bf16"}


def _listed(value) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])


def test_every_command_shows_two_examples_or_more_and_says_what_it_and_its_parameters_do():
    for path, command in COMMANDS.items():
        own = [e for e in examples_of(command) if f"{shlex.join(words_of(e))} ".startswith(f"{path} ")]
        assert len(own) >= 2, path
        assert command.help.split("\n\n")[0].endswith("."), path
        for parameter in command.params:
            assert parameter.help, f"{path} {parameter.name}"
            value = parameter.metavar or ""
            assert value == value.upper() or "." in value, f"{path} {parameter.name} takes {value}"


def test_switches_are_understood_by_every_command():
    for path, command in COMMANDS.items():
        assert options_of(command) >= {"-q", "--quiet", "--debug", "--no-settings"}, path


def test_help_shows_brackets_and_examples_as_they_are_typed():
    said = answer("config", "show", "--help", columns=100)
    assert "[run] or [data.encode]" in said
    assert "\n harness config show --all " in said


def test_every_command_line_that_is_shown_anywhere_parses_and_names_what_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(told()) > 60
    for line in told():
        words = [word for word in words_of(line) if word != "..."]
        if set(words) & {"--help", "-h", "--version", "--install-completion", "--show-completion"}:
            continue  # run below
        for ctx in parsed(words):
            known(ctx)


def test_options_named_in_running_text_exist():
    """`harness run --config` in a sentence: the command and its options."""
    for file in TEXTS:
        for said in re.findall(r"`harness ([^`\n]+)`", file.read_text(encoding="utf-8")):
            words = [word for word in said.split() if word != "COMMAND"]
            names = [word for word in words if not word.startswith("-")]
            path = next((p for n in (2, 1) if (p := " ".join(["harness", *names[:n]])) in COMMANDS), "")
            whole = {"--version", "--help", "-h", "--install-completion", "--show-completion"}
            options = options_of(COMMANDS[path]) if path else whole
            unknown = {word.partition("=")[0] for word in words if word.startswith("--")} - options
            assert not unknown, f"{file.name}: `harness {said}` has no {unknown}"
            group = " ".join(["harness", *names[:1]]) in GROUPS
            assert path or group or not names or said.startswith("COMMAND"), f"{file.name}: `harness {said}`"


def runnable(words: list[str]) -> list[str] | None:
    """The words of a command line that needs nothing but this checkout, made small; None of another."""
    called = " ".join(words[1:3])
    if "minsnr" in " ".join(words):
        return None
    if set(words) & {"--help", "-h", "--version"}:
        return words[1:]
    if called.startswith("run ") and "--config" not in words and ("--dry-run" in words or "-tiny" in called):
        return words[1:] if "--dry-run" in words else [*words[1:], *SMALL]
    if called in LOOKUPS or (words[1] == "sweep" and "--dry-run" in words):
        return words[1:]
    return None


@pytest.mark.slow
def test_what_is_shown_and_needs_nothing_else_really_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    (tmp_path / "runs").mkdir()
    (tmp_path / "reports").symlink_to(ROOT / "reports")
    ran = {}
    for line in told():
        arguments = runnable(words_of(line))
        what = tuple(arguments or ())[: 2 if arguments and "4" in arguments else None]  # a recipe is trained once
        if arguments and what not in ran:
            done = CliRunner().invoke(app, arguments, prog_name="harness")
            ran[what] = done.exit_code
            assert done.exit_code == 0, f"{line}: {done.stderr}"
            assert done.stdout.strip(), line
    assert len(ran) > 15
    assert {arguments[0] for arguments in ran} >= {"run", "recipes", "published", "runs", "config", "sweep"}
