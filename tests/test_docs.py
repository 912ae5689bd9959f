"""The documentation agrees with the code and with itself: links, pictures, snippets, navigation, generated parts."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "fifth_method" not in path.parts)
TEXTS = [*PAGES, DOCS / "fifth_method" / "README.md", ROOT / "README.md", ROOT / "reports" / "README.md"]
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
SNIPPET = re.compile(r'--8<-- "([^":]+)(?::(\w+))?"')
MODULE = re.compile(r"^::: (\S+)$", re.MULTILINE)
LOCAL = re.compile(r"(?<![\w.~$])/(?:home|root|tmp|work|Users|mnt|data|scratch|opt|var)/", re.IGNORECASE)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def load(path: Path):
    spec = spec_from_file_location(path.stem, path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generate():
    return load(DOCS / "generate.py")


def config() -> dict:
    """mkdocs.yml as plain values."""
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def links(path: Path) -> Iterator[str]:
    for match in LINK.finditer(FENCED.sub("", path.read_text(encoding="utf-8"))):
        yield match[1]


def anchors(path: Path) -> set[str]:
    """Of a page's headings, as mkdocs makes them: lower case, words joined by hyphens."""
    heads = re.findall(r"^#+ +(.+)$", FENCED.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", head).strip().lower()) for head in heads}


@pytest.mark.parametrize("page", TEXTS, ids=name)
def test_every_link_and_picture_of_a_page_is_there(page):
    for link in links(page):
        if link.startswith(("https://", "mailto:")):
            continue
        file, _, anchor = link.partition("#")
        target = page if not file else (page.parent / file).resolve()
        assert target.is_file(), f"{link}: there is no such file"
        assert target.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(target), f"{link}: no such heading"


@pytest.mark.parametrize("page", TEXTS, ids=name)
def test_every_snippet_of_a_page_is_there(page):
    for file, section in SNIPPET.findall(page.read_text(encoding="utf-8")):
        if section and file.startswith("["):
            continue
        text = (ROOT / file).read_text(encoding="utf-8")
        assert not section or (f"[start:{section}]" in text and f"[end:{section}]" in text), f"{file}:{section}"


@pytest.mark.parametrize("page", TEXTS, ids=name)
def test_a_page_reads_well_as_a_plain_file(page):
    """On a code host: what the site fills in is a link away, and no page has the site's own marks in its text."""
    text = page.read_text(encoding="utf-8")
    assert "--8<--" not in FENCED.sub("", text)
    assert not re.search(r"\)\{ ?\w+=", text)
    for file, _ in SNIPPET.findall(text):
        assert f"]({Path(os.path.relpath(ROOT / file, page.parent)).as_posix()})" in text, f"{file} is not linked"


def test_the_worked_example_is_shown_from_its_files():
    shown = {file for file, _ in SNIPPET.findall((DOCS / "fifth-method.md").read_text(encoding="utf-8"))}
    example = "docs/fifth_method"
    method = {f"{example}/minsnr_method/minsnr.py", f"{example}/minsnr_method/minsnr.yaml", f"{example}/pyproject.toml"}
    assert shown == method


@pytest.mark.parametrize("page", [*TEXTS, ROOT / "mkdocs.yml"], ids=name)
def test_no_page_names_a_folder_of_one_machine(page):
    assert not LOCAL.search(page.read_text(encoding="utf-8"))


def test_the_navigation_names_every_page_once():
    def leaves(node) -> Iterator[str]:
        for child in node.values() if isinstance(node, dict) else node:
            yield from [child] if isinstance(child, str) else leaves(child)

    named = list(leaves(config()["nav"]))
    assert sorted(named) == [page.relative_to(DOCS).as_posix() for page in PAGES]


def test_every_module_of_the_reference_can_be_found_and_says_what_it_is():
    named = [module for page in PAGES for module in MODULE.findall(page.read_text(encoding="utf-8"))]
    assert len(named) > 25
    assert len(set(named)) == len(named)
    for module in named:
        parent = module if module[module.rfind(".") + 1].islower() else module.rpartition(".")[0]
        assert find_spec(parent) is not None, module


@pytest.mark.parametrize("part", ["cli", "deviations", "verdicts"])
def test_a_generated_part_is_what_the_code_says_now(generate, part):
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        made = generate.filled(text, {part: generate.COMMITTED[part]})
        assert made == text, f"{name(page)} is stale: python docs/generate.py"


def test_the_table_of_estimates_is_what_a_dry_run_says_now(generate):
    """One of its rows: to count every network would take minutes."""
    text = (DOCS / "paper-scale.md").read_text(encoding="utf-8")
    head, line, *rows = generate.estimates(["dit-s"])
    assert all(row in text for row in (head, line, *rows)), "paper-scale.md is stale: python docs/generate.py"


def test_the_table_of_estimates_has_every_recipe_of_the_papers_sizes():
    from harness.recipes.reading import recipe_names

    text = (DOCS / "paper-scale.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE)
    assert sorted(rows) == [recipe for recipe in recipe_names() if not recipe.endswith(("-tiny", "-mini"))]


def test_the_reference_of_commands_has_every_command_and_option(generate):
    made = "\n".join(generate.cli())
    for words in ("## `harness run`", "### `harness data encode`", "`--micro-batch N`", "harness report --check"):
        assert words in made


def test_aligned_terms_of_a_docstring_become_a_list():
    pytest.importorskip("griffe")
    markdown = load(DOCS / "docstrings.py").markdown
    made = markdown("Head of <name>.\n\nwide     what a_b is\nnarrow   the other,\n         going on\n\nEnd.")
    assert made == ("Head of &lt;name>.\n\n\n- `wide`: what a\\_b is\n- `narrow`: the other, going on\n\nEnd.")
    assert markdown("One `a_b`.   (B, C) -> (B,)") == "One `a_b`.   (B, C) -> (B,)"


class Loaded(HTMLParser):
    """What a page makes a browser load."""

    def __init__(self):
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in ("script", "img", "source", "iframe"):
            self.addresses.append(given.get("src") or "")
        if tag == "link" and given.get("rel") != "canonical":
            self.addresses.append(given.get("href") or "")


def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("mkdocs", reason="pip install 'dit-harness[docs]'")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == ""
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        reader = Loaded()
        reader.feed(page.read_text(encoding="utf-8"))
        assert not [address for address in reader.addresses if "//" in address], page.name
        assert str(ROOT) not in page.read_text(encoding="utf-8")
    assert "class Config(Knobs)" in re.sub(r"<[^>]+>", "", (tmp_path / "site" / "fifth-method.html").read_text())
    assert "harness data encode" in (tmp_path / "site" / "cli.html").read_text()
    reference = (tmp_path / "site" / "api" / "methods.html").read_text()
    assert "(B, L, D), (B, K) -&gt; (B, K, D)" in reference  # the comment beside the signature of gather
    assert "baselines/&lt;name&gt;.py" in reference
