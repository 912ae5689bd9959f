"""Python, the harness, its packages, the clock and the terminal."""

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import harness
from harness.checks.doctor.finding import PLACES, Finding, failure, ok, warning

if TYPE_CHECKING:
    from harness.system.settings import Known

PACKAGE = "dit-harness"
WHY = {"scipy": "clean-fid 0.1.35 calls sqrtm(disp=...), which SciPy 1.18 removed"}  # a bound that surprises
NARROW = 60  # columns
NO_SETTINGS = "HARNESS_NO_SETTINGS"  # what the command line says to commands that it starts
CLOCK_SLACK = 24 * 3600  # seconds that a clock may run behind a file's: time zones of file systems


def python() -> Finding:
    """Its version against the range that the package declares."""
    from packaging.specifiers import SpecifierSet

    wanted = metadata.metadata(PACKAGE)["Requires-Python"]
    found = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    if SpecifierSet(wanted).contains(platform.python_version(), prereleases=True):
        return ok("Python", found)
    return failure("Python", f"{found}; wanted is {wanted}", f"Make a virtual environment with Python {wanted}.")


def version() -> Finding:
    """The harness's version, and the commit where it runs from a checkout."""
    root = Path(harness.__file__).parent.parent
    found = f"{harness.__version__}, installed as a package"
    if (root / ".git").exists():
        commit, changes = (_git(root, *words) for words in (("rev-parse", "--short=10", "HEAD"), ("status", "-s")))
        found = f"{harness.__version__}, commit {commit or 'unknown'}"
        found += ", with changes that are not committed" if changes else ""
    installed = metadata.version(PACKAGE)
    if installed != harness.__version__:
        return warning(
            "harness", f"{found}; pip says {installed}", "Install this checkout again: pip install -e . --no-deps."
        )
    return ok("harness", found)


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def dependencies() -> Iterator[Finding]:
    """Every required package against its range: one line for all that fit, one for each that does not."""
    good, bad = 0, []
    for requirement in _requirements():
        if "extra" in str(requirement.marker or ""):
            continue
        problem = _problem(requirement)
        if problem is None:
            good += 1
            continue
        why = f" ({WHY[requirement.name]})" if requirement.name in WHY else ""
        bad.append(
            failure(requirement.name, problem + why, f'Run: pip install "{requirement.name}{requirement.specifier}"')
        )
    total = good + len(bad)
    if bad:
        yield from bad
        yield failure("packages", f"{good} of {total} are there and in range", "Mend those above, one by one.")
    else:
        yield ok("packages", f"all {total} are there and in range")


def extras() -> Iterator[Finding]:
    """What is optional: there, not there, or there in a version out of range."""
    wanted: dict[str, list] = {name: [] for name in metadata.metadata(PACKAGE).get_all("Provides-Extra") or []}
    for requirement in _requirements():
        for extra, members in wanted.items():
            if _belongs(requirement, extra):
                members.append(requirement)
    there, absent = [], []
    for extra, members in wanted.items():
        problems = [problem for member in members if (problem := _problem(member))]
        broken = [problem for problem in problems if "not installed" not in problem]
        if broken:
            yield warning(f"extra {extra}", "; ".join(broken), f"Run: pip install -U '{PACKAGE}[{extra}]'")
        elif problems:
            absent.append(extra)
        else:
            there.append(extra)
    found = f"{', '.join(there) or 'none'}" + (f"; not there: {', '.join(absent)}" if absent else "")
    yield ok("extras", found, f"To add one: pip install '{PACKAGE}[{absent[0]}]'." if absent else "")


def _requirements() -> list:
    from packaging.requirements import Requirement

    return [Requirement(line) for line in metadata.requires(PACKAGE) or []]


