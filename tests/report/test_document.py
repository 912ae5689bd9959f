import re
from dataclasses import replace

import pytest
import sample_document
from markdown_it import MarkdownIt
from sample_document import HOSTILE, JUDGEMENTS, drawing, hostile, judgement, sample, table

from harness.report.pages import markdown
from harness.report.pages.document import (
    MOST_NUMBERS,
    Bullets,
    Code,
    Details,
    Document,
    Emphasis,
    FigureBlock,
    Link,
    Paragraph,
    Section,
    Strong,
    TableBlock,
    Verdicts,
    anchor_of,
    headings,
    plain,
    with_code,
)

LIST = ("bullet_list_open", "bullet_list_close", "list_item_open", "list_item_close")


def tokens(text: str) -> list:
    """Every token of the Markdown, as a renderer of GitHub's dialect reads it, those within lines included."""
    found = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    return [token for outer in found for token in (outer, *(outer.children or []))]


def rendered(*blocks) -> str:
    """The Markdown of these blocks alone."""
    return markdown.render(Document("T", [Section("S", blocks)])).split("## S\n\n", 1)[1].rstrip("\n")


def words(text: str) -> str:
    return "".join(token.content for token in tokens(text) if token.type in ("text", "code_inline"))


# The document ----------------------------------------------------------------------------------------------------


def test_headings_of_one_title_get_anchors_of_their_own_and_a_heading_that_repeats_its_section_gets_none():
    blocks = [TableBlock(table(title="Runs")), TableBlock(table(title="Other")), TableBlock(table(title="Other"))]
    document = Document("Runs", [Section("Runs", blocks), Section("Runs!", [Details("d", [TableBlock(table())])])])
    assert [heading.anchor for heading in headings(document)] == ["runs-1", "other", "other-1", "runs-2", "table-1"]


def test_an_anchor_holds_no_letter_that_could_end_it():
    for heading in headings(hostile()):
        assert re.fullmatch(r"[\w-]+", heading.anchor)
    assert anchor_of("Fig. 3: speed, and 50%") == "fig-3-speed-and-50"
    assert anchor_of("<>") == "section"


def test_a_link_that_leads_nowhere_is_refused_wherever_it_stands():
    lost = ("See ", Link("it", "tabel-1"))
    for block in (Paragraph(lost), Bullets([lost]), Details("d", [Paragraph(lost)])):
        with pytest.raises(ValueError, match=r"tabel-1.*table-1"):
            Document("T", [Section("Table 1", [block])])
    with pytest.raises(ValueError, match="tabel-1"):
        Document("T", [], lead=lost)


def test_claims_are_told_once_and_every_verdict_is_counted():
    block = Verdicts(JUDGEMENTS)
    assert [[j.claim for j in claim] for claim in block.claims] == [["order", "order"], ["masking"], ["size-b"]]
    assert list(block.tally.items()) == [
        ("reproduced", 1),
        ("not reproduced", 1),
        ("inconclusive", 1),
        ("not tested", 1),
    ]


def test_of_very_many_numbers_a_figure_says_how_many_it_shows():
    many = replace(drawing(), rows=[{"step": i} for i in range(MOST_NUMBERS + 1)])
    block = FigureBlock(many)
    assert len(block.numbers.rows) == MOST_NUMBERS
    assert block.numbers_caption == "The first 400 of 401 rows; all of them are in figure4.csv."
    assert FigureBlock(drawing()).numbers_caption == ""


# Markdown --------------------------------------------------------------------------------------------------------


def test_the_same_document_gives_the_same_markdown():
    assert markdown.render(sample()) == markdown.render(sample())


def test_the_markdown_has_the_documents_headings_in_order():
    found = re.findall(r"^(#+) (.*)$", markdown.render(sample()), re.MULTILINE)
    assert found == [
        ("#", "Paper against measured"),
        ("##", "Summary"),
        ("##", "Figures"),
        ("###", "Fig. 4: convergence"),
        ("###", "Fig. 5: mask ratio"),
        ("##", "Tables"),
        ("###", "Table 1"),
        ("###", "All runs"),
        ("##", "Deviations"),
        ("###", "Table 1"),
    ]


def test_markdown_names_the_files_of_a_figure_and_describes_it():
    text = rendered(FigureBlock(drawing()))
    assert "![Distance against steps: Fig. 4: convergence](figure4.png)" in text
    assert "[SVG](figure4.svg)" in text
    assert "[CSV](figure4.csv)" in text
    assert "- Of Fig. 4: convergence." in text


def test_a_long_table_is_folded_and_a_short_one_is_not():
    folded = rendered(TableBlock(table(rows=31)))
    assert folded.index("<details><summary>Show all 31 rows</summary>") < folded.index("| Model")
    assert folded.endswith("\n\n</details>")
    assert "<details>" not in rendered(TableBlock(table(rows=30)))


