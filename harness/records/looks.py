"""How methods, settings and devices are named and drawn, the same in every figure and table."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from zlib import crc32

from harness.recipes.config import ADDITIONS, leaves
from harness.recipes.naming import without_later_defaults
from harness.recipes.plugins import built_in
from harness.recipes.reading import OWN, about, families, published
from harness.records.schema import Device, Manifest

REFERENCE = "dit"  # what every relative number is relative to
# Colours of Okabe and Ito (2008), which colour-blind readers can tell apart, for methods that choose none.
SPARE = (("#56B4E9", "v"), ("#E69F00", "P"), ("#000000", "X"))
# Part of the method as published: these may differ.
OF_THE_METHOD = {"formulation", "sampler", "num_steps", "nfe", "sde_diffusion", "sde_last_step"}
FINAL = "final"  # the name of the evaluation after the last step
SHORT_HASH = 8
LONGEST_NAME = 40

Scalar = str | int | float | bool | None


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
    """The name of what ran here: MDT without its relative positions is not the paper's MDT, nor SiT + TREAD SiT."""
    return " + ".join(_title(name, knobs) for name in (method, *(knobs.get(ADDITIONS) or ())))


def _title(method: str, knobs: Mapping[str, Any]) -> str:
    said = about(method)
    title = next((title for knob, title in said.title_without.items() if not knobs.get(knob)), said.title)
    return title + "".join(added.get(str(knobs.get(knob)), "") for knob, added in said.title_with.items())


def from_title(title: str) -> str:
    """The method the published tables call `title`."""
    return next((name for name in families() if about(name).title == title), title.lower())


def order(method: str) -> tuple[bool, str]:
    """Sort key: the harness's own methods by name, then the others."""
    return (method not in built_in(), method)


def differing(documents: Sequence[Mapping[str, Scalar]]) -> list[str]:
    """Keys whose value is not the same in all of `documents`, in their order."""
    keys = dict.fromkeys(key for document in documents for key in document)
    return [key for key in keys if len({repr(document.get(key)) for document in documents}) > 1]


def describe(document: Mapping[str, Scalar], keys: Sequence[str]) -> str:
    """ " (learning_rate 0.0001, seed 1)", or nothing without keys."""
    parts = []
    for key in keys:
        value = document.get(key)
        text = str(value)[:SHORT_HASH] if key.endswith("sha256") else str(value)
        parts.append(f"{key.rpartition('.')[2]} {text}")
    return f" ({', '.join(parts)})" if parts else ""


def distinct(titles: Sequence[tuple[str, Mapping[str, Scalar]]]) -> list[str]:
    """The titles, each with what its document says and another document of the same title does not."""
    alike = {title: [document for other, document in titles if other == title] for title, _ in titles}
    return [title + describe(document, differing(alike[title])) for title, document in titles]


def versions(manifests: Iterable[Manifest]) -> Iterator[str]:
    """A note where runs come from several versions of the code, and one where from several of torch."""
    found = list(manifests)
    commits = {(manifest.git_commit, manifest.git_diff_sha256) for manifest in found}
    torches = {manifest.packages.get("torch") for manifest in found}
    for what, number in (("the code", len(commits)), ("torch", len(torches))):
        if number > 1:
            yield f"The runs come from {number} versions of {what}."


def device_title(device: Device) -> str:
    name = " ".join(re.sub(r"\((R|TM)\)|\bCPU\b", " ", device.name).split())
    if device.kind == "cpu":
        return f"{name}, {device.threads} thread{'s' if device.threads != 1 else ''}"
    return f"{device.count} x {name}" if device.count > 1 else name


def flat(prefix: str, document: Mapping[str, object]) -> dict[str, Scalar]:
    """A nested document as one level: {"protocol.steps": 600}."""
    found = leaves({prefix: document})
    return {path: value if isinstance(value, str | int | float | bool | None) else repr(value) for path, value in found}


def chosen(config: Mapping[str, Any]) -> dict[str, Scalar]:
    """A run's settings of formulation flow and of its blocks that are not at their defaults: {"flow.path": "gvp"}."""
    sections = {section: without_later_defaults(section, config.get(section, {})) for section in OWN}
    return {path: value for section, settings in sections.items() for path, value in flat(section, settings).items()}


def formulation_title(config: Mapping[str, Any]) -> str:
    """A run's formulation and what it has chosen: "flow, path gvp, mlp swiglu"."""
    own = (f"{path.partition('.')[2]} {value}" for path, value in chosen(config).items())
    return ", ".join([str(config["formulation"]), *own])


def published_title(method: str, size: str) -> str | None:
    """The formulation_title of a run as the method's recipe has it; None for a recipe that is not on this machine."""
    said = published(method, size)
    return None if said is None else formulation_title(said)
