import base64
import hashlib
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest
from sample_document import HOSTILE, JUDGEMENTS, drawing, hostile, judgement, sample, table

from harness.report.pages import page
from harness.report.pages.document import Document, FigureBlock, Paragraph, Section, TableBlock, Verdicts
from harness.report.pages.inline_svg import inline
from harness.system.errors import DataError, one_line

VOID = {"meta", "br"}
FRAME = {
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "div",
    "header",
    "nav",
    "main",
    "section",
    "footer",
    "script",
}
TEXT = {"h1", "h2", "h3", "p", "a", "ul", "ol", "li", "dl", "dt", "dd", "b", "code", "strong", "em", "span"}
PARTS = {"table", "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "details", "summary"}
PICTURE = {"svg", "symbol", "g", "defs", "path", "use", "rect", "circle", "image", "clipPath", "pattern", "text"}
KNOWN = FRAME | TEXT | PARTS | {name.lower() for name in PICTURE}


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


def elements(document: Document) -> Elements:
    made = Elements(page.render(document))
    assert made.open == []
    return made


def svg(content: str) -> str:
    links = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<?xml version="1.0"?>\n<svg {links} viewBox="0 0 10 10">{content}</svg>'


def test_the_page_loads_nothing_and_runs_only_its_own_script():
    """Whatever got into it, the browser is told by the script's and the style's own hashes what may run and apply."""
    html = page.render(sample())
    (policy,) = [m["content"] for m in Elements(html).named("meta") if m.get("http-equiv")]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for name, asset in (("style", "page.css"), ("script", "page.js")):
        (content,) = re.findall(rf"<{name}>(.*?)</{name}>", html, re.DOTALL)
        assert content == (files("harness.report.pages") / asset).read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[f"{name}-src"] == f"'sha256-{digest}'"


def test_nothing_in_the_page_points_outside_of_it():
    made = elements(sample())
    for tag, attributes in made.found:
        assert not {"src", "srcset", "action", "style", "ping"} & attributes.keys(), tag
        target = attributes.get("href")
        assert target is None or target.startswith("#") or (tag == "image" and target.startswith("data:image/png"))
        for value in attributes.values():
            assert all(where.startswith("url(#") for where in re.findall(r"url\([^)]*\)", value or ""))
    assert not re.search(r"@import|url\(", (files("harness.report.pages") / "page.css").read_text())


def test_names_are_unique_and_every_link_leads_to_one():
    made = elements(sample())
    names = Counter(attributes["id"] for _, attributes in made.found if "id" in attributes)
    assert names.most_common(1)[0][1] == 1
    targets = {attributes["href"] for tag, attributes in made.found if tag in ("a", "use")}
    targets |= {
        where for _, attributes in made.found for where in re.findall(r"url\((#[^)]*)\)", str(attributes.values()))
    }
    assert {target[1:] for target in targets} <= names.keys()
    assert len(targets) > 50  # letters, clip paths, signs and headings


def test_hostile_text_stays_text():
    """Elements and attributes are those of the same page with harmless words, and the letters are all there."""
    made, harmless = elements(hostile()), elements(hostile("harmless"))
    assert {tag for tag, _ in made.found} <= KNOWN
    outside = [tag for tag, _ in made.found if tag not in ("g", "path", "use", "defs")]  # more letters are more of them
    assert Counter(outside) == Counter(tag for tag, _ in harmless.found if tag not in ("g", "path", "use", "defs"))
    for tag, attributes in made.found:
        assert not [name for name in attributes if name.startswith("on")], tag
    assert made.declarations == ["DOCTYPE html"]
    assert made.text.count("<script>alert(1)</script>") == harmless.text.count("harmless") >= 20
    assert one_line(HOSTILE) in made.text


def test_letters_that_cannot_be_seen_are_left_out():
    html = page.render(hostile("a\u202eb\x00c\ud800d\x1be"))
    assert "a b c d e" in html
    assert html.encode()  # no half of a letter
    assert not {"\u202e", "\x00", "\x1b"} & set(html)


def test_the_same_document_gives_the_same_bytes_in_another_process():
    command = "import hashlib, sample_document; from harness.report.pages import page;"
    command += "print(hashlib.sha256(page.render(sample_document.sample()).encode()).hexdigest())"
    where = {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parent.parent)}
    said = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True, env=where)
    assert said.stdout.strip() == hashlib.sha256(page.render(sample()).encode()).hexdigest()


