"""The settings that a paper prints and what its text adds, each beside the recipe's value and that of the runs."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from harness.papers.published import SIZES, network_title
from harness.papers.sddit import numbers as published
from harness.recipes.reading import load_recipe, recipe_names
from harness.records.folders.departures import knob_defaults
from harness.records.store import Run
from harness.reporting.tables.table import NOTHING, Cell, Table, count, frame_of

NOT_STATED, NOT_A_SETTING, WORDED = "not stated", "not a setting", "worded otherwise"
COUNT = re.compile(r"([\d.]+)\s*([kM])", re.IGNORECASE)
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?", re.IGNORECASE)
ABSENT = object()

Value = Any  # a setting's value: a number, a text, a list of numbers, null


@dataclass
class Entry:
    """A setting as the paper has it, for the sizes that share it and that the recipes set alike."""

    record: Mapping[str, Any]
    sizes: list[str]  # empty: the paper says it of all
    method: str

    @property
    def path(self) -> str:
        return self.record["metric"]

    @property
    def printed(self) -> str:
        return NOT_STATED if self.record["quality"] == "missing" else self.record["value_text"]

    @property
    def recipe(self) -> tuple[Value, str]:
        """The recipe's value, or ABSENT, and its source."""
        return recipe_settings(f"{self.method}-{(self.sizes or SIZES)[0]}").get(self.path, (ABSENT, ""))

    def __post_init__(self) -> None:
        self.verdict = None if self.recipe[0] is ABSENT else agreement(self.printed, self.recipe[0])


def settings_table(runs: Iterable[Run], said: Mapping[str, str]) -> Table:
    """One row a setting; the sizes share it for which paper and recipe say the same. `said` is its specification."""
    own, entries = [run for run in runs if run.result.method == said["method"]], _entries(said["method"])
    rows = [_row(entry, _runs_of(entry, entries, own)) for entry in entries]
    return Table("table4", said["title"], frame_of(rows), said["caption"])


def _entries(method: str) -> list[Entry]:
    """The paper's settings; one that its text repeats with the same value appears once."""
    found: dict[tuple[Any, ...], Entry] = {}
    for record in published.settings().to_dict("records"):
        size = _size_of(record["model"])
        entry = Entry(record, [size] if size else [], method)
        if not size and any((other.path, other.printed) == (entry.path, entry.printed) for other in found.values()):
            continue
        key = (record["series"], entry.path, entry.printed, repr(entry.recipe))
        if key in found and size:
            found[key].sizes.append(size)
        else:
            found[key] = entry
    paths = list(dict.fromkeys(entry.path for entry in found.values() if entry.sizes))
    return sorted(found.values(), key=lambda entry: paths.index(entry.path) if entry.sizes else len(paths))


def _runs_of(entry: Entry, entries: Sequence[Entry], runs: Sequence[Run]) -> list[Run]:
    """The runs of the entry's sizes. Runs of a size that the paper does not have go to the first entry of its key."""
    if not entry.sizes:
        return list(runs)
    first = next(other for other in entries if other.path == entry.path) is entry
    return [run for run in runs if (size := run.result.size) in entry.sizes or (first and size not in SIZES)]


def _row(entry: Entry, runs: Sequence[Run]) -> dict[str, Cell]:
    recipe, source = entry.recipe
    values = [(run, value) for run in runs if (value := _at(run.config, entry.path)) is not ABSENT]
    values.sort(key=lambda pair: (pair[0].result.size, _numbers(pair[1]) or [math.inf], _words(pair[1])))
    counts = Counter((run.result.size, _words(value)) for run, value in values)
    return {
        "Setting": entry.record["series"],
        "Key": None if recipe is ABSENT else entry.path,
        "Sizes": ", ".join(network_title(size, 2) for size in entry.sizes) or "all",
        "Paper": entry.printed,
        "Recipe": NOT_A_SETTING if recipe is ABSENT else _words(recipe),
        "Recipe as paper": entry.verdict,
        "Recipe's source": source or None,
        "Runs": "; ".join(f"{size}: {value} ({count(n, 'run')})" for (size, value), n in counts.items()) or None,
        "Runs as paper": _runs_verdict(entry, values) if values else None,
        "Source": f"{entry.record['source']} ({entry.record['quality']})",
    }


