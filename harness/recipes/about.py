"""What a method's <name>.yaml says of it to figures, tables and model cards, which read no code of methods."""

from typing import Any

from pydantic import Field

from harness.recipes.config import Settings


class LossPart(Settings):
    """A part of the loss, under the name that Method.forward gives it without "loss/"."""

    quantity: str  # "denoising", "discriminative", ...: parts of different quantities never share axes
    title: str
    dashed: bool = False  # drawn so: beside another part of the same quantity


class Paper(Settings):
    """Where the method was published."""

    authors: str  # as one cites them: "Zhu et al."
    title: str
    year: int
    arxiv: str


class About(Settings):
    """How a method is called and drawn, and what its paper says. A method that says nothing is called by its name."""

    title: str
    title_without: dict[str, str] = Field(default_factory=dict)  # knob: the title of what runs where the knob is off
    title_with: dict[str, dict[str, str]] = Field(default_factory=dict)  # knob: value: what it adds to the title
    colour: str | None = Field(None, pattern="^#[0-9A-Fa-f]{6}$")
    marker: str | None = Field(None, max_length=1)  # as matplotlib calls it
    paper: Paper | None = None
    licence: str | None = None  # the official weights', as Hugging Face lists licences
    printed_knobs: dict[str, Any] = Field(
        default_factory=dict
    )  # those that the paper prints: a run with others is not the paper's
    losses: dict[str, LossPart] = Field(default_factory=dict)
