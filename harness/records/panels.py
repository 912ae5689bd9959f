"""What the papers print about their methods, and how settings and devices are written."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from harness.recipes.config import leaves
from harness.records.schema import Device, Manifest

OF_THE_METHOD = {"formulation", "sampler", "num_steps", "nfe"}  # part of the method as published: these may differ
FINAL = "final"  # the name of the evaluation after the last step
SHORT_HASH = 8
LONGEST_NAME = 40

Scalar = str | int | float | bool | None


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
