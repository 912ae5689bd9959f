"""What a run's configuration sets otherwise than its recipe, and where each such value comes from.

A knob that the recipe leaves to its method has the default of Config in baselines/<method>.py. That file is read and
not imported, since it needs torch.
"""

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from harness.recipes.config import leaves
from harness.recipes.reading import NAMES, Recipe, load_recipe
from harness.system.errors import UsageError

FILLED_IN = ("knobs.encoder_sha256",)  # null in a recipe, and known once the run's images are
UNSAID = "not in its command: an older version of the recipe, or --config"


@dataclass(frozen=True)
class Departure:
    """One setting of a run that differs from its recipe's."""

    setting: str  # "protocol.steps"
    value: Any
    recipe: Any  # the recipe's value; None where `known` is false
    known: bool  # whether the recipe has this setting
    source: str  # where the run's value comes from

    @property
    def short(self) -> str:
        return f"{self.setting.rpartition('.')[2]} {as_text(self.value)}"


@dataclass(frozen=True)
class Departures:
    """A configuration beside its recipe. Without a recipe there is nothing to compare, and `recipe` is None."""

    recipe: str | None
    differing: tuple[Departure, ...] = ()
    equal: int = 0
    absent: tuple[str, ...] = ()  # settings of today's recipe that the run's older configuration does not have


def departures(config: Mapping[str, Any], command: str = "") -> Departures:
    """Settings of `config`, a run's config.yaml, that its recipe has otherwise. `command` is its manifest's.

    The recipe's other formulation brings its own sampler, so a run of that formulation is compared with that.
    """
    own, name = _settings(config), str(config.get("recipe"))
    found = _recipe(name, str(config.get("formulation"))) or _recipe(name, None)
    if found is None:
        return Departures(None)
    recipe = _settings(found.document)
    recipe = {f"knobs.{knob}": value for knob, (value, _) in knob_defaults(found.document["method"]).items()} | recipe
    usual = _recipe(name, None) or found
    recipe["formulation"] = usual.document["formulation"]
    left_open = tuple(f"{path}." for path, value in recipe.items() if path in config and value is None)
    differing, equal = [], 0
    for path, value in own.items():
        if path in NAMES or path == "schema_version" or path.startswith(left_open):
            continue
        if path in recipe and (recipe[path] == value or (path in FILLED_IN and recipe[path] is None)):
            equal += 1
            continue
        differing.append(Departure(path, value, recipe.get(path), path in recipe, _source(path, command)))
    absent = [path for path in recipe if path not in own and path not in NAMES and path not in config]
    return Departures(name, tuple(differing), equal, tuple(absent))


def complete(document: dict[str, Any], command: str = "") -> dict[str, Any]:
    """Puts the settings of today's recipe that `document`, a config.yaml's, does not have into it.

    Returns them by path, {"evaluation.reference": "data"}: the caller must report them. `command` is the
    manifest's. A whole section that is missing is not made up, and validating says so.
    """
    try:
        recipe = load_recipe(str(document.get("recipe")), str(document.get("formulation"))).document
    except UsageError:
        return {}  # no such recipe: validating says which settings are missing
    completed = {}
    for path in departures(document, command).absent:
        section, _, name = path.partition(".")
        if name and isinstance(document.get(section), dict) and name in recipe.get(section, {}):
            document[section][name] = completed[path] = recipe[section][name]
    return completed


def as_text(value: Any) -> str:
    """A setting's value in one line, as YAML would take it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


@cache
def knob_defaults(method: str) -> dict[str, tuple[Any, str]]:
    """Default and description of the method's knobs, read in the text of baselines/<method>.py without importing it,
    and in those of the modules of harness/ whose knobs it takes over.

    An unknown method has none, and a default that the text computes is left out.
    """
    found = {}
    for name, default in _fields(method).items():
        if default is not None:
            value = default.args[0] if isinstance(default, ast.Call) and default.args else default
            try:
                found[name] = (_as_yaml_has_it(ast.literal_eval(value)), _description(default))
            except ValueError:
                continue  # computed: unknown without importing the method
    return found


def knob_names(method: str) -> list[str]:
    """What the method's knobs are called, read as `knob_defaults` reads them."""
    return list(_fields(method))


def _fields(method: str) -> dict[str, ast.expr | None]:
    """The fields of the method's Config with their defaults as the text has them."""
    path = files("baselines") / f"{method}.py"
    if not method.isidentifier() or not path.is_file():
        return {}
    return _fields_of(path, "Config")


def _fields_of(path: Traversable, name: str) -> dict[str, ast.expr | None]:
    """Those of the class `name` in the file at `path`, and of the classes of harness/ that it builds on."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    imported = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in module.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    config = next((node for node in module.body if isinstance(node, ast.ClassDef) and node.name == name), None)
    found: dict[str, ast.expr | None] = {}
    for base in config.bases if config else []:
        source, its_name = imported.get(base.id, ("", "")) if isinstance(base, ast.Name) else ("", "")
        package, *parts = source.split(".")
        if package == "harness" and parts:
            found |= _fields_of(files("harness").joinpath(*parts[:-1], f"{parts[-1]}.py"), its_name)
    fields = [node for node in (config.body if config else []) if isinstance(node, ast.AnnAssign)]
    return found | {node.target.id: node.value for node in fields if isinstance(node.target, ast.Name)}


def _description(value: ast.expr) -> str:
    words = value.keywords if isinstance(value, ast.Call) else []
    return next((ast.literal_eval(word.value) for word in words if word.arg == "description"), "")


@cache
def _recipe(name: str, formulation: str | None) -> Recipe | None:
    try:
        return load_recipe(name, formulation)
    except UsageError:
        return None


def _source(path: str, command: str) -> str:
    """The last assignment to `path` in the command, by its full name or its last part."""
    assignments = [text.strip() for text in command.split(" --set ")[1:]]
    said = [text for text in assignments if text.partition("=")[0] in (path, path.rpartition(".")[2])]
    if said:
        return f"its command: --set {said[-1]}"
    if path == "execution.micro_batch":
        return "not in its command: chosen so that a step fits into memory"
    if path.startswith("sampling.") and any(text.startswith("formulation=") for text in assignments):
        return "comes with the formulation of its command"
    if path == "evaluation.features" and any(text.startswith(("data=", "protocol.data=")) for text in assignments):
        return "comes with the images of its command"
    return UNSAID


def _settings(document: Mapping[str, Any]) -> dict[str, Any]:
    return {path: _as_yaml_has_it(value) for path, value in leaves(document)}


def _as_yaml_has_it(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
