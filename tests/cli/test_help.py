"""What help texts, README.md and docs/ tell a user to type: it parses, and what needs nothing more, runs."""

import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

import baselines
from harness.cli import app, reference
from harness.cli.app import application, help_text
from harness.papers import sweeps
from harness.recipes import metric_names
from harness.recipes.config import apply_overrides
from harness.recipes.reading import load_recipe, recipe_names
from harness.reporting import figures

ROOT = Path(__file__).parents[2]
TEXTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
TEXTS.remove(ROOT / "docs" / "cli.md")  # made of the help texts, whose examples are read from themselves
PAGES = {page.path: page for page in reference.pages()}
COMMANDS = {path: page for path, page in PAGES.items() if not page.commands}
SMALL = [
    *("--steps", "4", "--no-eval", "--set", "width=16", "--set", "depth=3", "--set", "num_heads=2"),
    *("--set", "batch_size=8"),
]  # fmt: skip
LOOKUPS = ("recipes list", "recipes show", "recipes diff", "published list", "runs list", "config show")
A_RUN_OF_ANOTHER_PACKAGE = "tread-"  # the example of docs/fifth-method.md, which is not installed


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


@cache
def told() -> list[str]:
    """Every command line that a help text, the README or a page of docs/ shows, once."""
    examples = [example for page in PAGES.values() for example in page.examples]
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


def test_every_command_shows_two_examples_or_more_and_says_what_it_does():
    for path, page in COMMANDS.items():
        own = [example for example in page.examples if f"{shlex.join(words_of(example))} ".startswith(f"{path} ")]
        assert len(own) >= 2, path
        assert page.summary.endswith("."), path


def test_every_option_and_argument_has_a_help_and_a_readable_value():
    for path, page in PAGES.items():
        for item in [*page.arguments, *(item for _, items in page.options for item in items)]:
            assert item.help, f"{path} {item.names}"
            assert item.value == item.value.upper() or "." in item.value, f"{path} {item.names} takes {item.value}"


@pytest.mark.parametrize("width", [80, 60, 40])
def test_no_help_is_wider_than_the_terminal_and_short_options_work_everywhere(width):
    for path, page in PAGES.items():
        lines = help_text.lines(page, width)
        unbroken = [line for line in lines if len(line) > width and len(line.split()) > 1 + line.endswith("\\")]
        assert not unbroken, f"{path}: {unbroken}"  # one word may be longer than a line: a path, a file's name
        if width == 80:
            assert max(map(len, lines)) <= 80, path
            everywhere = {name for item in page.options[-1][1] for name in item.names}
            assert everywhere >= {"-h", "--help", "-q", "--quiet", "--debug", "--no-settings"}, path


def test_an_example_that_is_folded_is_still_the_same_command():
    for page in COMMANDS.values():
        for example in page.examples:
            folded = help_text.lines(page._replace(examples=(example,)), 40)
            start = folded.index("Examples:") + 1
            pasted = re.sub(r"\\\n", " ", "\n".join(folded[start:]).split("\n\n")[0])
            assert shlex.split(pasted) == shlex.split(example)


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
            path = next((p for n in (2, 1, 0) if (p := " ".join(["harness", *names[:n]])) in PAGES), "")
            options = {name for _, items in PAGES[path].options for item in items for name in item.names}
            unknown = {word.partition("=")[0] for word in words if word.startswith("--")} - options
            assert not unknown, f"{file.name}: `harness {said}` has no {unknown}"
            assert path != "harness" or not names or said.startswith("COMMAND"), f"{file.name}: `harness {said}`"


def runnable(words: list[str]) -> list[str] | None:
    """The words of a command line that needs nothing but this checkout, made small; None of another."""
    called = " ".join(words[1:3])
    if "tread" in " ".join(words):
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
