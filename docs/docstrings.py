"""Docstrings, written for readers of the code, as Markdown: aligned terms become a list, `<name>` stays visible."""

import re

from griffe import Docstring, Extension, Object

TERM = re.compile(r"^( *)(\S(?:.*?\S)?) {3,}(\S.*)$")  # "network       the module that is sampled"
CODE = re.compile(r"(`[^`]*`)")


class Readable(Extension):
    """Rewrites each docstring once, when its object is read; a comment beside a field or a signature belongs to it."""

    def on_instance(self, *, obj: Object, **_: object) -> None:
        """Called by griffe for every module, class, function and attribute."""
        if obj.is_alias:
            return
        written = obj.docstring.value if obj.docstring else ""
        text = "\n\n".join(part for part in (markdown(written), _escaped(_beside(obj))) if part)
        if text:
            obj.docstring = Docstring(text, parent=obj)


def _beside(obj: Object) -> str:
    """The comment at the end of a field's line, or of a signature: units, or shapes."""
    if not (obj.is_attribute or obj.is_function):
        return ""
    for line in obj.lines:
        code, mark, comment = line.partition("  # ")
        if mark and (obj.is_attribute or code.rstrip().endswith(":")):
            return comment.strip()
        if obj.is_attribute or line.rstrip().endswith(":"):
            return ""
    return ""


def markdown(text: str) -> str:
    """The text with two or more aligned terms as a list; shapes at a line's end stay in the line."""
    lines = text.splitlines()
    terms = [TERM.match(line) for line in lines]
    made: list[str] = []
    inside = False
    for number, (line, term) in enumerate(zip(lines, terms, strict=True)):
        near = any(0 <= other < len(lines) and terms[other] for other in (number - 1, number + 1))
        if term and number and (near or inside):
            made += [*([""] if not inside else []), f"- `{term[2].strip('`')}`: {_escaped(term[3])}"]
            inside = True
        elif inside and line.startswith("  ") and line.strip():
            made[-1] += f" {_escaped(line.strip())}"
        else:
            made += [*([""] if inside and line.strip() else []), _escaped(line)]
            inside = False
    return "\n".join(made)


def _escaped(line: str) -> str:
    parts = CODE.split(line)
    return "".join(
        part if part.startswith("`") else re.sub(r"([*_])", r"\\\1", part).replace("<", "&lt;") for part in parts
    )