def _belongs(requirement, extra: str) -> bool:
    """Whether this extra, and not every installation, brings the package; other extras of our own are not packages."""
    marker = requirement.marker
    if marker is None or requirement.name == PACKAGE:
        return False
    return marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _problem(requirement) -> str | None:
    """What is wrong with the installed version of a package; None for nothing, or where it is not for this system."""
    if requirement.marker is not None and "extra" not in str(requirement.marker) and not requirement.marker.evaluate():
        return None
    try:
        found = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed; wanted is {requirement.specifier or 'any version'}"
    if found is None:
        return f"{requirement.name} is installed in part: it has no version"
    if requirement.specifier.contains(found, prereleases=True):
        return None
    return f"{requirement.name} is {found}; wanted is {requirement.specifier}"


def clock() -> Finding:
    """The time now is not before the files of this installation were written."""
    package = Path(harness.__file__).parent
    newest = max(file.stat().st_mtime for file in package.glob("*.py"))
    now = time.time()
    said = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    if now < newest - CLOCK_SLACK:
        written = time.strftime("%Y-%m-%d", time.gmtime(newest))
        return warning(
            "clock",
            f"{said}, but the harness's own files are of {written}",
            "Set the clock; https downloads and the times in records go wrong otherwise.",
        )
    return ok("clock", said)


def terminal() -> Finding:
    """Encoding and width of where the answer goes. Asked in the process that prints it."""
    encoding = (sys.stdout.encoding or "none").lower()
    columns = shutil.get_terminal_size().columns
    found = f"{encoding}, {columns} columns" + ("" if sys.stdout.isatty() else " (not a terminal)")
    if encoding.replace("-", "").replace("_", "") != "utf8":
        return warning(
            "text",
            found,
            "Set a UTF-8 locale, like LC_ALL=C.UTF-8, or PYTHONUTF8=1; names and reports hold × and other signs.",
        )
    if columns < NARROW:
        return warning("text", found, f"Widen the terminal to {NARROW} columns or more, or set COLUMNS; tables wrap.")
    return ok("text", found)


def variables() -> Finding:
    """The variables that move caches or change how libraries behave, which are set here."""
    known = (
        "HARNESS_CACHE", "HARNESS_DATA", "HARNESS_FEATURES", "HARNESS_VAE", "HF_HOME", "HF_HUB_CACHE", "TORCH_HOME",
        "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "WORLD_SIZE", "SLURM_JOB_ID",
    )  # fmt: skip
    given = {name: os.environ[name] for name in known if os.environ.get(name)}
    lost = [name for name in given if name in PLACES and not Path(given[name]).is_dir()]
    found = ", ".join(name if name in PLACES else f"{name}={value}" for name, value in given.items()) or "none is set"
    if lost:
        return warning(
            "variables", f"{found}; no folder is where {' and '.join(lost)} point(s)", f"Make it, or unset {lost[0]}."
        )
    return ok("variables", found)


def configuration(known: "Known") -> Finding:
    """harness.toml and HARNESS_* variables: whether they can be read, and what they set of the options of `known`."""
    from harness.system import settings
    from harness.system.errors import HarnessError

    try:
        read = settings.read(known)
    except HarnessError as error:
        return failure("settings", str(error), "Mend that line; harness config show --all lists what can be set.")
    names = {settings.variable(command, key) for command in known for key in known[command]}
    names |= {*settings.FOLDERS.values(), NO_SETTINGS}
    strange = sorted(name for name in os.environ if name.startswith("HARNESS_") and name not in names)
    number = len(read.folders) + sum(len(options) for options in read.options.values())
    there = [settings.shown(path) for path in settings.files() if path.is_file()]
    found = f"{' and '.join(there) or 'no harness.toml'}, {number} set"
    if strange:
        near = get_close_matches(strange[0], names, n=1)
        return warning(
            "settings",
            f"{found}; nothing reads {', '.join(strange)}",
            f"Did you mean {near[0]}?" if near else f"Unset {strange[0]}; harness config show --all lists the names.",
        )
    return ok("settings", found, "harness config show --origin says what, and by which." if number else "")
