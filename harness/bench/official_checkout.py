"""The official codes as modules: imported from a folder the user gives, so that several of them live in one process.

They call their modules `models`, `utils`, `diffusion`: names that clash with each other's and with anybody's.
"""

import importlib
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from harness.records.provenance import git
from harness.system import torchvision_guard
from harness.system.errors import SetupError, UsageError


class Project(NamedTuple):
    """A published code, and what a training step calls of it."""

    repository: str  # "owner/name" on GitHub
    needs: tuple[str, ...]  # "module:attribute", as the code itself calls its modules
    branch: str | None = None  # None: the one that a clone has
    packages: tuple[str, ...] = ()  # modules of other projects that it imports

    @property
    def name(self) -> str:
        return self.repository.split("/")[1]


class Checkout(NamedTuple):
    modules: Mapping[str, ModuleType]  # the keys are the names that the code itself has for them
    commit: str | None  # None: the folder is no git checkout of its own
    changed: tuple[str, ...]  # Python files that differ from that commit


def load(project: Project, folder: Path) -> Checkout:
    """The modules of `project` in `folder`, and its commit. Asked again, it gives the same modules.

    Afterwards sys.path is as it was, and so is sys.modules under every name that the code uses.

    Raises UsageError when `folder` does not hold that code, SetupError when a package that it imports is missing.
    """
    if not folder.is_dir():
        raise _not_there(project, folder, "there is no such folder")
    modules = _imported(project, folder.resolve())
    own = git(folder, "rev-parse", "--show-prefix") == ""  # False for a folder inside some other repository
    changed = git(folder, "diff", "--name-only", "HEAD", "--", "*.py") if own else None
    return Checkout(modules, git(folder, "rev-parse", "HEAD") if own else None, tuple((changed or "").splitlines()))


@cache
def _imported(project: Project, folder: Path) -> dict[str, ModuleType]:
    """The modules that `project` needs, and whatever these import of its folder."""
    needed = dict.fromkeys(need.partition(":")[0] for need in project.needs)
    absent = [name for name in needed if not _source(folder, name)]
    if absent:
        raise _not_there(project, folder, f"it has no {' and no '.join(name.replace('.', '/') for name in absent)}")
    try:
        if project.packages:
            torchvision_guard.install()  # timm imports torchvision
        for package in project.packages:  # before the folder is on the path, where it could stand in for something
            importlib.import_module(package)
        with _alone(folder) as found:
            for name in needed:
                importlib.import_module(name)
    except ImportError as error:
        raise SetupError(
            f"the official code of {project.name} cannot be imported: {error}. Install what it needs with "
            "`pip install 'dit-harness[official]'`."
        ) from error
    for module, _, attribute in (need.partition(":") for need in project.needs):
        if not hasattr(found.get(module), attribute):
            raise _not_there(project, folder, f"its {module.replace('.', '/')} has no {attribute}")
    return found


@contextmanager
def _alone(folder: Path) -> Iterator[dict[str, ModuleType]]:
    """Imports find the modules in `folder` first, and none that was imported before under the name of one of these.

    Fills what it yields, at the end, with those that were imported. They stay in sys.modules under a name of their
    own, because torch.compile looks a function's globals up by the name of its module.
    """
    found: dict[str, ModuleType] = {}
    own = {entry.stem for entry in folder.iterdir() if entry.suffix == ".py" or entry.is_dir()}
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in own}
    path, bytecode = sys.path, sys.dont_write_bytecode
    sys.path, sys.dont_write_bytecode = [str(folder), *path], True  # the user's folder is read and nothing else
    importlib.invalidate_caches()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # something has become deprecated since they wrote it
            yield found
    finally:
        sys.path, sys.dont_write_bytecode = path, bytecode
        sys.path_importer_cache.pop(str(folder), None)
        for name in [name for name in sys.modules if name.split(".")[0] in own]:
            if _lies_in(sys.modules[name], folder):
                found[name] = sys.modules.pop(name)
        sys.modules.update(before)
    for name, module in found.items():
        module.__name__ = f"official_{sha256(str(folder).encode()).hexdigest()[:12]}.{name}"
        sys.modules[module.__name__] = module


def _lies_in(module: ModuleType, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    places = [file] if file else getattr(module, "__path__", [])
    return any(folder in Path(place).resolve().parents for place in places)


def _source(folder: Path, module: str) -> bool:
    path = folder.joinpath(*module.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def _not_there(project: Project, folder: Path, reason: str) -> UsageError:
    branch = f" --branch {project.branch}" if project.branch else ""
    return UsageError(
        f"{folder} does not hold the official code of {project.name}: {reason}. "
        f"`git clone{branch} https://github.com/{project.repository}` and give the folder that this makes."
    )
