"""HTML elements built so that text cannot become markup: a string is escaped unless it is Markup already."""

from html import escape

VOID = {"meta", "br", "use"}  # `use` stands for itself inside of an SVG


class Markup(str):
    """HTML. Only this module and inline_svg make it of text."""

    __slots__ = ()


def element(name: str, /, *children: str, **attributes: str | bool | None) -> Markup:
    """<name ...>children</name>; class_ is class, aria_sort is aria-sort, and an attribute that is None is left out."""
    head = f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}"
    if name in VOID:
        return Markup(f"{head}/>" if name == "use" else f"{head}>")
    return Markup(f"{head}>{joined(*children)}</{name}>")


def joined(*children: str) -> Markup:
    return Markup("".join(child if isinstance(child, Markup) else text(child) for child in children))


def text(content: str) -> Markup:
    """The letters of `content` as they are, those that cannot be seen as blanks."""
    if not content.isprintable():  # of Unicode's directions too, which would turn the letters after them round
        content = "".join(letter if letter.isprintable() else " " for letter in content)
    return Markup(escape(content))


def _attribute(name: str, value: str | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{text(value)}"'
