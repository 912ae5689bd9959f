"""Commands on real pseudo-terminals: narrow ones, dumb ones, without colours, and where nobody watches."""

import pytest
import terminal
from command_line import flowing, too_wide
from run_folders import write_run

PROGRESS = """
import sys, time
from harness.cli.app.answer import progress_for, state
state.quiet = "quiet" in sys.argv
progress = progress_for("sddit-tiny")
progress.stage("training", 20, "steps")
for step in (10, 20):
    progress.metrics({"step": step, "loss": 0.25, "steps_per_sec": 12.5})
progress.note("a note that is so long that no narrow terminal has room for it in one of its lines")
progress.stage("drawing images", 50)
progress.advance(50)
progress.close()
"""
SWEEP = """
from pathlib import Path
from harness.cli.sweep import _watching
from harness.runs.sweep import Outcome, Task
todo = [Task(f"SD-DiT with a mask ratio of 0.{i}", "sddit-tiny", 0, (), (), 600, 0, Path("none")) for i in range(3)]
with _watching(todo) as watcher:
    watcher(todo[0], Outcome("begun", 100))
    watcher(todo[0], Outcome("finished", 600, "fd-digits@1k", 1.25, 10.0))
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with two finished runs below runs/."""
    for seed in (0, 1):
        write_run(tmp_path / "runs", method="sddit", seed=seed)
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ["runs", "list"],
        ["recipes", "list"],
        ["published", "list", "--figure", "3"],
        ["config", "show", "--all", "--origin"],
        ["run", "--help"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_answers_fit_the_terminal_and_hold_no_escape_sequence_but_those_of_help(arguments, folder):
    columns = 40
    shown = terminal.run(*arguments, cwd=folder, columns=columns)
    assert shown.exit_code == 0
    assert len(shown.lines) > 5
    assert not too_wide("\n".join(shown.lines), columns)
    assert ("\x1b" in shown.raw) == (arguments[-1] == "--help")
    assert "\x1b" not in terminal.COLOUR.sub("", shown.raw)


def test_columns_goes_before_the_terminal_s_own_width(folder):
    lines = terminal.run("run", "--help", cwd=folder, columns=80, COLUMNS="50").lines
    assert 40 < max(map(len, lines)) <= 50


def test_help_has_no_escape_sequence_on_a_dumb_terminal(folder):
    assert "\x1b" not in terminal.run("--help", cwd=folder, TERM="dumb").raw


@pytest.mark.parametrize(
    ("columns", "environment", "drawn", "coloured"),
    [
        (80, {}, True, True),
        (80, {"NO_COLOR": "1"}, True, False),
        (80, {"TERM": "dumb"}, False, False),
        (80, {"CI": "true"}, False, False),
        (40, {}, False, False),
        (80, {"COLUMNS": "40"}, False, False),
    ],
    ids=["terminal", "NO_COLOR", "dumb", "CI", "narrow", "COLUMNS"],
)
def test_progress_is_a_bar_where_one_can_be_drawn_and_plain_lines_elsewhere(
    columns, environment, drawn, coloured, tmp_path
):
    shown = terminal.run(cwd=tmp_path, columns=columns, program=("-c", PROGRESS), **environment)
    assert shown.exit_code == 0
    assert ("\x1b" in shown.raw) == drawn
    assert bool([code for code in terminal.COLOUR.findall(shown.raw) if code != "\x1b[0m"]) == coloured
    assert "loss 0.25, 12.5 steps/s" in " ".join(shown.lines)
    if drawn:
        assert max(map(len, shown.lines)) <= columns
        assert shown.raw.rstrip().endswith("\x1b[?25h")  # the cursor is there again
    else:
        assert "sddit-tiny: step 20 of 20" in " ".join(shown.lines)


def test_quiet_shows_no_progress_on_a_terminal(tmp_path):
    assert terminal.run("quiet", cwd=tmp_path, program=("-c", PROGRESS)).raw == ""


def test_an_error_is_broken_between_words_on_a_terminal_and_one_line_elsewhere(folder):
    shown = terminal.run("run", "dit-tiny", "--stesp", "3", cwd=folder, columns=40, stdout=False)
    assert shown.exit_code == 2
    assert len(shown.lines) > 2
    assert max(map(len, shown.lines)) <= 40
    said = flowing(" ".join(shown.lines))
    assert said.startswith("error: harness run has no option --stesp. Did you mean --steps")
    wide = terminal.run("run", "dit-tiny", "--stesp", "3", cwd=folder, columns=200, stdout=False)
    assert flowing(" ".join(wide.lines)) == said


def test_the_table_of_a_sweep_fits_a_narrow_terminal_and_ends_with_the_cursor_shown(tmp_path):
    shown = terminal.run(cwd=tmp_path, columns=40, program=("-c", SWEEP))
    assert shown.exit_code == 0, shown.raw
    assert max(map(len, shown.lines)) <= 40
    assert "finished" in shown.raw
    assert shown.raw.rstrip().endswith("\x1b[?25h")


@pytest.mark.slow
def test_a_run_and_its_report_fit_a_terminal_of_40_columns(tmp_path):
    small = ["width=16", "depth=3", "num_heads=2", "batch_size=8", "num_images=50", "sampling.num_steps=3"]
    settings = [part for one in [*small, "untrained=false"] for part in ("--set", one)]
    shown = terminal.run("run", "dit-tiny", "--steps", "6", *settings, cwd=tmp_path, columns=40)
    assert shown.exit_code == 0
    assert "\x1b" not in shown.raw
    answer = shown.lines[next(i for i, line in enumerate(shown.lines) if "seed 0, 6 steps" in line) :]
    assert max(map(len, answer)) <= 40
    report = terminal.run("report", "--out", "out", "--format", "md", cwd=tmp_path, columns=40)
    assert report.exit_code == 0
    assert max(map(len, report.lines)) <= 40
    assert "\x1b" not in report.raw


def test_a_path_that_is_an_answer_stays_in_one_line_on_a_narrow_terminal(tmp_path):
    path = "runs/sddit-tiny/seed0-0123456789/samples/step1000-heun18-n16-seed0-abcdef/a name with spaces.png"
    code = (
        "import pathlib; from harness.cli.app import answer; "
        f"answer.show({{}}, False, lambda _: [pathlib.Path({path!r})])"
    )
    assert path in terminal.run(cwd=tmp_path, columns=40, program=("-c", code)).lines
