"""Methods that other packages bring, each an entry point of the group `harness.methods`.

An entry point's name is the method's, its value the module with Config and Method, in a package that holds the method's
recipes as <name>.yaml too. Finding them imports nothing, so a broken package raises an error only
when it is used; doctor reports it too.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.resources import files
from types import ModuleType
from typing import Any, Literal, NamedTuple

from pydantic import Field, ValidationError

from harness.recipes.about import About
from harness.recipes.config import Settings, plain_values
from harness.system.errors import SetupError

GROUP = "harness.methods"
NO_METHODS = {"protocols"}  # YAML files in recipes/ that belong to no method


class Plugin(NamedTuple):
    """One method of another package."""

    name: str
    module: str  # "minsnr_method.minsnr"
    distribution: str
    version: str

    @property
    def package(self) -> str:
        """The package that the module lies in, with the recipes; empty for a module that lies in none."""
        return self.module.rpartition(".")[0]

    @property
    def origin(self) -> str:
        """The distribution and its version, as a manifest and `harness recipes list` name it."""
        return f"{self.distribution} {self.version}"

    def broken(self, why: str) -> SetupError:
        """The error that says why this package's method cannot be used, and what to do."""
        return SetupError(
            f"the method {self.name} comes from the package {self.origin}, {why}. Mend that package, or "
            f"`pip uninstall {self.distribution}`; the other methods do not need it."
        )


class Leaf(Settings):
    """A value and where it comes from, as recipes write every value."""

    value: Any
    source: str


class Size(Settings):
    """What the method sets at one size; the rest is harness/recipes/protocols.yaml's, the same for every method."""

    repeats: str = "nothing"  # the published results it repeats
    knobs: dict[str, Leaf] = Field(default_factory=dict)


class Conflict(Settings):
    """A setting for which sources disagree."""

    setting: str
    taken: Any
    others: list[Leaf]
    why: str
    sizes: list[str] | None = None  # all of them


class Family(Settings):
    """What a plug-in's <name>.yaml holds, as the built-in methods' do."""

    about: About | None = None
    formulation: Leaf  # the one that the method is published with
    flow: dict[str, dict[str, Leaf]] = Field(default_factory=dict)  # base, then each size's own
    block: dict[str, dict[str, Leaf]] = Field(default_factory=dict)
    sizes: dict[Literal["tiny", "mini", "s", "b", "l", "xl", "xl-512"], Size | None]
    conflicts: list[Conflict] = Field(default_factory=list)


@lru_cache
def built_in() -> list[str]:
    """The harness's own methods, by their recipes: names that no plug-in can take."""
    folder = files("harness") / "recipes"
    names = {entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")}
    return sorted(names - NO_METHODS)


def found() -> dict[str, tuple[Plugin, ...]]:
    """The plug-ins by the name of their method; more than one where packages claim the same name."""
    return {name: claimed for name, claimed in _claims().items() if name not in built_in()}


def refused() -> dict[str, str]:
    """Why plug-ins are refused that claim a name of the harness's own, which keeps its meaning."""
    return {
        name: f"{' and '.join(plugin.origin for plugin in claimed)}: refused, for {name} is a method of the harness's "
        "own; rename its entry point."
        for name, claimed in _claims().items()
        if name in built_in()
    }


@lru_cache
def _claims() -> Mapping[str, tuple[Plugin, ...]]:
    claims: dict[str, dict[Plugin, None]] = {}  # a folder that stands in sys.path twice is found twice
    for point in entry_points(group=GROUP):
        assert point.dist is not None  # entry_points() reads them from distributions
        plugin = Plugin(point.name, point.value.partition(":")[0].strip(), point.dist.name, point.dist.version)
        claims.setdefault(point.name, {})[plugin] = None
    return {name: tuple(plugins) for name, plugins in sorted(claims.items())}


def packages(methods: Iterable[str]) -> dict[str, str]:
    """The versions of the distributions that bring these methods: what decides their numbers, for a manifest."""
    return {plugin.distribution: plugin.version for name in methods for plugin in found().get(name, ())}


def named(name: str) -> Plugin:
    """The plug-in that brings the method `name`, one of found().

    Raises SetupError when two packages claim it, or for an entry point that cannot be used.
    """
    plugin, *others = found()[name]
    if others:
        raise SetupError(
            f"{' and '.join(each.origin for each in (plugin, *others))} both bring a method called {name}; uninstall "
            "one of them."
        )
    if not plugin.package or not plugin.name.isidentifier():
        raise plugin.broken(
            f"whose entry point is {plugin.name} = {plugin.module}: the name must be a word without a hyphen, and the "
            "module must lie in a package, where its recipes are"
        )
    return plugin


def load(plugin: Plugin) -> ModuleType:
    """Its module. Raises SetupError with the cause when it cannot be imported or lacks Config or Method."""
    try:
        module = import_module(plugin.module)
    except Exception as error:  # whatever another package's code raises
        raise plugin.broken(f"which cannot be imported: {type(error).__name__}: {error}") from error
    missing = [name for name in ("Config", "Method") if not isinstance(getattr(module, name, None), type)]
    if missing:
        raise plugin.broken(f"whose module {plugin.module} has no class {' and no '.join(missing)}")
    return module


@lru_cache
def family(plugin: Plugin) -> Mapping[str, Any]:
    """Its recipes, as <name>.yaml holds them. Raises SetupError when they are missing or not as Family says."""
    try:
        document = plain_values((files(plugin.package) / f"{plugin.name}.yaml").read_text(encoding="utf-8"))
        Family.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise plugin.broken(f"whose {plugin.name}.yaml is no family of recipes: {where}: {first['msg']}") from error
    except Exception as error:  # the package's own __init__ runs, and its file may hold anything
        raise plugin.broken(f"whose {plugin.name}.yaml cannot be read: {type(error).__name__}: {error}") from error
    return document
