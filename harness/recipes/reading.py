"""The recipes: what each sets, where each value comes from, and where its sources disagree.

A recipe is <method>-<size>. recipes/<method>.yaml says what the method brings; recipes/protocols.yaml what all methods
of a size share, so that two methods cannot drift apart. Every value in them is written {value: ..., source: ...}; the
defaults of a method's knobs, and their sources, are the fields of Config in baselines/<method>.py. A method of another
package (harness.recipes.plugins) brings the first of the two files and the module; the second holds for it too.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

from harness.recipes import plugins
from harness.recipes.about import About
from harness.recipes.config import Knobs, RunConfig, leaves, plain_values
from harness.system.errors import SetupError, UsageError, unknown

SHARED = "protocols.yaml"
NAMES = ("recipe", "method", "size", "seed")  # what a run is called; everything else has a value with a source
# In protocols.yaml: base, then each size's own.
SECTIONS = ("input", "network", "protocol", "evaluation", "execution")
OWN = ("flow", "block")  # a method's file may have these too, and what it says there goes before protocols.yaml


class Recipe(NamedTuple):
    """One recipe, resolved but for the knobs' own defaults."""

    document: dict[str, Any]  # nested, as RunConfig takes it
    sources: dict[str, str]  # "protocol.steps" -> where the value comes from
    conflicts: list[dict[str, Any]]  # setting, taken, others: [{value, source}], why
    repeats: str  # the published results it is there to repeat


class Setting(NamedTuple):
    """One setting of a recipe, by its path."""

    path: str  # "protocol.steps"
    value: Any
    source: str


def recipe_names() -> list[str]:
    """The recipes of every method that can be used, those of other packages too; `broken` names the others."""
    unusable = broken().keys() & plugins.found().keys()
    usable = [method for method in families() if method not in unusable]
    return sorted(f"{method}-{size}" for method in usable for size in _family(method)["sizes"])


def families() -> list[str]:
    """The methods that have recipes. Nothing of a method is imported."""
    return sorted({*plugins.built_in(), *plugins.found()})


def origin(method: str) -> str:
    """Where a method comes from: "harness", or a distribution and its version."""
    return "harness" if method in plugins.built_in() else plugins.named(method).origin


def about(method: str) -> About:
    """What the method's recipes say of it; of a method that is not on this machine, its name."""
    if method in plugins.built_in():
        return _own_about(method)
    try:
        said = _family(method).get("about") if method in plugins.found() else None
    except SetupError:  # its package is broken, which `broken` says
        said = None
    return About.model_validate(said or {"title": method})


@lru_cache
def _own_about(method: str) -> About:
    return About.model_validate(_read(f"{method}.yaml")["about"])


def published(method: str, size: str) -> dict[str, Any] | None:
    """The formulation, the settings of flow and those of blocks that the method's recipe of this size has.

    None for one that is not on this machine.
    """
    if f"{method}-{size}" not in recipe_names():
        return None
    document = load_recipe(f"{method}-{size}").document
    return {key: document[key] for key in ("formulation", *OWN)}


def published_steps(sampler: str | None) -> int | None:
    """The steps of the sampler at paper scale."""
    sections = (section["base"] for section in _read(SHARED)["sampling"].values())
    return next((base["num_steps"]["value"] for base in sections if base["sampler"]["value"] == sampler), None)


def broken() -> dict[str, str]:
    """Methods of other packages that cannot be used, by their recipes or for their name, and why."""
    reasons = plugins.refused()
    for method in plugins.found():
        try:
            _family(method)
        except SetupError as error:
            reasons[method] = str(error)
    return reasons


