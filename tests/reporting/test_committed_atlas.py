"""reports/atlas holds what `harness published atlas` and `gaps` write today; the picture shows what the CSV holds."""

import csv
import re
import shlex
from pathlib import Path

import command_line
import pytest
from command_line import too_wide
from matplotlib.text import Text

from harness.papers.atlas import atlas
from harness.reporting.figures.atlas import make

COMMITTED = Path(__file__).parents[2] / "reports" / "atlas"
README = (COMMITTED / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    harness (published .*) --out reports/atlas$", README, re.MULTILINE)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What the commands of the README write."""
    out = tmp_path_factory.mktemp("atlas")
    for command in COMMANDS:
        command_line.answer(*shlex.split(command), "--out", str(out))
    return out


def test_the_folder_is_what_its_commands_write_today(written):
    names = {path.name for path in written.iterdir() if path.suffix != ".svg"}
    assert names == {path.name for path in COMMITTED.iterdir() if path.suffix != ".svg"} - {"README.md"}
    for name in sorted(names):
        if not name.endswith(".png"):  # other versions of the fonts' library draw other pixels
            assert (written / name).read_bytes() == (COMMITTED / name).read_bytes(), name


def test_the_pages_tables_are_those_that_the_commands_write_today(written):
    for name in ("sit-b-2", "dit-xl-2", "gaps"):
        assert (written / f"{name}.md").read_text().partition("\n\n")[2].strip() in README, name


def test_the_words_of_the_page_agree_with_the_numbers():
    (sit,) = atlas("sit", "b").trainings
    (dit,) = atlas("dit", "xl", steps=400_000).trainings
    (small,) = atlas("dit", "b", patch=4).trainings
    words = " ".join(README.split())
    assert f"five published trainings (n = 5) between 33.0 and 42.28, {sit.spread.relative:.1%} apart" in words
    assert sit.spread.trainings == 5
    assert f"(n = {sit.groups[0].spread.trainings}, {sit.groups[0].spread.relative:.1%})" in words
    assert f"(n = {dit.spread.trainings}, {dit.spread.relative:.1%})" in words
    assert f"Three trainings of DiT-B/4 lie {small.spread.relative:.1%} apart (n = {small.spread.trainings})" in words


def test_every_number_of_a_drawn_training_is_a_point_with_its_value_and_its_printer():
    drawing = make(atlas("sit", "b"))
    shown = {text.get_text() for text in drawing.figure.findobj(Text)}
    with (COMMITTED / "sit-b-2.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 11
    for row in rows:
        second_hand = "*" if row["quality"] == "second hand" else ""
        assert {row["printed"] + second_hand, row["printed by"]} <= shown
    (axes,) = drawing.figure.axes
    assert len(axes.lines) == len(rows)
    assert sum(line.get_markerfacecolor() == "white" for line in axes.lines) == 2  # the quotes


def test_what_is_not_drawn_is_said():
    drawing = make(atlas("repa", "xl"))
    (said,) = [note for note in drawing.notes if "in the CSV" in note]
    assert said == "Not drawn but in the CSV: 3 more trainings. Choose with --steps."
    assert len({row["training"] for row in drawing.rows}) > len(drawing.figure.axes)


@pytest.mark.parametrize("columns", [40, 80])
@pytest.mark.parametrize("command", [["atlas", "--method", "sit", "--size", "b"], ["gaps"]])
def test_the_answer_fits_the_terminal(command, columns):
    assert not too_wide(command_line.answer("published", *command, columns=columns), columns)


def test_the_answer_says_who_printed_each_number_the_spread_and_what_is_second_hand():
    text = command_line.answer("published", "atlas", "--method", "dit", "--size", "xl", "--steps", "400k", columns=120)
    assert "DDPM 250 steps: n = 2, 18.1 to 19.47 (7.6%)" in text
    assert re.search(r"19\.5 +REPA +quoted, not counted", text)
    text = command_line.answer("published", "atlas", "--method", "sit", "--size", "b", columns=120)
    assert re.search(r"42\.28\* +Contrastive FM", text)
    assert "over all protocols: n = 5, 33 to 42.28 (28.1%)" in text
