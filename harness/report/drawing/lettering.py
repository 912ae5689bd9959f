"""Breaks text into lines of a given width, measured with the letters that will be drawn."""

from functools import cache

from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontProperties

DPI = 200  # as the PNG: at fewer dots the letters are rounded to other widths


def wrap(text: str, inches: float, *, size: float, weight: str = "normal") -> list[str]:
    """The text's words in lines no wider than `inches`; a single word that is wider has a line of its own."""
    space = _width("a a", size, weight) - _width("aa", size, weight)
    lines: list[list[str]] = []
    reached = 0.0
    for word in text.split():
        width = _width(word, size, weight)
        if lines and reached + space + width <= inches:
            lines[-1].append(word)
            reached += space + width
        else:
            lines.append([word])
            reached = width
    return [" ".join(words) for words in lines]


def text_width(text: str, *, size: float, weight: str = "normal") -> float:
    """Inches that one line of text takes."""
    return _width(text, size, weight)


@cache  # the same few words come back in every panel
def _width(text: str, size: float, weight: str) -> float:
    font = FontProperties(size=size, weight=weight)
    return _renderer().get_text_width_height_descent(text, font, ismath=False)[0] / DPI


@cache
def _renderer() -> RendererAgg:
    return RendererAgg(1, 1, DPI)
