"""The papers, one folder each: published numbers, and for the paper under test its claims, deviations and figures.

A folder has CSV files of published numbers and `protocols.csv`, the conditions under which they were obtained. It may
have `deviations.yaml` and `sweeps.yaml`. A new paper is a new folder: what reads these files reads every folder.
"""

from importlib.resources import files
from importlib.resources.abc import Traversable


def folders() -> list[Traversable]:
    """The folder of each paper, by name."""
    found = [folder for folder in files("harness.papers").iterdir() if folder.is_dir() and folder.name[0] not in "._"]
    return sorted(found, key=lambda folder: folder.name)
