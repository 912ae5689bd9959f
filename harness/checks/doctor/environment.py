"""Python, the harness, its packages and its settings."""

import os
import platform
from difflib import get_close_matches
from importlib import metadata
from typing import TYPE_CHECKING

import harness
from harness.checks.finding import Finding, failure, ok, warning

if TYPE_CHECKING:
    from packaging.requirements import Requirement

    from harness.system.settings import Known

PACKAGE = "dit-harness"
WHY = {"scipy": "clean-fid 0.1.35 calls sqrtm(disp=...), which SciPy 1.18 removed"}  # a bound that surprises
NO_SETTINGS = "HARNESS_NO_SETTINGS"  # a command sets it for the commands that it starts


def python() -> Finding:
    """Its version against the range that the package declares."""
    from packaging.specifiers import SpecifierSet

    wanted = metadata.metadata(PACKAGE)["Requires-Python"]
    found = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    if SpecifierSet(wanted).contains(platform.python_version(), prereleases=True):
        return ok(found)
    return failure(f"{found}; wanted is {wanted}", f"Make a virtual environment with Python {wanted}.")


def version() -> Finding:
    """The harness's version, and the commit where it runs from a checkout."""
    from harness.records.provenance import git_state

    commit, changes = git_state()
    where = f"commit {commit[:10]}" if commit else "installed as a package"
    found = f"{harness.__version__}, {where}{', with changes that are not committed' if changes else ''}"
    installed = metadata.version(PACKAGE)
    if installed != harness.__version__:
        return warning(f"{found}; pip says {installed}", "Install this checkout again: pip install -e . --no-deps.")
    return ok(found)


def packages() -> Finding:
    """Every required package against its range, and those of the extras that are installed."""
    from packaging.requirements import Requirement

    required: list[Requirement] = []  # those with a problem
    optional: list[Requirement] = []
    count = 0
    for requirement in map(Requirement, metadata.requires(PACKAGE) or []):
        of_an_extra = "extra" in str(requirement.marker or "")
        here = requirement.marker is None or requirement.marker.evaluate()  # whether this system needs the package
        if requirement.name == PACKAGE or not (of_an_extra or here):
            continue
        found = _installed(requirement.name)
        if found is None and of_an_extra:
            continue
        count += 1
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            (optional if of_an_extra else required).append(requirement)
    bad = required + optional
    if not bad:
        return ok(f"all {count} are there and in range")
    advice = " ".join(f'"{requirement.name}{requirement.specifier}"' for requirement in bad)
    return (failure if required else warning)("; ".join(map(_problem, bad)), f"Run: pip install {advice}")


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name) or "installed in part, without a version"
    except metadata.PackageNotFoundError:
        return None


def _problem(requirement: "Requirement") -> str:
    why = f" ({WHY[requirement.name]})" if requirement.name in WHY else ""
    wanted = requirement.specifier or "any version"
    return f"{requirement.name} is {_installed(requirement.name) or 'not installed'}; wanted is {wanted}{why}"


def configuration(known: "Known") -> Finding:
    """harness.toml and HARNESS_* variables: whether they can be read, and what they set of the options of `known`."""
    from harness.records.provenance import COMMIT
    from harness.system import settings
    from harness.system.errors import HarnessError

    try:
        read = settings.read(known)
    except HarnessError as error:
        return failure(str(error), "Correct that line; harness config show --all lists what can be set.")
    names = {settings.variable(command, key) for command in known for key in known[command]}
    names |= {*settings.FOLDERS.values(), NO_SETTINGS, COMMIT}
    strange = sorted(name for name in os.environ if name.startswith("HARNESS_") and name not in names)
    number = len(read.folders) + sum(len(options) for options in read.options.values())
    there = [settings.shown(path) for path in settings.files() if path.is_file()]
    found = f"{' and '.join(there) or 'no harness.toml'}, {number} set"
    if strange:
        near = get_close_matches(strange[0], names, n=1)
        return warning(
            f"{found}; nothing reads {', '.join(strange)}",
            f"Did you mean {near[0]}?" if near else f"Unset {strange[0]}; harness config show --all lists the names.",
        )
    return ok(found, "harness config show --origin says what, and by which." if number else "")
