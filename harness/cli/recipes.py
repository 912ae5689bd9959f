"""`harness recipes`: what each recipe sets, where each value comes from, and where the sources disagree."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from harness.cli.app import completion
from harness.cli.app.answer import show
from harness.cli.app.application import App
from harness.cli.app.layout import columns, short_count
from harness.cli.app.options import Json, RecipeName, argument, option
from harness.system.errors import UsageError

if TYPE_CHECKING:
    from harness.recipes.reading import Recipe, Setting

recipes_app = App(help="Look up recipes.")

COUNTS = "counts.json"


@recipes_app.command("list")
def recipes_list(as_json: Json = False) -> None:
    """Name every recipe, and say what it is.

    Examples: harness recipes list · harness recipes list --json
    """
    from harness.recipes.reading import broken, recipe_names

    document = {"recipes": [_summary(name) for name in recipe_names()], "broken_methods": broken()}
    show(document, as_json, _list_lines)


@recipes_app.command("show")
def recipes_show(name: RecipeName, as_json: Json = False) -> None:
    """Print each setting of a recipe with its source, then where the sources disagree.

    Examples: harness recipes show sddit-xl · harness recipes show dit-tiny --json
    """
    from harness.recipes.reading import load_recipe

    recipe = load_recipe(name)
    document = {
        "recipe": name,
        "repeats": recipe.repeats,
        "settings": [{"setting": s.path, "value": s.value, "source": s.source} for s in _values(recipe).values()],
        "conflicts": recipe.conflicts,
        "run": f"harness run {name}",
    }
    show(document, as_json, _show_lines)


@recipes_app.command("diff")
def recipes_diff(a: RecipeName, b: RecipeName, as_json: Json = False) -> None:
    """Print the settings in which two recipes differ, side by side, and how many are equal.

    Examples: harness recipes diff sddit-s maskdit-s · harness recipes diff dit-s dit-xl
    """
    show(_difference(a, b), as_json, _diff_lines)


@recipes_app.command("count")
def recipes_count(
    recipes: Annotated[
        list[str] | None,
        argument("Which; sddit-s:discriminate=false has a setting. Default: all.", "RECIPE", completion.recipes),
    ] = None,
    out: Annotated[Path | None, option("Also write them there, for compare and report.", "FILE")] = None,
    as_json: Json = False,
) -> None:
    """Count parameters and multiply-accumulates of each recipe, from its shapes alone: nothing is trained.

    Examples: harness recipes count sddit-xl maskdit-xl · harness recipes count --out runs/counts.json
    """
    from harness.recipes.reading import load_recipe, recipe_names

    chosen = recipes or recipe_names()
    for name in chosen:
        load_recipe(name.partition(":")[0])  # refuse a wrong name before importing torch, which takes seconds
    if out is not None and out.name != COUNTS:
        raise UsageError(f"--out is {out}; compare and report look for a file called {COUNTS}.")

    import harness
    from harness.planning.plan import cost_of, resolve
    from harness.records.evidence import Counts
    from harness.records.schema import write_record

    split = {name: name.split(":") for name in chosen}
    counted = {name: cost_of(resolve(recipe, settings)) for name, (recipe, *settings) in split.items()}
    document = Counts(harness_version=harness.__version__, recipes=counted)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_record(out, document)
    show(document.model_dump(mode="json"), as_json, _count_lines)


def _summary(name: str) -> dict[str, Any]:
    from harness.recipes.reading import load_recipe, origin
    from harness.records.looks import measured_title

    recipe = load_recipe(name)
    document, protocol, network = recipe.document, recipe.document["protocol"], recipe.document["network"]
    return {
        "recipe": name,
        "method": measured_title(document["method"], document["knobs"]),
        "size": document["size"],
        "depth": network["depth"],
        "width": network["width"],
        "data": protocol["data"],
        "steps": protocol["steps"],
        "repeats": recipe.repeats,
        "from": origin(document["method"]),
    }


def _values(recipe: "Recipe") -> dict[str, "Setting"]:
    import baselines
    from harness.recipes.reading import settings

    return {found.path: found for found in settings(recipe, baselines.load(recipe.document["method"]).Config)}


def _difference(a: str, b: str) -> dict[str, Any]:
    """The settings in which two recipes differ. `values` lacks a recipe without the setting; null is a value."""
    from harness.recipes.reading import load_recipe

    sides = {name: _values(load_recipe(name)) for name in (a, b)}
    paths = list(dict.fromkeys(path for side in sides.values() for path in side))
    values = {path: {name: side[path].value for name, side in sides.items() if path in side} for path in paths}
    differing = [path for path in paths if len(values[path]) < len(sides) or values[path][a] != values[path][b]]
    sections = list(dict.fromkeys(map(_section, paths)))
    differing.sort(key=lambda path: sections.index(_section(path)))
    return {
        "recipes": [a, b],
        "differing": [{"setting": path, "values": values[path]} for path in differing],
        "equal": len(paths) - len(differing),
    }


def _count_lines(document: dict[str, Any]) -> list[str]:
    rows = [
        [name, f"{of['params']:,}", f"{of['gmacs_forward']:.4g}", f"{of['gmacs_step']:.4g}"]
        for name, of in document["recipes"].items()
    ]
    return [*columns([["recipe", "parameters", "GMAC forward", "GMAC step"], *rows]), "", "GMAC are per image."]


def _list_lines(document: dict[str, Any]) -> list[str]:
    rows = [
        [r["recipe"], r["method"], f"{r['depth']} x {r['width']}", short_count(r["steps"]), r["repeats"]]
        for r in document["recipes"]
    ]
    others = dict.fromkeys((r["method"], r["from"]) for r in document["recipes"] if r["from"] != "harness")
    return [
        *columns([["recipe", "method", "blocks", "steps", "repeats"], *rows]),
        *(f"{method} comes from the package {package}." for method, package in others),
        *(f"Left out: {why}" for why in document["broken_methods"].values()),
    ]


def _show_lines(document: dict[str, Any]) -> Iterator[str]:
    from harness.records.folders.departures import as_text

    rows = [[s["setting"], as_text(s["value"]), s["source"]] for s in document["settings"]]
    yield f"{document['recipe']} repeats {document['repeats']}."
    yield from _sections(rows, ["value", "source"])
    yield ""
    if document["conflicts"]:
        yield "Where sources disagree"
        for conflict in document["conflicts"]:
            yield f"  {conflict['setting']}: {as_text(conflict['taken'])} here"
            yield from (f"    {as_text(other['value'])}  [{other['source']}]" for other in conflict["others"])
            yield f"    Why: {conflict['why']}"
        yield ""
    yield f"Run it: {document['run']} (--dry-run counts parameters and arithmetic)"


def _diff_lines(document: dict[str, Any]) -> list[str]:
    from harness.records.folders.departures import as_text

    names = document["recipes"]
    rows = [
        [d["setting"], *(as_text(d["values"][n]) if n in d["values"] else "-" for n in names)]
        for d in document["differing"]
    ]
    return [*_sections(rows, names), "", f"{len(rows)} settings differ, {document['equal']} are equal."][1:]


def _sections(rows: list[list[str]], titles: list[str]) -> list[str]:
    """Rows of a setting and its cells, under the heads of their sections."""
    lines = []
    for section, group in groupby(rows, lambda row: _section(row[0])):
        cells = [[f"  {path.rpartition('.')[2]}", *rest] for path, *rest in group]
        lines += ["", *columns([[section, *titles], *cells])]
    return lines


def _section(path: str) -> str:
    return path.rpartition(".")[0] or "run"
