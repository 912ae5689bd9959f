"""The report's two templates: what they show, and that hostile text stays text in both."""

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise

import pytest
from markdown_it import MarkdownIt
from sample_document import HOSTILE, JUDGEMENTS, hostile, judgement, sample, table

from harness.reporting.pages.render import place, render
from harness.system.errors import DataError, one_line

VOID = {"meta", "br", "img"}


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the letters that a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.declarations: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"<{tag}> names an attribute twice"
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> ends another element"

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data

    def handle_comment(self, data):
        self.declarations.append(data)

    def handle_decl(self, decl):
        self.declarations.append(decl)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def html(context: dict) -> str:
    return render("report.html.j2", context)


def markdown(context: dict) -> str:
    return render("report.md.j2", context)


def tokens(text: str) -> list:
    """Every token of the Markdown, as a renderer of GitHub's dialect reads it, those within lines included."""
    found = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    return [token for outer in found for token in (outer, *(outer.children or []))]


@pytest.fixture(scope="module")
def context(tmp_path_factory) -> dict:
    return sample(tmp_path_factory.mktemp("figures"))


@pytest.fixture(scope="module")
def made(context) -> Elements:
    return Elements(html(context))


# Both forms ------------------------------------------------------------------------------------------------------


def test_the_page_points_nowhere_outside_and_its_policy_lets_nothing_be_loaded(made):
    (policy,) = [m["content"] for m in made.named("meta") if m.get("http-equiv")]
    assert dict(rule.strip().split(" ", 1) for rule in policy.split(";")) == {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "script-src": "'unsafe-inline'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert len(made.named("script")) == len(made.named("style")) == 1
    for tag, attributes in made.found:
        assert not {"srcset", "action", "style", "ping"} & attributes.keys(), tag
        assert attributes.get("href", "#").startswith("#")
        assert attributes.get("src", "data:image/svg+xml;base64,").startswith("data:image/svg+xml;base64,")
    assert not re.search(r"@import|url\(", (files("harness.reporting.pages") / "page.css").read_text())


def test_names_are_unique_and_every_link_leads_to_one(made):
    names = Counter(attributes["id"] for _, attributes in made.found if "id" in attributes)
    assert names.most_common(1)[0][1] == 1
    links = [attributes["href"][1:] for attributes in made.named("a")]
    assert set(links) <= names.keys()
    assert links[:11] == [
        "content", "summary", "claims", "figures", "figure4", "figure5",
        "tables", "table-table1", "table-runs", "deviations", "left-out",
    ]  # fmt: skip


def test_hostile_text_stays_text_in_the_page(tmp_path):
    """Elements and attributes are those of the same page with harmless words, and the letters are all there."""
    found, harmless = Elements(html(hostile(tmp_path))), Elements(html(hostile(tmp_path, "harmless")))
    assert [tag for tag, _ in found.found] == [tag for tag, _ in harmless.found]
    assert not [name for _, attributes in found.found for name in attributes if name.startswith("on")]
    assert found.declarations == ["DOCTYPE html"]
    assert found.text.count("<script>alert(1)</script>") == harmless.text.count("harmless") >= 20
    assert one_line(HOSTILE) in found.text


def test_hostile_text_becomes_no_markup_in_markdown(tmp_path):
    """What is markup in the hostile report is what is markup in the harmless one, and all letters are there."""
    found, harmless = (tokens(markdown(hostile(tmp_path, word))) for word in (HOSTILE, "harmless"))
    ignored = ("text", "softbreak")
    assert [t.type for t in found if t.type not in ignored] == [t.type for t in harmless if t.type not in ignored]
    assert [t.attrs.get("href") or t.attrs.get("src") for t in found if t.type in ("link_open", "image")] == [
        "figure4.png",
        "figure4.csv",
    ]
    blocks = [t.content.strip() for t in found if t.type in ("html_block", "html_inline")]
    assert all(re.fullmatch(r"<details><summary>[^<>]*</summary>|</details>", part) for part in blocks)
    assert "<script>alert(1)</script>" in "".join(t.content for t in found if t.type == "text")


@pytest.mark.parametrize("form", [html, markdown])
def test_characters_that_cannot_be_seen_are_left_out(form, tmp_path):
    text = form(hostile(tmp_path, "a\u202eb\x00c\ud800d\x1be"))
    assert "a b c d e" in text
    assert not {"\u202e", "\x00", "\ud800", "\x1b"} & set(text)


@pytest.mark.parametrize("text", ["1. first", "- item", "# heading", "+ item", "> quote", "---", "===", "***", "| a |"])
def test_a_note_stays_a_line_of_its_list_whatever_it_begins_with(text, context):
    noted = context | {"figures": [context["figures"][0] | {"notes": [text]}]}
    found = tokens(markdown(noted).split("## Figures")[1].split("## Tables")[0])
    assert [token.type for token in found].count("list_item_open") == 1
    assert text in [token.content for token in found if token.type == "text"]


@pytest.mark.parametrize("text", ["`", "a ` b", "`a", "``` a", "<b>", "\\", "|"])
def test_code_is_shown_letter_for_letter(text, context):
    found = replace(JUDGEMENTS[0], to_test=text)
    shown = markdown(context | {"judgements": (found,)}).split("To test it")[1]
    assert text in [token.content for token in tokens(shown) if token.type == "code_inline"]


def test_a_command_that_a_note_names_is_code_and_other_backticks_are_letters(context):
    assert r"See `harness sweep figure3`, or \`\<b\>\`." in markdown(context)
    assert "See <code>harness sweep figure3</code>, or `&lt;b&gt;`." in html(context)


@pytest.mark.parametrize("form", [html, markdown])
def test_a_long_table_is_shown_on_demand_and_one_without_rows_says_so(form, context):
    def of(rows: int) -> str:
        text = form(context | {"sections": {"S": [table(rows=rows)]}})
        return text[text.rindex(">S<" if form is html else "## S") :]

    assert "<summary>Show all 31 rows</summary>" in of(31)
    assert "<summary>" not in of(30)
    assert "None." in form(context).rpartition("Left out")[2]


# The page --------------------------------------------------------------------------------------------------------


def test_headings_have_no_gap_and_the_page_says_its_language_and_that_it_fits_a_phone(made, context):
    levels = [int(tag[1]) for tag, _ in made.found if re.fullmatch(r"h\d", tag)]
    assert (levels[0], levels.count(1)) == (1, 1)
    assert all(below <= above + 1 for above, below in pairwise(levels))
    assert made.named("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in made.named("meta")
    assert "<title>Paper against measured</title>" in html(context)


def test_a_figure_has_a_text_for_those_who_cannot_see_it_and_its_numbers_as_a_table(made, context):
    picture = made.named("img")[0]
    assert picture["alt"] == "Fig. 4: convergence. Distance: Fig. 4: convergence"
    assert "Of Fig. 4: convergence." in made.text
    assert '<td class="n">9.1</td>' in html(context)


def test_a_picture_that_is_not_there_is_named(context, tmp_path):
    with pytest.raises(DataError, match=r"cannot read the figure .*figure4\.svg.*Draw it again"):
        html(context | {"folder": tmp_path})


def test_every_verdict_has_a_word_beside_its_sign_and_a_claim_is_stated_once(made, context):
    for verdict, kind in (("reproduced", "yes"), ("not reproduced", "no"), ("inconclusive", "open")):
        assert re.search(
            rf'<span class="badge {kind}"><span aria-hidden="true">.</span> {verdict}</span>', html(context)
        )
    assert made.text.count("At equal steps SD-DiT has a lower FID than DiT.") == 1  # two settings, one claim
    assert "SD-DiT 0.443 x DiT" in JUDGEMENTS[0].effect
    assert JUDGEMENTS[0].effect in made.text
    assert "n = 3; seeds 0, 1, 2" in made.text
    order = [made.text.index(part) for part in ("Masking lowers the FID.", "1 claim not tested", "At size B too")]
    assert order == sorted(order)


@pytest.mark.parametrize(("number", "drawn"), [(1, 1), (3, 3), (4, 1)])
def test_as_many_ratios_are_drawn_as_the_effect_spells_out(number, drawn, tmp_path):
    one = judgement("x", "y", (0.4, 0.5, 0.45))
    several = replace(one, comparisons=one.comparisons * number)
    several = replace(several, comparisons=tuple(map(replace, several.comparisons)))
    several = replace(several, decisive=several.comparisons[0])
    assert html(sample(tmp_path, judgements=(several,))).count('class="ratio"') == drawn


def test_a_ratio_is_drawn_with_its_interval_and_the_papers(context):
    drawn = re.findall(r'<svg viewBox="-3 0 106 17".*?</svg>', html(context), re.DOTALL)
    assert ['class="bar"' in one for one in drawn] == [True, False, True]  # n = 3, 1, 3
    assert ['class="paper"' in one for one in drawn] == [True, True, False]
    places = [float(x) for one in drawn for x in re.findall(r'cx="([\d.]+)"', one)]
    assert places[0] < places[1] < 50 < places[2]


def test_a_ratio_beyond_the_axis_lies_at_its_end():
    assert [place(ratio) for ratio in (1e6, 8, 1, 1 / 8, 1e-9, 0.0)] == ["100.0", "100.0", "50.0", "0.0", "0.0", "0.0"]


@pytest.mark.parametrize("form", [html, markdown])
def test_of_very_many_runs_a_verdict_names_the_first_and_counts_the_others(form, tmp_path):
    many = judgement("x", "y", tuple(0.5 + i / 1000 for i in range(100)))
    text = form(sample(tmp_path, judgements=(many,)))
    assert text.count("sddit-tiny/seed") == 40
    assert "and 60 more" in text


# Markdown --------------------------------------------------------------------------------------------------------


def test_the_markdown_has_the_headings_in_order_and_names_the_files_of_a_figure(context):
    text = markdown(context)
    assert re.findall(r"^(#+) (.*)$", text, re.MULTILINE) == [
        ("#", "Paper against measured"),
        ("##", "Summary"),
        ("##", "Claims"),
        ("##", "Figures"),
        ("###", "Fig. 4: convergence"),
        ("###", "Fig. 5: mask ratio"),
        ("##", "Tables"),
        ("###", "Table 1"),
        ("###", "All runs"),
        ("##", "Deviations"),
        ("##", "Left out"),
    ]
    assert "![Distance: Fig. 4: convergence](figure4.png)" in text
    assert "[CSV](figure4.csv)" in text
    assert [t.type for t in tokens(text)].count("table_open") == 4  # verdicts and those of the sections


def test_a_verdict_says_its_word_its_effect_its_n_and_what_it_rests_on(context):
    text = markdown(context)
    assert "1 ✓ reproduced · 1 ✗ not reproduced · 1 ≈ inconclusive · 1 – not tested\n" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| ✓ reproduced")]
    assert "demo: digits, size tiny, fp32, cached, 600 steps, batch 64" in line
    assert line.endswith(f"| {JUDGEMENTS[0].effect} | 3 |")
    assert "Of the demo. Seeds 0, 1, 2. Runs: `sddit-tiny/seed0-0123456789`" in text
    assert "Not measured: no runs of both SD-DiT and DiT. To test it: `harness sweep figure3" in text