def test_headings_have_no_gap_and_the_contents_name_the_sections():
    made = elements(sample())
    levels = [int(tag[1]) for tag, _ in made.found if re.fullmatch(r"h\d", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(below <= above + 1 for above, below in pairwise(levels))
    html = page.render(sample())
    contents = html[html.index("<nav") : html.index("</nav>")]
    assert re.findall(r'href="#([^"]*)"', contents) == [
        "summary", "figures", "fig-4-convergence", "fig-5-mask-ratio",
        "tables", "table-1", "all-runs", "deviations",
    ]  # fmt: skip
    assert html.index('id="summary"') < html.index('id="figures"')


def test_the_page_says_its_language_title_and_that_it_fits_a_phone():
    made = elements(sample())
    assert made.named("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in made.named("meta")
    assert "<title>Paper against measured</title>" in page.render(sample())


def test_the_assets_are_part_of_the_installed_package():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert '"results/pages/*.css"' in text
    assert '"results/pages/*.js"' in text


# Tables ----------------------------------------------------------------------------------------------------------


def test_numbers_carry_their_size_for_sorting_and_words_among_them_none():
    shown = replace(table(), rows=({"Model": "a", "Steps": 1_300_000}, {"Model": "b", "Steps": "missing"}, {}))
    html = page.render(Document("T", [Section("S", [TableBlock(shown)])]))
    assert '<td class="n" data-sort="1300000.0">1,300,000</td>' in html
    assert '<td class="n none">missing</td>' in html
    assert '<th scope="row" class="none">–</th>' in html


def test_a_long_table_is_shown_on_demand():
    html = page.render(Document("T", [Section("S", [TableBlock(table(rows=31))])]))
    assert html.index("<summary>Show all 31 rows</summary>") < html.index("<table>")
    assert "<details" not in page.render(Document("T", [Section("S", [TableBlock(table(rows=30))])]))


def test_a_table_without_rows_says_so():
    assert "<p>None.</p>" in page.render(Document("T", [Section("S", [TableBlock(replace(table(), rows=()))])]))


# Verdicts --------------------------------------------------------------------------------------------------------


def test_every_verdict_is_told_by_a_word_beside_its_sign():
    html = page.render(Document("T", [Section("S", [Verdicts(JUDGEMENTS)])]))
    for verdict, sign in (("reproduced", "yes"), ("not reproduced", "no"), ("inconclusive", "open")):
        assert f'<span class="badge {sign}"><svg viewBox="0 0 16 16" aria-hidden="true"><use' in html
        assert f"</svg>{verdict}</span>" in html
    text = Elements(html).text
    assert text.count("At equal steps SD-DiT has a lower FID than DiT.") == 1  # two settings, one claim
    assert "SD-DiT 0.443 x DiT" in JUDGEMENTS[0].effect
    assert JUDGEMENTS[0].effect in text
    assert "n = 3; seeds 0, 1, 2" in text
    assert html.index("Masking lowers the FID.") < html.index("1 claim not tested") < html.index("At size B too")


def test_a_ratio_is_drawn_with_its_interval_and_the_papers_and_within_its_box():
    html = page.render(Document("T", [Section("S", [Verdicts(JUDGEMENTS)])]))
    drawn = re.findall(r'<svg viewBox="0 0 200 34".*?</svg>', html)
    assert ['class="bar"' in one for one in drawn] == [True, False, True]  # n = 3, 1, 3
    assert ['class="paper"' in one for one in drawn] == [True, True, False]
    places = [float(x) for one in drawn for x in re.findall(r'cx="([\d.]+)"', one)]
    assert places[0] < places[1] < 100 < places[2] < 200


@pytest.mark.parametrize(("number", "drawn"), [(1, 1), (2, 2), (3, 3), (4, 1)])
def test_as_many_ratios_are_drawn_as_the_effect_spells_out(number, drawn):
    one = judgement("x", "y", (0.4, 0.5, 0.45))
    several = replace(one, comparisons=one.comparisons * number)
    html = page.render(Document("T", [Section("S", [Verdicts([several])])]))
    assert html.count('class="ratio"') == drawn


@pytest.mark.parametrize("ratios", [(40.0, 90.0, 60.0), (1e-9, 3e-9, 2e-9), (1e-3, 1e3)])
def test_a_ratio_beyond_the_axis_is_drawn_at_its_end(ratios):
    html = page.render(Document("T", [Section("S", [Verdicts([judgement("x", "y", ratios, published=1e6)])])]))
    (drawn,) = re.findall(r'<svg viewBox="0 0 200 34".*?</svg>', html)
    paths = re.findall(r' d="M([^"]*)"', drawn)
    assert all(0 <= float(x) <= 200 for path in paths for x in re.findall(r"(?:^|L)([-\d.]+) ", path))
    assert all(0 <= float(x) <= 200 for x in re.findall(r'cx="([-\d.]+)"', drawn))


def test_of_very_many_runs_a_verdict_names_the_first_and_counts_the_others():
    many = judgement("x", "y", tuple(0.5 + i / 1000 for i in range(100)))
    text = elements(Document("T", [Section("S", [Verdicts([many])])])).text
    assert text.count("sddit-tiny/seed") == 40
    assert "and 60 more" in text
    assert "100 runs" in text


# Figures ---------------------------------------------------------------------------------------------------------


def test_a_figure_has_a_text_for_those_who_cannot_see_it_and_its_numbers_as_a_table():
    made = elements(Document("T", [Section("S", [FigureBlock(drawing())])]))
    (picture,) = [s for s in made.named("svg") if s.get("role") == "img"]
    assert picture["aria-label"] == "Fig. 4: convergence. Distance against steps: Fig. 4: convergence"
    assert "Of Fig. 4: convergence." in made.text
    assert {"class": "n", "data-sort": "9.1"} in made.named("td")


def test_a_picture_is_taken_from_text_from_a_file_or_drawn(tmp_path):
    def shown(svg):
        html = page.render(Document("T", [Section("S", [FigureBlock(drawing(), svg)])]))
        return html[html.index('class="sheet"') : html.index("<figcaption")]

    path = tmp_path / "figure4.svg"
    path.write_text(svg('<rect width="1" height="2"/>'))
    assert shown(path) == shown(path.read_text())
    assert '<rect width="1" height="2"/>' in shown(path)
    assert shown(None).count("<use ") > 20
    with pytest.raises(DataError, match="cannot read the figure"):
        shown(tmp_path / "figure5.svg")


@pytest.mark.parametrize("text", ["", "no picture", "<svg", "<html/>", svg("<g>"), "<svg>no box</svg>"])
def test_what_is_no_picture_is_refused_by_name(text):
    with pytest.raises(DataError, match=r"the picture of f0 .*Draw it again"):
        inline(text, name="f0", alternative="x")


def test_a_picture_that_declares_entities_is_refused():
    with pytest.raises(DataError, match="entities"):
        inline('<!DOCTYPE svg [<!ENTITY a "b">]>' + svg("<text>&a;</text>"), name="f0", alternative="x")


@pytest.mark.parametrize(
    "content",
    [
        "<script>alert(1)</script>",
        "<style>* {background: url(http://example.com)}</style>",
        '<g onload="alert(1)"><path d="M0 0"/></g>',
        '<a href="javascript:alert(1)"><path d="M0 0"/></a>',
        "<foreignObject><p>x</p></foreignObject>",
        '<use xlink:href="http://example.com/x.svg#a"/>',
        '<image xlink:href="http://example.com/x.png"/>',
        '<image xlink:href="data:image/svg+xml;base64,PHN2Zz4="/>',
        '<path d="M0 0" fill="url(http://example.com/#a)"/>',
        '<path d="M0 0" style="fill: url(http://example.com/#a); background: red"/>',
        r'<path d="M0 0" fill="\75rl(http://example.com)"/>',
        '<animate attributeName="href" values="javascript:alert(1)"/>',
        "<!-- comment --><?php x ?><metadata>x</metadata>",
    ],
)
def test_nothing_in_a_picture_can_run_or_load(content):
    made = inline(svg(content), name="f0", alternative="x")
    assert not re.search(r"script|style|on\w+=|javascript|example|comment|php|meta|animate|foreign|svg\+xml", made)


def test_styles_of_a_picture_become_attributes_and_names_its_own():
    picture = svg(
        '<defs><clipPath id="box"><rect width="1" height="1"/></clipPath></defs>'
        '<g id="axes_1" clip-path="url(#box)"><path d="M 0.123456 1 \nL 2 3 \nz" '
        'style="fill: none; stroke: #ff0000; stroke-width: 0.7"/></g>'
    )
    first, second = (inline(picture, name=name, alternative="x") for name in ("f0", "f1"))
    assert '<clipPath id="f0.0"><rect width="1" height="1"/></clipPath>' in first
    assert '<g clip-path="url(#f0.0)">' in first
    assert '<path d="M0.12 1L2 3z" fill="none" stroke="#ff0000" stroke-width="0.7"/>' in first
    assert second == first.replace("f0.", "f1.")
    assert "axes_1" not in first


def test_every_drawn_element_of_a_figure_is_kept():
    """Matplotlib's elements are all known: as many shapes, letters and images come out as went in."""
    source = page._picture(FigureBlock(drawing()))
    made = inline(source, name="f0", alternative="x")
    for tag in ("path", "use", "rect", "image", "clipPath", "pattern"):
        assert len(re.findall(f"<{tag}[ />]", made)) == len(re.findall(f"<{tag}[ />]", source)) > 0, tag
    assert re.findall(r'fill="(#\w+)"', made) == re.findall(r'fill[:="]+ ?(#\w+)', source)
    assert len(made) < 0.8 * len(source)


# Size ------------------------------------------------------------------------------------------------------------


def test_twelve_figures_as_large_as_the_demos_weigh_less_than_three_megabytes():
    committed = Path(__file__).parents[2] / "reports" / "demo" / "figure3.svg"
    blocks = [FigureBlock(replace(drawing(), title=f"Figure {i}"), committed) for i in range(12)]
    assert len(page.render(Document("T", [Section("Figures", blocks)])).encode()) < 3e6


def test_a_hundred_paragraphs_more_do_not_change_what_the_policy_names():
    """Script and style are constant: what a report holds cannot change what the browser may run."""
    longer = Document("T", [Section("S", [Paragraph("x")] * 100)])
    found = [re.search(r'content="(default-src[^"]*)"', page.render(document)) for document in (longer, sample())]
    assert found[0][1] == found[1][1]
