"""What `mkdocs build` does besides: fills generated parts, takes along the files of the repository that pages link.

A link that leaves docs/, or leads into its fifth_method/, is right in a checkout; on the site it leads to a copy of
that file below files/.
"""

import posixpath
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))
import generate

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files of the repository that the pages link or show."""
    linked = {target for page in files.documentation_pages() for target in _outside(page.content_string, page.src_uri)}
    for target in sorted(linked):
        files.append(File.generated(config, _copy(target), abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its generated parts as they are now, and its links as the site has them."""
    here = page.file.src_uri

    def link(match: re.Match[str]) -> str:
        target = _target(match[2], here)
        if target is None:
            return match[0]
        return f"{match[1]}{posixpath.relpath(_copy(target), posixpath.dirname(here) or '.')}{match[3]}"

    return LINK.sub(link, generate.filled(markdown, generate.QUICK))


def _outside(markdown: str, here: str) -> set[str]:
    return {target for match in LINK.finditer(markdown) if (target := _target(match[2], here)) is not None}


def _target(link: str, here: str) -> str | None:
    """The linked file's path in the repository; None for what is a page, or elsewhere."""
    if "://" in link or link.startswith("mailto:"):
        return None
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(here), link))
    inside = path.startswith("docs/") and not path.startswith("docs/fifth_method/")
    return None if inside else path


def _copy(target: str) -> str:
    """Where it lies on the site; what would be taken for a page is shown as text."""
    return f"files/{target}" + (".txt" if target.endswith((".md", ".py", ".toml", ".yaml", ".jsonl")) else "")