def test_a_verdict_says_its_word_its_effect_its_n_and_what_it_rests_on():
    text = rendered(Verdicts(JUDGEMENTS))
    assert text.startswith("1 ✓ reproduced · 1 ✗ not reproduced · 1 ≈ inconclusive · 1 – not tested\n")
    line = next(line for line in text.splitlines() if "✓ reproduced" in line and line.startswith("|"))
    assert "demo: digits, size tiny, fp32, cached, 600 steps, batch 64" in line
    assert "SD-DiT 0.443 x DiT" in JUDGEMENTS[0].effect
    assert f"| {JUDGEMENTS[0].effect} |   3 |" in line
    assert "Of the demo. Seeds 0, 1, 2. Runs: `sddit-tiny/seed0-0123456789`" in text
    assert "Not measured: no seed with both SD-DiT and DiT. To test it: `harness sweep figure3" in text


def test_without_claims_the_verdicts_say_so():
    assert rendered(Verdicts(())) == "No claim was judged."


@pytest.mark.parametrize(
    "text",
    [
        "1. first",
        "2) second",
        "- item",
        "# heading",
        "+ item",
        "> quote",
        "---",
        "===",
        "    code",
        "***",
        "~~~",
        "| a |",
    ],
)
def test_a_paragraph_stays_a_paragraph_whatever_it_begins_with(text):
    noted = FigureBlock(replace(drawing(), notes=(text,)))
    assert [token.type for token in tokens(rendered(noted))].count("list_item_open") == 1
    for block in (Paragraph(text), Bullets([text])):
        kinds = {token.type for token in tokens(rendered(block))}
        assert kinds <= {"paragraph_open", "paragraph_close", "inline", "text", *LIST}
        assert words(rendered(block)) == text.strip()


def test_spaces_at_the_edge_of_a_part_are_kept_outside_of_its_mark():
    parts = ("a", Strong(" b "), Emphasis("c "), "d", Code(" e"), " ", "f")
    assert rendered(Paragraph(parts)) == "a **b** *c* d `e` f"


def test_a_link_behind_an_exclamation_mark_is_a_link():
    document = Document("T", [Section("S", [Paragraph(("Look!", Link("S", "s")))])])
    assert [token.attrs for token in tokens(markdown.render(document)) if token.attrs] == [{"href": "#s"}]


@pytest.mark.parametrize("text", ["`", "``", "a ` b", "`a", "a`", "``` a", "<b>", "\\", "a\nb", "|"])
def test_code_is_shown_letter_for_letter(text):
    (code,) = [
        token.content for token in tokens(rendered(Paragraph(("x ", Code(text))))) if token.type == "code_inline"
    ]
    assert code == text.replace("\n", " ")


def test_hostile_text_becomes_no_markup_in_markdown():
    """What is markup in the hostile document is what is markup in the harmless one, and all letters are there."""
    told, harmless = tokens(markdown.render(hostile())), tokens(markdown.render(hostile("harmless")))
    ignored = ("text", "softbreak")
    assert [t.type for t in told if t.type not in ignored] == [t.type for t in harmless if t.type not in ignored]
    assert [t.attrs for t in told if t.type in ("link_open", "image")] == [
        t.attrs | ({"alt": ""} if t.type == "image" else {}) for t in harmless if t.type in ("link_open", "image")
    ]
    html = [t.content.strip() for t in told if t.type in ("html_block", "html_inline")]
    assert all(re.fullmatch(r"<details><summary>[^<>]*</summary>|</details>", part) for part in html)
    assert "<script>alert(1)</script>" in words(markdown.render(hostile()))


def test_of_a_hostile_name_nothing_reaches_the_path_of_a_figure():
    text = rendered(FigureBlock(drawing("a) <b>", "t")))
    assert "](a%29%20%3Cb%3E.png)" in text
    assert not [token for token in tokens(text) if token.type.startswith("html")]


def test_letters_that_cannot_be_seen_are_left_out():
    for letter in ("\u202e", "\x00", "\ud800", "\x1b"):
        assert letter in HOSTILE + "\x1b"
        assert letter not in markdown.render(hostile(f"a{letter}b"))


def test_the_sample_covers_every_kind_of_verdict():
    assert {j.verdict for j in sample_document.JUDGEMENTS} == {
        "reproduced",
        "not reproduced",
        "inconclusive",
        "not tested",
    }
    assert judgement("x", "y").n == 0


def test_a_command_that_a_note_names_is_code_and_other_backticks_are_letters():
    assert with_code("See `harness sweep figure3`, or `<b>`.") == ("See ", Code("harness sweep figure3"), ", or `<b>`.")
    assert plain(with_code("`harness sweep <img>`")) == "`harness sweep <img>`"
