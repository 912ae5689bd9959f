"""Strings of a run's records stay text in every page, table and picture that shows them."""

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from examples import tries
from hostile_values import TEXTS
from hypothesis import given
from hypothesis import strategies as st
from run_folders import XEON, write_run

from harness.reporting import report
from harness.reporting.pages.render import environment
from harness.reporting.tables.table import Table, escape_latex, frame_of

MARK = "<script>alert(1)</script>'\"><img src=x onerror=alert(2)>=cmd|' /C calc'!A0[x](javascript:alert(3))$\\frac{"
pytestmark = pytest.mark.filterwarnings("ignore:Glyph")  # a letter that no font has is drawn as a box
FREE = {  # texts of records that no check compares with another
    "command", "platform", "git_commit", "python", "features", "reference", "harness_version", "torch", "numpy", "name",
    "input_patches",
}  # fmt: skip
FORMULAS = ("=", "+", "-", "@", "\t", "\r")


class Tags(HTMLParser):
    """Elements and attributes of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A report of runs whose every free text is hostile."""
    root = tmp_path_factory.mktemp("hostile-text")
    device = XEON.model_copy(update={"name": MARK, "driver": MARK})
    for method in ("dit", "sddit"):
        run = write_run(root / "runs", method, device=device, protocol={"data": MARK}, milestones={300: 7.0})
        for name in ("manifest.json", "result.json"):
            document = json.loads((run / name).read_text())
            document.pop("sha256", None)
            spoil(document)
            (run / name).write_text(json.dumps(document))
    report.write([root / "runs"], root / "report", records=True)
    return root / "report"


def spoil(document: dict) -> None:
    """Put the mark into every free text."""
    for key, value in document.items():
        if isinstance(value, dict):
            spoil(value)
        elif isinstance(value, str) and key in FREE:
            document[key] = value if value in ("final", "untrained") else MARK
        elif isinstance(value, list) and key == "notes":
            document[key] = [MARK]


def test_the_page_has_no_element_or_address_that_came_from_a_record(written):
    page = (written / "report.html").read_text(encoding="utf-8")
    assert "alert(1)" in page  # it is shown
    for tag, attributes in Tags(page).found:
        assert tag != "img" or attributes.get("src") != "x"
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert not str(attributes.get("href", "")).lower().startswith("javascript:")
    assert "<script>alert" not in page
    assert "\x1b" not in page


def test_markdown_has_no_markup_that_came_from_a_record(written):
    for path in written.rglob("*.md"):
        told = path.read_text(encoding="utf-8")
        assert not re.search(r"(?<!\\)<(script|img)", told), path
        assert not re.search(r"(?<!\\)\]\(javascript:", told), path
        assert "\x1b" not in told


def test_pictures_have_no_element_that_came_from_a_record(written):
    pictures = list(written.rglob("*.svg"))
    assert pictures
    for path in pictures:
        for tag, attributes in Tags(path.read_text(encoding="utf-8")).found:
            assert tag not in ("script", "img", "foreignobject"), path
            assert not any(name.startswith("on") for name in attributes), path


def test_latex_has_no_command_that_came_from_a_record(written):
    for path in written.rglob("*.tex"):
        assert "\\frac{" not in path.read_text(encoding="utf-8"), path


def test_no_cell_of_a_table_is_a_formula_to_a_spreadsheet(written):
    """A text that would be computed gets an apostrophe in front; numbers stay numbers."""
    for path in written.rglob("*.csv"):
        for row in csv.reader(path.read_text(encoding="utf-8").splitlines()):
            for cell in row:
                number = re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?|-inf", cell)
                assert number or not cell.startswith(FORMULAS), (path, cell)


hostile = st.sampled_from([*TEXTS, MARK]) | st.text(max_size=40)


@tries("any text as a table's title and cell", short=40, long=4_000)
@given(hostile, hostile)
def test_any_text_is_only_text_in_every_form_of_a_table(title, cell):
    title, cell = (each.encode(errors="replace").decode() for each in (title, cell))
    table = Table("x", title, frame_of([{"name": cell, "n": 1}]), cell)
    (row,) = list(csv.reader(io.StringIO(table.csv(), newline="")))[1:]  # splitlines would split at \x85 too
    assert not row[0].startswith(("=", "@"))
    assert not re.search(r"(?<!\\)<\w", table.markdown())
    assert table.latex().count(r"\begin{") == table.latex().count(r"\end{")
    assert not re.search(r"(?<!\\)[%#&_$]", re.sub(r"\\\$|\$\\?\w*-?\+?\$", "", escape_latex(cell)))
    shown = environment("html").from_string('<p title="{{ title }}">{{ cell }}</p>')
    assert [tag for tag, _ in Tags(shown.render(title=title, cell=cell)).found] == ["p"]
