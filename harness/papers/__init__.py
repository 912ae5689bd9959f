"""The papers, one folder each: published numbers, claims, and for the paper under test figures, tables and sweeps.

A folder may have CSV files of published numbers with `protocols.csv`, the conditions under which they were obtained;
`paper.yaml` and `claims.yaml`, what the paper is and what it claims; `deviations.yaml`, `figures.yaml`, `tables.yaml`
and `sweeps.yaml`. A new paper is a new folder: there is no list of them.
"""

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from harness.recipes.config import plain_values


def folders() -> list[Traversable]:
    """The folder of each paper, by name."""
    found = [folder for folder in files("harness.papers").iterdir() if folder.is_dir() and folder.name[0] not in "._"]
    return sorted(found, key=lambda folder: folder.name)


def documents(name: str) -> Iterator[tuple[str, Any]]:
    """The YAML file called `name` of each paper that has one, with the name of the paper's folder."""
    for folder in folders():
        if (file := folder / name).is_file():
            yield folder.name, plain_values(file.read_text(encoding="utf-8"))


@cache
def specified(name: str) -> dict[str, Any]:
    """The entries of all papers' files called `name`: "figures.yaml" has the specification of each figure."""
    return {entry: said for _, document in documents(name) for entry, said in document.items()}
