import csv
import html
import math
import re
import string
from io import StringIO

import pytest
from markdown_it import MarkdownIt

from harness.reporting.tables.table import (
    LATEX,
    NOTHING,
    Table,
    escape,
    escape_latex,
    frame_of,
    number,
    shown,
    with_spread,
    write,
)
from harness.system.errors import DataError, one_line

HOSTILE = [
    "<script>alert(1)</script>",
    "a | b",
    "[click](http://evil.example) ![x](y)",
    "https://evil.example and www.evil.example",
    "`code` **bold** _it_ ~~gone~~ $x^2$",
    "&lt;b&gt; & AT&T &#60;",
    "line one\n\n# heading\r\n- item",
    "back\\slash \\| \\",
    "\u202egnp.exe\x00\x1b[31m",
    "=HYPERLINK('http://evil.example')",
    r"\input{/etc/passwd} \\[1cm] % $ # _ { } ~ ^",
    "--- ''' ,, \"quoted\"",
]


def table(rows, **more) -> Table:
    return Table("test", "A title", frame_of(rows), **more)


def rendered(text: str) -> str:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(text, newline="")))


# Numbers ---------------------------------------------------------------------------------------------------------


def test_large_and_small_numbers_keep_their_digits():
    numbers = (400_000, 0.0001234, 68.40, 7_000_000.0)
    assert [number(value) for value in numbers] == ["400,000", "0.0001234", "68.4", "7,000,000"]
    assert [shown(value) for value in (None, math.nan, True, "a\nb")] == [NOTHING, NOTHING, "yes", "a b"]


def test_a_mean_has_as_many_decimals_as_two_digits_of_its_deviation():
    pairs = ((12.3456, 0.567), (12.3456, 0.0996), (12.3456, 3.21), (1234.5, 56.7), (0.71, 0.0123), (1.5, 0.996))
    assert [with_spread(mean, sd) for mean, sd in pairs] == [
        "12.35 ± 0.57",
        "12.35 ± 0.10",
        "12.3 ± 3.2",
        "1,234 ± 57",
        "0.710 ± 0.012",
        "1.5 ± 1.0",
    ]
    assert with_spread(1.2345, 0.0) == "1.234 ± 0"


def test_a_difference_shows_its_sign_and_never_a_negative_zero():
    assert [shown(d, form="+z,.2f") for d in (1234.5, -1.234, -0.001)] == ["+1,234.50", "-1.23", "+0.00"]


def test_a_number_as_a_paper_prints_it_keeps_its_zeros():
    published = table([{"FID": "68.40"}, {"FID": "missing"}], formats={"FID": ".2f"})
    assert "68.40" in published.latex()
    assert read_csv(published.csv()) == [{"FID": "68.40"}, {"FID": "missing"}]
    assert "|     FID |" in published.markdown()  # to the right


def test_a_column_of_numbers_is_found_by_its_cells():
    mixed = table([{"Run": "b", "FD": 10.0, "n": None}, {"Run": "a", "FD": "missing", "n": None}, {"Run": None}])
    assert mixed.numeric == {"Run": False, "FD": True, "n": False}
    assert list(mixed.shown["FD"]) == ["10", "missing", NOTHING]


def test_a_spread_has_its_own_column_in_csv_and_stands_behind_the_mean_elsewhere():
    one = table([{"FD": 12.3456, "FD, SD": 0.567}, {"FD": 1.2345, "FD, SD": None}])
    assert read_csv(one.csv()) == [{"FD": "12.3456", "FD, SD": "0.567"}, {"FD": "1.2345", "FD, SD": ""}]
    assert list(one.shown.columns) == ["FD"]
    assert list(one.shown["FD"]) == ["12.35 ± 0.57", "1.234"]
    assert r"12.35 $\pm$ 0.57" in one.latex()


