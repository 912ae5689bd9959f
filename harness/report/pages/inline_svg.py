"""A figure's SVG as a part of an HTML page: nothing in it can run, load or collide with another figure's names.

Only drawing elements and their attributes are kept. Styles become attributes, because the page allows no style but its
own; names that are referred to get the figure's own prefix, and the others are dropped.
"""

import re
from collections.abc import Iterator
from xml.etree import ElementTree

from harness.report.pages.hypertext import Markup, joined, text
from harness.system.errors import DataError

ELEMENTS = {
    "g", "defs", "path", "use", "rect", "circle", "ellipse", "line", "polyline", "polygon", "image", "clipPath",
    "pattern", "linearGradient", "radialGradient", "stop", "text", "tspan",
}  # fmt: skip
PAINT = {  # as attributes and as properties of a style
    "fill", "fill-opacity", "fill-rule", "stroke", "stroke-width", "stroke-opacity", "stroke-linecap",
    "stroke-linejoin", "stroke-miterlimit", "stroke-dasharray", "stroke-dashoffset", "opacity", "clip-path",
    "clip-rule", "stop-color", "stop-opacity", "image-rendering", "font-family", "font-size", "font-weight",
    "font-style", "text-anchor", "display", "visibility",
}  # fmt: skip
SHAPE = {
    "id", "href", "d", "x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "r", "rx", "ry", "fx", "fy", "width", "height",
    "points", "transform", "offset", "preserveAspectRatio", "gradientUnits", "gradientTransform", "patternUnits",
    "patternContentUnits", "patternTransform", "clipPathUnits",
}  # fmt: skip
PICTURE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=]+")
REFERENCE = re.compile(r"url\(#([^)\"']+)\)")
NUMBER = re.compile(r"-?\d+\.\d{3,}")
FINE = {"d", "points", "x", "y", "x1", "y1", "x2", "y2", "width", "height"}  # lengths: 1/100 point is enough
STROKES = ' stroke-linejoin="round" stroke-linecap="butt"'  # what matplotlib sets for all by a style sheet


def inline(svg: str, *, name: str, alternative: str) -> Markup:
    """The picture as an <svg> element as wide as its place; `name` has to be the figure's own in the page.

    Raises DataError where the text is no SVG.
    """
    if "<!ENTITY" in svg:
        raise DataError(f"the picture of {name} declares entities, which no figure needs. Draw it again.")
    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError as error:
        raise DataError(f"the picture of {name} is no SVG: {error}. Draw it again.") from None
    box = re.fullmatch(r"[-\d.eE ]+", root.get("viewBox", ""))
    if _local(root.tag) != "svg" or not box:
        raise DataError(f"the picture of {name} is no SVG with a viewBox. Draw it again.")
    writer = _Writer(name, root)
    head = f'<svg viewBox="{box[0]}" role="img" aria-label="{text(alternative)}"{STROKES}>'
    return joined(Markup(head), *writer.children(root), Markup("</svg>"))


class _Writer:
    """Writes elements with names of this figure's own."""

    def __init__(self, name: str, root: ElementTree.Element) -> None:
        referred = dict.fromkeys(_references(root))
        self.names = {old: f"{name}.{number}" for number, old in enumerate(referred)}

    def children(self, element: ElementTree.Element) -> Iterator[Markup]:
        for child in element:
            tag = _local(child.tag)
            if tag in ELEMENTS:
                yield self.element(tag, child)

    def element(self, tag: str, element: ElementTree.Element) -> Markup:
        attributes = "".join(f' {name}="{text(value)}"' for name, value in self.attributes(element))
        written = text(element.text.strip()) if element.text and tag in ("text", "tspan") else ""
        inner = joined(written, *self.children(element))
        if tag in ("g", "defs") and (not inner or not attributes):
            return inner if tag == "g" else Markup(f"<defs>{inner}</defs>" if inner else "")
        return Markup(f"<{tag}{attributes}>{inner}</{tag}>" if inner else f"<{tag}{attributes}/>")

    def attributes(self, element: ElementTree.Element) -> Iterator[tuple[str, str]]:
        kept: dict[str, str] = {}
        for name, value in element.attrib.items():
            name = _local(name)
            if name in SHAPE or name in PAINT:
                kept[name] = value
        kept |= {name: value for name, value in _style(element.get("style", "")) if name in PAINT}
        for name, value in kept.items():
            checked = self.checked(name, value)
            if checked is not None:
                yield name, checked

    def checked(self, name: str, value: str) -> str | None:
        """The value with the figure's own names and short numbers; None where it leads out of the figure."""
        if name == "id":
            return self.names.get(value)
        if name == "href":
            value = "".join(value.split())
            if value.startswith("#"):
                return f"#{self.names[value[1:]]}"
            return value if PICTURE.fullmatch(value) else None
        value = REFERENCE.sub(lambda found: f"url(#{self.names[found[1]]})", value)
        if "url(" in REFERENCE.sub("", value).lower() or "\\" in value:
            return None
        if name in FINE:
            value = NUMBER.sub(_short, value)
        return re.sub(r"\s*([A-Za-z])\s*", r"\1", value).strip() if name == "d" else " ".join(value.split())


def _references(root: ElementTree.Element) -> Iterator[str]:
    for element in root.iter():
        for name, value in element.attrib.items():
            if _local(name) == "href" and value.strip().startswith("#"):
                yield "".join(value.split())[1:]
            yield from REFERENCE.findall(value)


def _style(text: str) -> Iterator[tuple[str, str]]:
    for declaration in text.split(";"):
        name, colon, value = declaration.partition(":")
        if colon:
            yield name.strip(), value.strip()


def _short(found: re.Match[str]) -> str:
    return f"{float(found[0]):.2f}".rstrip("0").rstrip(".")


def _local(name: str) -> str:
    """Without its namespace."""
    return name.rpartition("}")[2] if isinstance(name, str) else ""
