"""How a method is named and drawn, the same in every figure and table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from zlib import crc32

REFERENCE = "dit"  # what every relative number is relative to


@dataclass(frozen=True)
class Look:
    title: str  # as the papers write it
    colour: str  # Okabe and Ito 2008: told apart with every kind of colour vision
    marker: str


LOOKS = {
    "dit": Look("DiT", "#0072B2", "o"),
    "maskdit": Look("MaskDiT", "#CC79A7", "s"),
    "mdt": Look("MDT", "#009E73", "^"),
    "sddit": Look("SD-DiT", "#D55E00", "D"),
}
SPARE = (("#56B4E9", "v"), ("#E69F00", "P"), ("#000000", "X"))  # for methods added later, chosen by their name


def look(method: str) -> Look:
    if method in LOOKS:
        return LOOKS[method]
    colour, marker = SPARE[crc32(method.encode()) % len(SPARE)]
    return Look(method, colour, marker)


def measured_title(method: str, knobs: Mapping[str, Any]) -> str:
    """The name of what ran here: MDT without its relative positions is not the paper's MDT."""
    if method == "mdt" and not knobs.get("relative_position"):
        return "MDT-lite"
    return look(method).title


def from_title(title: str) -> str:
    """The method the published tables call `title`."""
    return next((name for name, known in LOOKS.items() if known.title == title), title.lower())


def order(method: str) -> tuple[int, str]:
    """Sort key: the known methods as the papers appeared, then the others by name."""
    known = list(LOOKS)
    return (known.index(method) if method in known else len(known), method)
