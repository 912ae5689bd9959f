"""Settings that are newer than a config.yaml, with which an older record can be carried out again."""

from typing import Any

from harness.recipes.reading import load_recipe
from harness.records.folders.departures import departures
from harness.system.errors import UsageError


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