def _runs_verdict(entry: Entry, values: Sequence[tuple[Run, Value]]) -> str:
    """The recipe's verdict where the runs have its value, else why not: in their own recipe's words, if it has any."""
    if entry.printed == NOT_STATED:
        return NOT_STATED
    agreeing, reasons, asked = [], [], []
    for run, value in values:
        as_recipe = _words(value) == _words(entry.recipe[0])
        verdict = str(entry.verdict) if as_recipe else agreement(entry.printed, value)
        if verdict == "yes" or (as_recipe and verdict == WORDED):
            agreeing.append(verdict)
        elif (own := _own_source(run, entry.path, value)) and not as_recipe:
            reasons.append(own)
        else:
            asked.append(_words(value))
    if asked:
        reasons.append(f"asked for {', '.join(dict.fromkeys(asked))}")
    if not reasons:
        return agreeing[0]
    return f"{'in part' if agreeing else 'no'}: {'; '.join(dict.fromkeys(reasons))}"


def _own_source(run: Run, path: str, value: Value) -> str:
    """What the recipe of the run's own size says of the value, where the run has its value."""
    name = f"{run.result.method}-{run.result.size}"
    own = recipe_settings(name) if name in recipe_names() else {}
    recipe, source = own.get(path) or own.get(path.partition(".")[0], (ABSENT, ""))  # "input" is one leaf there
    return source if recipe is None or _words(value) == _words(recipe) else ""


# Values ----------------------------------------------------------------------------------------------------------


@cache
def recipe_settings(name: str) -> dict[str, tuple[Value, str]]:
    """A recipe's values and their sources by path, with the defaults of its method's knobs."""
    recipe = load_recipe(name)
    defaults = {f"knobs.{knob}": setting for knob, setting in knob_defaults(recipe.document["method"]).items()}
    return defaults | {path: (_at(recipe.document, path), source) for path, source in recipe.sources.items()}


def _at(document: Mapping[str, Any], path: str) -> Value:
    for part in path.split("."):
        if not isinstance(document, Mapping) or part not in document:
            return ABSENT
        document = document[part]
    return document


def agreement(printed: str, value: Value) -> str:
    """Whether a printed text says the same as a setting's value: by its numbers where it is one, else by its words."""
    if printed == NOT_STATED:
        return NOT_STATED
    ours, theirs = _numbers(value), _printed_numbers(printed)
    if ours and theirs:
        return "yes" if theirs == ours else f"no: {_words(value)} instead of {printed}"
    words = re.findall(r"[a-z0-9]+", _words(value).lower())
    said = re.findall(r"[a-z0-9]+", printed.lower())
    return "yes" if not ours and words and set(words) <= set(said) else WORDED


def _numbers(value: Value) -> list[float]:
    values = value if isinstance(value, list | tuple) else [value]
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    return numbers if len(numbers) == len(values) else []


def _printed_numbers(text: str) -> list[float]:
    """ "400k" is 400000, "from 0.996 to 0.999" are two."""
    scale = {"k": 1e3, "m": 1e6}
    spelled = COUNT.sub(lambda match: str(float(match[1]) * scale[match[2].lower()]), text)
    return [float(number) for number in NUMBER.findall(spelled)]


def _words(value: Value) -> str:
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value)) or NOTHING
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:,}" if isinstance(value, int) else str(value)


def _size_of(model: str) -> str | None:
    named = re.search(r"-(S|B|L|XL)/", model)
    return named[1].lower() if named else None
