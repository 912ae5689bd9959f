"""Help as text: the same on a terminal and in a pipe, but for bold headings, and as wide as the terminal."""

import os
import re
import sys
import textwrap
from collections.abc import Iterable
from typing import Any

from harness.cli import reference
from harness.cli.app import layout

WIDEST = 80
NARROW = 60  # below, what a name means stands under it
WIDEST_NAME = 26
INDENT = "  "


def write(command: Any, ctx: Any, formatter: Any) -> None:
    """Write the help of a command, with bold headings where colours are."""
    ctx.color = coloured(sys.stdout)  # Typer prints the help, and would take the headings' style out of a pipe
    page = reference.page(command, ctx)
    formatter.write("\n".join(lines(page, min(layout.width(), WIDEST), bold=ctx.color)))


def coloured(stream: Any) -> bool:
    """Whether to print styles there: on a terminal that has any, unless NO_COLOR says no or FORCE_COLOR yes."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def lines(page: reference.Page, width: int, *, bold: bool = False) -> list[str]:
    """A page in lines of up to `width` characters."""
    made = [*_wrapped(f"Usage: {page.usage}", width, "", INDENT * 4)]
    for paragraph in (page.summary, *page.more):
        made += ["", *_wrapped(paragraph, width, INDENT, INDENT)]
    listed = [
        ("Arguments", [(item.names[0], said(item)) for item in page.arguments]),
        ("Commands", list(page.commands)),
        *((heading, [(_names(item), said(item)) for item in items]) for heading, items in page.options),
    ]
    room = min(max([len(name) for _, rows in listed for name, _ in rows] or [0]), WIDEST_NAME)
    for heading, rows in listed:
        if rows:
            made += ["", _heading(heading, bold), *_rows(rows, room, width)]
    if page.examples:
        made += ["", _heading("Examples", bold), *(line for e in page.examples for line in _example(e, width))]
    if page.closing:
        made += ["", *_wrapped(page.closing, width, INDENT, INDENT)]
    return made


def said(item: reference.Item) -> str:
    """What an item means, with its default."""
    notes = [f"default: {item.default}"] if item.default else []
    notes += ["required"] if item.required else []
    return " ".join([item.help, *(f"[{note}]" for note in notes)])


def _names(item: reference.Item) -> str:
    return " ".join([", ".join(item.names), *([item.value] if item.value else [])])


def _heading(text: str, bold: bool) -> str:
    return f"\033[1m{text}:\033[0m" if bold else f"{text}:"


def _rows(rows: Iterable[tuple[str, str]], room: int, width: int) -> list[str]:
    """Names with what they mean beside them, or below where a name is long or the terminal narrow."""
    made = []
    beside = INDENT + " " * room + INDENT
    for name, text in rows:
        if width < NARROW:
            made += [INDENT + name, *_wrapped(text, width, INDENT * 3, INDENT * 3)]
        elif len(name) > room:
            made += [INDENT + name, *_wrapped(text, width, beside, beside)]
        else:
            made += _wrapped(text, width, f"{INDENT}{name:<{room}}{INDENT}", beside)
    return made


def _example(command: str, width: int) -> list[str]:
    r"""A command in lines that can be pasted: one that is too long goes on after a \."""
    words = re.findall(r"(?:--\S+ (?=[^-]))?(?:'[^']*'|\S)+", command)  # an option and its value stay together
    room = width - len(INDENT * 3) - 2
    words = [part for word in words for part in ([word] if len(word) <= room else word.split(" ", 1))]
    made = [INDENT + words[0]]
    for word in words[1:]:
        if len(made[-1]) + len(word) + 3 > width:
            made[-1] += " \\"
            made.append(INDENT * 3 + word)
        else:
            made[-1] += f" {word}"
    return made


def _wrapped(text: str, width: int, first: str, rest: str) -> list[str]:
    made = textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False, break_long_words=False
    )
    return made or [first.rstrip()]
