"""Documents from Jinja2 templates, with every text that they show escaped for Markdown or for HTML.

report.md.j2 and report.html.j2 take the same context; model_card.md.j2 is the card of an exported network. The same
context gives the same bytes.
"""

import base64
import math
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import jinja2
from markupsafe import Markup
from markupsafe import escape as escape_html

from harness.reporting.tables.table import count, shown
from harness.reporting.tables.table import escape as escape_markdown
from harness.system.errors import DataError, one_line

COMMAND = re.compile(r"`(harness [\w ./,=-]+)`")  # in a note; other backticks are ordinary characters
Form = Literal["md", "html"]
REACH = 8.0  # the axis of a drawn ratio goes from 1 / REACH to REACH


def render(template: str, context: Mapping[str, Any], *, missing: str | None = None) -> str:
    """The template with this context: report.md.j2, report.html.j2 or model_card.md.j2.

    `missing` is shown for None and for what the context does not have. Without it, the latter is an error.
    """
    form: Form = "md" if template.endswith(".md.j2") else "html"
    return environment(form, missing).get_template(template).render(context)


def environment(form: Form, missing: str | None = None) -> jinja2.Environment:
    """Whatever a template shows is escaped, on one line and without characters that cannot be seen."""
    escape, code = (escape_markdown, _markdown_code) if form == "md" else (escape_html, _html_code)

    def finalize(value: object) -> Markup:
        if isinstance(value, Markup):
            return value
        if missing is not None and (value is None or isinstance(value, jinja2.Undefined)):
            return Markup(missing)
        text = shown(value) if isinstance(value, bool | int | float) else str(value)
        # A space at either end is kept: it separates the text from its neighbours.
        return Markup(" " * text[:1].isspace() + str(escape(one_line(text))) + " " * text[-1:].isspace())

    def commands(text: str) -> Markup:
        """A note in which commands of the harness are set as code."""
        parts = COMMAND.split(text)
        return Markup("").join(Markup(code(part)) if i % 2 else finalize(part) for i, part in enumerate(parts))

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("harness.reporting", "pages"),
        autoescape=True,
        finalize=finalize,
        undefined=jinja2.StrictUndefined if missing is None else jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {
        "anchor": lambda text: re.sub(r"\W+", "-", text.lower()),
        "code": lambda text: Markup(code(one_line(text))),
        "commands": commands,
        "count": count,
        "place": place,
        "sentence": lambda text: text if text.endswith((".", "!", "?")) else f"{text}.",
    }
    pages = files("harness.reporting") / "pages"
    asset = {name: Markup((pages / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js")}
    made.globals |= {"asset": asset.get, "picture": _picture, "zip": zip}
    return made


def place(ratio: float) -> str:
    """Where a ratio lies on the logarithmic axis, from 0 to 100; one beyond the axis lies at its end."""
    if not ratio > 0:
        return "0.0"
    share = (math.log(ratio) / math.log(REACH) + 1) / 2
    return f"{100 * max(0.0, min(1.0, share)):.1f}"


def _html_code(text: str) -> str:
    return f"<code>{escape_html(text)}</code>"


def _markdown_code(text: str) -> str:
    """A code span with a fence longer than any in the text."""
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _picture(path: Path) -> str:
    """An SVG file as a data URI. In an <img>, nothing in it can run or load."""
    try:
        return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"
    except OSError as error:
        raise DataError(f"cannot read the figure {path}: {error.strerror or error}. Draw it again.") from None
