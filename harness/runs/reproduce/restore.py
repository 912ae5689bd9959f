"""A configuration and manifest of a record, as this version of the harness can carry them out again."""

from pathlib import Path
from typing import Any, NamedTuple

import baselines
import harness
from harness.data import sources
from harness.data.dataset import Dataset
from harness.recipes.config import RunConfig
from harness.records.folders.newer_settings import complete
from harness.records.schema import Manifest, read_record
from harness.records.store import read_sections, reason_of
from harness.system.errors import DataError, HarnessError, SetupError, UsageError


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
            f"{folder} cannot be reproduced: {reason_of(error)}. `harness audit` tells what is whole."
        ) from None
    if _comparable(manifest.harness_version) != _comparable(harness.__version__):
        raise SetupError(
            f"{folder.name} was made by harness {manifest.harness_version}, and this is {harness.__version__}: only "
            "versions with the same first two numbers promise the same results. Install that version, or check out "
            f"commit {(manifest.git_commit or 'of it')[:10]}."
        )
    completed = complete(document, manifest.command)
    try:
        cfg = baselines.configured(document)
    except UsageError as error:
        raise SetupError(
            f"this version of the harness cannot carry out {folder.name}: {reason_of(error)}. Check out the commit it "
            f"was made with, {(manifest.git_commit or 'which it does not record')[:10]}."
        ) from None
    return Restored(cfg, manifest, completed)


def _comparable(version: str) -> list[str]:
    return version.split(".")[:2]


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