def load_recipe(name: str, formulation: str | None = None) -> Recipe:
    """The recipe called `name`; another `formulation` than its own brings that formulation's sampler with it.

    Raises UsageError, with the nearest names, when there is none; SetupError when it is of another package that is
    broken.
    """
    method, _, size = name.partition("-")
    if name not in recipe_names():
        if method in plugins.found():
            _family(method)
        raise unknown("recipe", name, recipe_names())
    family, shared = _family(method), _read(SHARED)
    own = family["sizes"][size] or {}
    chosen = {"value": formulation, "source": "asked for"} if formulation else family["formulation"]
    if chosen["value"] not in shared["sampling"]:
        raise UsageError(f"formulation is {formulation!r}; it must be {_formulations()}.")
    annotated = {
        "formulation": chosen,
        "knobs": own.get("knobs", {}),
        "sampling": _merged(shared["sampling"][chosen["value"]], size),
        **{section: _merged(shared[section], size) for section in SECTIONS},
        **{section: _merged(shared[section], size) | _merged(family.get(section, {}), size) for section in OWN},
    }
    leaves = dict(_leaves(annotated))
    document: dict[str, Any] = {"recipe": name, "method": method, "size": size, "seed": 0, "knobs": {}}
    for path, leaf in leaves.items():
        _set(document, path.split("."), leaf["value"])
    sources = {path: leaf["source"] for path, leaf in leaves.items()}
    conflicts = [*_conflicts(shared, size), *_conflicts(family, size)]
    return Recipe(document, sources, conflicts, own.get("repeats", "nothing"))


def knobs_of(method: str, size: str) -> dict[str, Any]:
    """The knobs that the method's recipe of this size sets; none where it has no such recipe."""
    own = _family(method)["sizes"].get(size) or {}
    return {name: leaf["value"] for name, leaf in own.get("knobs", {}).items()}


def settings(recipe: Recipe, knobs: type[Knobs]) -> list[Setting]:
    """What a recipe sets, in the order of a run's configuration, with the `knobs` that it leaves to the method."""
    own = knobs.model_validate(recipe.document["knobs"]).model_dump(mode="json")
    described = {f"knobs.{name}": field.description or "" for name, field in knobs.model_fields.items()}
    sources = {**described, **recipe.sources}
    run = {**recipe.document, "knobs": own}
    found = leaves({name: run[name] for name in RunConfig.model_fields})
    return [Setting(path, value, sources[path]) for path, value in found if path not in NAMES]


def _merged(section: Mapping[str, Any], size: str) -> dict[str, Any]:
    """A section for one size: base, and what the size says otherwise, which may be one value for the whole section."""
    own = section.get(size, {})
    return own if _is_leaf(own) else {**section.get("base", {}), **own}


def _conflicts(part: Mapping[str, Any], size: str) -> list[dict[str, Any]]:
    """Those of a file's conflicts that this size has."""
    here = [conflict for conflict in part.get("conflicts", []) if size in conflict.get("sizes", [size])]
    return [{key: value for key, value in conflict.items() if key != "sizes"} for conflict in here]


def _is_leaf(node: Mapping[str, Any]) -> bool:
    return set(node) == {"value", "source"}


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for key, value in node.items():
        if _is_leaf(value):
            yield f"{prefix}{key}", value
        else:
            yield from _leaves(value, f"{prefix}{key}.")


def _set(document: dict[str, Any], path: list[str], value: Any) -> None:
    for parent in path[:-1]:
        document = document.setdefault(parent, {})
    document[path[-1]] = value


def _family(method: str) -> Mapping[str, Any]:
    if method not in plugins.found():
        return _read(f"{method}.yaml")
    plugin = plugins.named(method)
    family = plugins.family(plugin)
    formulation = family["formulation"]["value"]
    if formulation not in _read(SHARED)["sampling"]:
        raise plugin.broken(
            f"whose {method}.yaml has {formulation!r} as formulation.value; it must be {_formulations()}"
        )
    return family


def _formulations() -> str:
    """Those that can be sampled, in words."""
    return " or ".join(sorted(_read(SHARED)["sampling"]))


@lru_cache
def _read(name: str) -> dict[str, Any]:
    return plain_values((files("harness") / "recipes" / name).read_text(encoding="utf-8"))
