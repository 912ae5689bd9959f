"""What only a browser can show of the report's page. Without a Chromium nothing here can run; see conftest.py."""

import pytest
from sample_document import hostile, sample

from harness.reporting.pages.render import render
from harness.reporting.tables.table import Table, frame_of

pytestmark = pytest.mark.slow

WIDTHS = (1280, 375)  # a laptop's window and a phone's, in pixels
MANY = 2000  # rows
SHORT, LONG = "#table-table1 ~ .scroll table", ".long table"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return written(sample(tmp_path_factory.mktemp("page"), MANY))


def written(context):
    path = context["folder"] / "report.html"
    path.write_text(render("report.html.j2", context), encoding="utf-8")
    return path


def complaints(chromium) -> list:
    kinds = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Page.javascriptDialogOpening")
    return [event for event in chromium.events if event["method"] in kinds]


def requests(chromium) -> list[str]:
    """What was asked for besides the page itself and the pictures that are in it."""
    sent = [e["params"]["request"]["url"] for e in chromium.events if e["method"] == "Network.requestWillBeSent"]
    assert sent[0].endswith("/report.html")
    return [url for url in sent[1:] if not url.startswith("data:")]


def column(chromium, index: int, table: str) -> list[str]:
    """The cells of a column as they stand, of the table that `table` selects."""
    return chromium.value(
        f"[...document.querySelector('{table}').tBodies[0].rows].map(row => row.cells[{index}].textContent)"
    )


def colours(chromium, selector: str) -> tuple[list[float], list[float]]:
    """Of an element's letters and of the ground behind it: red, green and blue in 0 to 255."""
    read = """(selector) => {
      const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
      const own = (element) => numbers(getComputedStyle(element).backgroundColor);
      const element = document.querySelector(selector);
      let ground = element;
      while (own(ground).length === 4) ground = ground.parentElement;  // the fourth says how transparent it is
      return [numbers(getComputedStyle(element).color).slice(0, 3), own(ground)];
    }"""
    return chromium.value(f"({read})({selector!r})")