# Markdown --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_reads_in_markdown_as_it_is_and_makes_no_markup(text):
    page = rendered(table([{"Run": text, text: "x"}]).markdown())
    tags = set(re.findall(r"</?(\w+)", page))
    assert tags <= {"table", "thead", "tbody", "tr", "th", "td"}
    cells = [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", page, re.DOTALL)]
    assert cells == [one_line(text), "x"]


@pytest.mark.parametrize("text", [*HOSTILE, "# heading", "- item", "---", "===", "+ item", "1. first", "2) second"])
def test_hostile_text_is_a_plain_paragraph_below_a_heading(text, tmp_path):
    write([table([{"a": 1}], caption=text)], tmp_path)
    page = rendered((tmp_path / "test.md").read_text(encoding="utf-8"))
    assert page.startswith("<h1>A title</h1>\n<p>")
    assert html.unescape(page.split("<p>")[1].split("</p>")[0]) == one_line(text)
    assert "<a " not in page


def test_a_web_address_is_no_link_in_github_s_dialect():
    assert escape("https://evil.example") == r"https\://evil.example"
    assert escape("www.evil.example") == r"www\.evil.example"


def test_names_with_inner_underscores_stay_readable():
    assert escape("class_accuracy-digits@1k, seed0-9ac3/dit_tiny") == "class_accuracy-digits@1k, seed0-9ac3/dit_tiny"


# LaTeX -----------------------------------------------------------------------------------------------------------


def plain_of(latex: str) -> str:
    """What LaTeX shows: each escape read back, everything else as it stands. Fails on a character with a meaning."""
    meant = {code: chr(number) for number, code in LATEX.items()}
    pattern = re.compile("|".join(re.escape(code) for code in sorted(meant, key=len, reverse=True)) + "|(.)", re.DOTALL)

    def read(match: re.Match) -> str:
        letter = match[1]
        assert letter is None or letter not in r'\{}$&#_%~^<>|"`[]*', f"{letter!r} is bare in {latex!r}"
        return meant[match[0]] if letter is None else letter

    return pattern.sub(read, latex)


@pytest.mark.parametrize("text", [*HOSTILE, string.printable, "±×−–—≤≥≈→·μσ"])
def test_latex_shows_hostile_text_as_it_is(text):
    assert plain_of(escape_latex(text)) == one_line(text)


def test_characters_that_latex_has_no_font_for_are_named_by_their_number():
    assert escape_latex("Fréchet, Müller, e\u0301") == "Fréchet, Müller, é"
    assert escape_latex("扩 😀") == "U+6269 U+1F600"


@pytest.mark.parametrize("many", [1, 100])
def test_a_latex_table_is_balanced_whatever_stands_in_it(many):
    rows = [{"Run": text, "FD, 1e3 %": 1.5} for text in HOSTILE] * many
    text = table(rows, caption="50% & more_than_that").latex()
    kind = "longtable" if many > 1 else "tabular"
    assert text.count(r"\begin{") == text.count(r"\end{")
    assert rf"\begin{{{kind}}}" in text
    bare = re.sub(r"\\[\\{}$&#_%]", "", text)
    assert bare.count("{") == bare.count("}")
    depth = 0
    for letter in bare:
        depth += (letter == "{") - (letter == "}")
        assert depth >= 0
    assert re.findall(r".?%.?", bare) == ["% "] + ["{%"] * (many == 1)  # which packages it needs; the end of a line
    body = [line for line in text.splitlines() if re.sub(r"\\&", "", line).count("&") == 1]
    assert len(body) == len(rows) + (2 if many > 1 else 1)  # the heading is repeated on every page
    assert text.count("caption") == 1
    assert r"\label{tab:test}" in text
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule"))


def test_latex_sets_numbers_to_the_right_and_breaks_long_text():
    text = table([{"a": "short", "b": 1.5, "c": "a long reason " * 9}]).latex()
    assert r"{lrp{0.2\linewidth}}" in text


# CSV -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [*HOSTILE, 'say "x"', "a,b", ""])
def test_csv_gives_back_each_text_or_defuses_it(text):
    (row,) = read_csv(table([{"Run": text, "FD": 1.5}]).csv())
    assert row["Run"] in (text, f"'{text}")
    assert not row["Run"].lstrip().startswith(("=", "+", "-", "@"))
    assert row["FD"] == "1.5"


def test_csv_follows_rfc_4180_with_numbers_in_full():
    one = table(
        [{"Run": "a", "FD": 0.1 + 0.2, "SD": 1e-17, "Steps": 400_000, "Gone": None, "Less": -3.5}, {}],
        formats={"FD": ".1f"},
    )
    assert one.csv() == "Run,FD,SD,Steps,Gone,Less\r\na,0.30000000000000004,1e-17,400000,,-3.5\r\n,,,,,\r\n"


# Tables as a whole -----------------------------------------------------------------------------------------------


def test_an_empty_table_says_so():
    empty = Table("none", "Nothing", frame_of([], ("a", "b")))
    assert empty.markdown() == "None.\n"
    assert r"\toprule" in empty.latex()
    assert empty.csv() == "a,b\r\n"
    assert Table("none", "Nothing", frame_of([])).markdown() == "None.\n"


def test_a_cell_without_a_column_is_a_mistake_that_is_named():
    with pytest.raises(AssertionError, match="Sped"):
        frame_of([{"Sped": 1}], ("Speed",))


def test_each_table_is_written_as_markdown_latex_and_csv(tmp_path):
    one = table([{"Run": "ä", "FD": 1.5}], caption="Lower is better.")
    paths = write([one], tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["test.md", "test.tex", "test.csv"]
    assert paths[0].read_text(encoding="utf-8").startswith("# A title\n\nLower is better.\n\n| Run")
    assert paths[2].read_bytes() == "Run,FD\r\nä,1.5\r\n".encode()


def test_a_folder_that_cannot_be_written_is_named_with_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write to .*file.*--out"):
        write([table([{"a": 1}])], tmp_path / "file")
