"""How a method is named and drawn, the same in every figure and table."""

from collections.abc import Mapping
from typing import Any, NamedTuple
from zlib import crc32

from harness.recipes.plugins import built_in
from harness.recipes.reading import about, families

REFERENCE = "dit"  # what every relative number is relative to
# Okabe and Ito 2008: told apart with every kind of colour vision. Of methods that choose none, by their name.
SPARE = (("#56B4E9", "v"), ("#E69F00", "P"), ("#000000", "X"))


class Look(NamedTuple):
    title: str  # as the papers write it
    colour: str
    marker: str


def look(method: str) -> Look:
    """The method's own, from its recipes; a record whose package is absent is called by the method's name."""
    said = about(method)
    colour, marker = SPARE[crc32(method.encode()) % len(SPARE)]
    return Look(said.title, said.colour or colour, said.marker or marker)


def measured_title(method: str, knobs: Mapping[str, Any]) -> str:
    """The name of what ran here: MDT without its relative positions is not the paper's MDT."""
    said = about(method)
    return next((title for knob, title in said.title_without.items() if not knobs.get(knob)), said.title)


def from_title(title: str) -> str:
    """The method the published tables call `title`."""
    return next((name for name in families() if about(name).title == title), title.lower())


def order(method: str) -> tuple[bool, str]:
    """Sort key: the harness's own methods by name, then the others."""
    return (method not in built_in(), method)