def luminance(colour: list[float]) -> float:
    """Relative luminance, 0 to 1 (Web Content Accessibility Guidelines 2.2)."""
    linear = [c / 12.92 if (c := part / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for part in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_asks_for_nothing_and_says_nothing_to_the_console(chromium, path, width, dark):
    chromium.open(path, width=width, dark=dark)
    assert chromium.value("document.querySelectorAll('thead button').length") > 10  # its script ran
    assert complaints(chromium) == []
    assert requests(chromium) == []


def test_hostile_names_run_nothing_and_load_nothing(chromium, tmp_path):
    chromium.open(written(hostile(tmp_path)))
    assert chromium.value("document.querySelectorAll('script').length") == 1
    assert chromium.value("document.querySelectorAll('iframe, object, embed, link, base, form').length") == 0
    assert chromium.value("document.querySelectorAll('img').length") == 1  # the figure
    assert chromium.value("document.querySelectorAll('a:not([href^=\"#\"])').length") == 0
    assert complaints(chromium) == []
    assert requests(chromium) == []


def test_the_policy_stops_a_picture_from_elsewhere(chromium, tmp_path):
    path = written(sample(tmp_path))
    page = path.read_text(encoding="utf-8")
    path.write_text(page.replace("<footer>", "<img src='https://example.com/x.png'><footer>"), encoding="utf-8")
    chromium.open(path)
    failed = [event["params"] for event in chromium.events if event["method"] == "Network.loadingFailed"]
    assert [failure.get("blockedReason") for failure in failed] == ["csp"]


@pytest.mark.parametrize("width", [1280, 768, 375, 320])
def test_no_page_is_wider_than_its_window_even_with_everything_unfolded(chromium, path, width):
    chromium.open(path, width=width)
    for unfold in (False, True):
        chromium.value(f"document.querySelectorAll('details').forEach(d => d.open = {str(unfold).lower()})")
        assert chromium.value("document.documentElement.scrollWidth") <= width


def test_a_wide_table_scrolls_in_its_own_box_on_a_phone(chromium, path):
    chromium.open(path, width=375)
    box = "document.querySelector('#table-table1 ~ .scroll')"
    assert chromium.value(f"{box}.scrollWidth > {box}.clientWidth")
    assert chromium.value(f"{box}.clientWidth") <= 375
    assert chromium.value(f"{box}.tabIndex") == 0  # so that arrow keys can move it


def test_a_table_of_two_columns_fits_a_phone(chromium, tmp_path):
    facts = frame_of([{"Fact": "Packages", "Value": "numpy 2.4.6, " * 20 + "c" * 64}])
    path = written(sample(tmp_path) | {"figures": [], "sections": {"S": [Table("e", "Environment", facts)]}})
    chromium.open(path, width=375)
    assert chromium.value("(box => box.scrollWidth <= box.clientWidth)(document.querySelector('.scroll'))")


def test_dark_mode_has_a_dark_ground_and_figures_keep_a_light_one(chromium, path):
    grounds = {}
    for dark in (False, True):
        chromium.open(path, dark=dark)
        grounds[dark] = luminance(colours(chromium, "body")[1])
        assert luminance(colours(chromium, ".sheet")[1]) == pytest.approx(1)
    assert grounds[True] < 0.05
    assert grounds[False] > 0.9


@pytest.mark.parametrize("dark", [False, True])
def test_all_text_stands_out_from_its_ground(chromium, path, dark):
    """At least 4.5 to 1, as the guidelines ask of text of this size."""
    chromium.open(path, dark=dark)
    for selector in (
        "main p", ".lead", "nav a", "nav li li a", ".caption", "h2", "code", "summary", "td.n",
        "thead th", ".badge.yes", ".badge.no", ".badge.open", ".badge.idle", ".setting", ".claim p", "footer p",
    ):  # fmt: skip
        light, low = sorted(map(luminance, colours(chromium, selector)), reverse=True)
        assert (light + 0.05) / (low + 0.05) >= 4.5, selector


def test_a_column_is_sorted_by_its_heading_with_the_keyboard_and_missing_ones_come_last(chromium, path):
    chromium.open(path)
    steps, published = 1, 2
    before = column(chromium, steps, SHORT)
    assert before == ["1,300,000", "400,000", "7,000"]
    chromium.value(f"document.querySelector('{SHORT} button').focus()")
    chromium.press("Tab", 9)
    sort = f"document.querySelector('{SHORT}').tHead.rows[0].cells[%d].getAttribute('aria-sort')"
    for order, expected in (("ascending", before[::-1]), ("descending", before), (None, before)):
        chromium.press("Enter", 13)
        assert column(chromium, steps, SHORT) == expected
        assert chromium.value(sort % steps) == order
    chromium.press("Tab", 9)
    chromium.press("Enter", 13)
    assert column(chromium, published, SHORT) == ["99.00", "99.50", "–"]
    chromium.press("Enter", 13)
    assert column(chromium, published, SHORT) == ["99.50", "99.00", "–"]
    assert chromium.value(sort % steps) is None
    assert chromium.value(sort % published) == "descending"


def test_two_thousand_rows_are_sorted_and_texts_as_people_count(chromium, path):
    chromium.open(path)
    chromium.value(f"document.querySelector('{LONG} button').click()")
    found = column(chromium, 0, LONG)
    assert found[:2] == ["DiT-1", "DiT-3"]
    assert [name for name in found if name.startswith("DiT")][-1] == f"DiT-{MANY - 1}"
    chromium.value("document.querySelector('details.long').open = true")
    chromium.value("document.querySelectorAll('.long thead button')[3].click()")
    values = [float(text.split()[0].replace(",", "")) for text in column(chromium, 3, LONG)[:-1]]
    assert len(values) == MANY - 1
    assert values == sorted(values)


def test_without_scripts_the_page_reads_the_same(chromium, path):
    chromium.open(path)
    text = chromium.value("document.querySelector('main').textContent")
    chromium.open(path, scripts=False)
    try:
        assert chromium.value("document.querySelector('main').textContent") == text
        assert chromium.value("document.querySelectorAll('button').length") == 0
    finally:
        chromium.send("Emulation.setScriptExecutionDisabled", value=False)


def test_on_paper_the_ground_is_white_even_on_a_dark_device(chromium, path):
    chromium.open(path, dark=True)
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    chromium.send("Emulation.setEmulatedMedia", media="print", features=dark)
    try:
        assert luminance(colours(chromium, "body")[1]) == pytest.approx(1)
        assert chromium.value("getComputedStyle(document.querySelector('nav')).display") == "none"
    finally:
        chromium.send("Emulation.setEmulatedMedia", media="")
