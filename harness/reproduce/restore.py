"""A configuration and manifest of a record, as this version of the harness can carry them out again."""

from pathlib import Path
from typing import Any, NamedTuple

import harness
from harness.config import RunConfig, validate
from harness.data import sources
from harness.data.dataset import Dataset
from harness.errors import DataError, HarnessError, SetupError, UsageError
from harness.recipes import load_recipe
from harness.results.folders.departures import departures
from harness.results.schema import Manifest, read_record
from harness.results.store import one_line, read_sections
from harness.training import registry


class Restored(NamedTuple):
    cfg: RunConfig
    manifest: Manifest
    completed: dict[str, Any]  # settings newer than the record, with the recipe's values


def restored(folder: Path) -> Restored:
    """The run in `folder` to be carried out again.

    A setting that is newer than the record gets the value of the recipe as it is now, and is told. Raises DataError
    when `folder` is no run or its records are damaged, SetupError when this version cannot carry it out.
    """
    if not folder.is_dir() or not (folder / "config.yaml").is_file():
        raise DataError(f"{folder} is not a run folder: it has no config.yaml. Name one, like runs/<recipe>/<run-id>.")
    if (folder / "import.json").is_file():
        raise DataError(
            f"{folder} is an imported checkpoint: how it was trained is not recorded, so nobody can repeat it."
        )
    try:
        document, manifest = read_sections(folder), read_record(folder / "manifest.json", Manifest)
    except DataError as error:
        raise DataError(
            f"{folder} cannot be reproduced: {one_line(error)}. `harness audit` tells what is whole."
        ) from None
    if _comparable(manifest.harness_version) != _comparable(harness.__version__):
        raise SetupError(
            f"{folder.name} was made by harness {manifest.harness_version}, and this is {harness.__version__}: only "
            "versions with the same first two numbers promise the same results. Install that version, or check out "
            f"commit {(manifest.git_commit or 'of it')[:10]}."
        )
    completed = _complete(document, manifest.command)
    try:
        cfg = validate(document, registry.load(document["method"]).Config)
    except UsageError as error:
        raise SetupError(
            f"this version of the harness cannot carry out {folder.name}: {one_line(error)}. Check out the commit it "
            f"was made with, {(manifest.git_commit or 'which it does not record')[:10]}."
        ) from None
    return Restored(cfg, manifest, completed)


def _comparable(version: str) -> list[str]:
    return version.split(".")[:2]


def _complete(document: dict[str, Any], command: str) -> dict[str, Any]:
    """Puts settings of today's recipe into a `document` that is older than they are; returns them by path."""
    try:
        recipe = load_recipe(str(document.get("recipe")), str(document.get("formulation"))).document
    except UsageError:
        return {}  # no such recipe: validating says which settings are missing
    completed = {}
    for path in departures(document, command).absent:
        section, _, name = path.partition(".")
        if section in document and name and name in recipe.get(section, {}):
            document[section][name] = completed[path] = recipe[section][name]
    return completed


def data_of(then: Restored) -> Dataset:
    """The data of the run, by content. Raises DataError when they are absent, or are not those it was made with."""
    known = then.manifest.data
    try:
        found = sources.of(then.cfg)
    except HarnessError as error:
        raise type(error)(f"the data of this run, {known.name}, cannot be had: {error}") from None
    if found.sha256 != known.sha256:
        raise DataError(
            f"{known.name} is not what the run was made with: its sha256 is {found.sha256[:12]} here and "
            f"{known.sha256[:12]} in manifest.json. A re-run on it would compare two experiments; get the data of that "
            "hash (`harness data info` tells a store's)."
        )
    return found
