"""What `harness runs` prints where JSON was not asked for."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from harness.cli.app.layout import columns, columns_by_row, short_count, shown
from harness.recipes.config import leaves
from harness.records.folders.departures import as_text
from harness.system.files import in_words

Document = Mapping[str, Any]
NO_VALUE = "-"
HASH = 12  # characters of a hash that are printed
AGES = (("w", 7 * 86400, 20), ("d", 86400, 2), ("h", 3600, 2), ("min", 60, 2), ("s", 1, 0))  # unit, seconds, from
STATES = ("finished", "unfinished", "damaged", "imported", "exported")


def of_the_list(document: Document) -> list[str]:
    """A table for each metric, its runs under a heading for each configuration; then what is damaged or no run."""
    runs = sorted((run for run in document["runs"] if run["state"] != "foreign"), key=_configuration)  # stable
    groups = [list(group) for _, group in groupby(runs, _configuration)]
    metrics = Counter(run["metric"] for run in runs if run["metric"])
    commonest = metrics.most_common(1)[0][0] if metrics else "distance"
    of_groups = [next((run["metric"] for run in group if run["metric"]), commonest) for group in groups]
    lines = []
    for metric in dict.fromkeys(of_groups):
        lines += [*_table([g for g, own in zip(groups, of_groups, strict=True) if own == metric], metric), ""]
    for title, state in (("Damaged", "damaged"), ("Not runs", "foreign")):
        reasons = [f"  {run['run']}: {run['reason']}" for run in document["runs"] if run["state"] == state]
        lines += [title, *reasons, ""] if reasons else []
    if not runs:
        where = ", ".join(document["roots"])
        return [*lines, f"no run in {where}. `harness demo` or `harness run dit-tiny` makes one."]
    counts = Counter(run["state"] for run in document["runs"])
    found = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    rest = f"; {counts['foreign']} not a run" if counts["foreign"] else ""
    return [*lines, f"{len(runs)} run{'s' if len(runs) > 1 else ''}: {found}{rest}."]


def _configuration(run: Document) -> tuple[str, str, tuple[str, ...]]:
    """The key by which runs are grouped: runs that differ in their seed alone have the same."""
    return run["run"].rpartition("/")[0] or run["recipe"] or "", run["method"] or "", tuple(run["settings"])


def _table(groups: Sequence[Sequence[Document]], metric: str) -> list[str]:
    titles = ["run", "seed", "steps", "steps/s", metric, "age", "state"]
    rows = iter(columns_by_row([titles, *(_row(run, metric) for group in groups for run in group)]))
    lines = next(rows)
    for group in groups:
        place, method, settings = _configuration(group[0])
        heading = ", ".join(filter(None, [method, *settings]))
        lines.append(f"{place}: {heading}" if heading else place)
        lines += [line for _ in group for line in next(rows)]
    return lines


def _row(run: Document, metric: str) -> list[str]:
    # A run with another distance than its configuration's others keeps the name beside the value.
    other = f" {run['metric']}" if run["metric"] not in (None, metric) else ""
    done, asked = run["steps_done"], run["steps_asked"]
    steps = short_count(done) if done == asked else f"{short_count(done)}/{short_count(asked) if asked else '?'}"
    return [
        f"  {run['run'].rpartition('/')[2]}",
        NO_VALUE if run["seed"] is None else str(run["seed"]),
        NO_VALUE if done is None else steps,
        _number(run["steps_per_sec"], 3),
        _number(run["distance"], 4) + other,
        _age(run["last_active"]),
        run["state"],
    ]


def _age(time: str | None) -> str:
    if time is None:
        return NO_VALUE
    seconds = max((datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds(), 0)
    unit, length = next((unit, length) for unit, length, least in AGES if seconds >= least * length)
    return f"{seconds / length:.0f}{unit}"


def of_one(run: Document) -> list[str]:
    """The sections of one run's description, and what is damaged in it."""
    done = f"{run['steps_done'] or 0:,}"
    asked = f" of {run['steps_asked']:,}" if run["steps_asked"] else ""
    reached = {"imported": "", "finished": f" after {done} steps"}.get(run["state"], f" at step {done}{asked}")
    measured = {
        "speed": run["speed"],
        "memory": run["memory"],
        "cost": run["cost"] or {},
        "wall seconds": run["wall_seconds"],
        "notes": run["notes"],
    }
    return [
        f"{run['run']}: {run['method'] or 'a run'}, {run['state']}{reached}",
        f"  in {run['path']}",
        *_section("Damaged", [f"  {reason}" for reason in run["damaged"]]),
        *_settings(run["config"]),
        *_section("Where it comes from", _facts(run["manifest"] or {})),
        *_section("Speed, memory and cost", _facts(measured)),
        *_section("Evaluations", _evaluations(run["evaluations"])),
        *_section("Events", columns(_events(run["events"]), indent="  ")),
        *_section("Files", columns(_files(run["files"]), indent="  ")),
    ]


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return ["", title, *lines] if lines else []


def _facts(document: Document) -> list[str]:
    """Every fact that is known, under its name; the facts of a part in one line."""
    rows = []
    for name, value in document.items():
        known = {key: inner for key, inner in leaves({name: value}) if inner not in (None, "", [])}
        if isinstance(value, Mapping):
            value = ", ".join(
                f"{key.partition('.')[2].replace('_', ' ')} {_fact(key, inner)}" for key, inner in known.items()
            )
        elif known:
            value = _fact(name, value)
        rows += [[name.replace("_", " "), value]] if known else []
    return columns(rows, indent="  ")


def _fact(key: str, value: Any) -> str:
    if key.endswith("bytes") and isinstance(value, int):
        return in_words(value)
    if isinstance(value, float):
        return _number(value, 4)
    if isinstance(value, list):
        return "; ".join(map(str, value))
    text = as_text(value)
    return text[:HASH] if "sha256" in key or key.endswith("git_commit") else text


def _settings(config: Document | None) -> list[str]:
    if config is None:
        return []
    if config["recipe"] is None:
        return ["", "Its recipe is not one of this version's: there is nothing to compare its settings with."]
    rows = [
        [f"  {d['setting']}", as_text(d["value"]), as_text(d["recipe"]) if "recipe" in d else NO_VALUE, d["source"]]
        for d in config["differing"]
    ]
    equal = f"{config['equal']} settings are as in {config['recipe']}."
    absent = f" Not recorded, since later versions added them: {', '.join(config['absent'])}."
    table = columns([["Settings", "value", "recipe's", "source"], *rows]) if rows else []
    return ["", *table, equal + (absent if config["absent"] else "")]


def _evaluations(evaluations: Sequence[Document]) -> list[str]:
    """Each with its metrics, then the conditions; those that an earlier one had too are not printed again."""
    lines: list[str] = []
    seen: dict[str, Any] = {}
    for e in evaluations:
        about = f"step {e['step']:,}" if e["step"] is not None else "images of a file"
        weights = f", {e['weights']} weights" if e["weights"] else ""
        lines.append(f"  {e['name']}: {about}{weights}, {e['seconds']:.0f} s")
        errors = e["standard_errors"]
        rows = [
            [name, _number(value, 5), f"standard error {_number(errors[name], 2)}" if name in errors else ""]
            for name, value in e["metrics"].items()
        ]
        lines += columns(rows, indent="    ")
        conditions = ", ".join(f"{k} {_fact(k, value)}" for k, value in e["protocol"].items() if value is not None)
        lines.append(f"    under: {'as ' + seen[conditions] if conditions in seen else conditions}")
        seen.setdefault(conditions, e["name"])
        lines += [f"    {note}" for note in e["notes"]]
    return lines


def _events(events: Sequence[Document]) -> list[list[str]]:
    """One line an event, but one for checkpoints in a row."""
    rows = []
    for kind, group in groupby(events, lambda event: event.get("event")):
        members = list(group)
        if kind == "checkpoint" and len(members) > 1:
            first, last = members[0].get("step"), members[-1].get("step")
            text = f"checkpoint: {len(members)}, steps {first} to {last}"
            rows.append([str(members[-1].get("time", NO_VALUE)), text])
        else:
            rows += [[str(e.get("time", NO_VALUE)), ", ".join(_event_parts(e))] for e in members]
    return rows


def _event_parts(event: Document) -> Iterator[str]:
    yield str(event.get("event"))
    for key, value in event.items():
        if key not in ("time", "event"):
            yield as_text(value) if key == "text" else f"{key} {as_text(value)}"


def _files(files: Sequence[Document]) -> list[list[str]]:
    rows = []
    for f in files:
        number = f"{f['files']} file{'' if f['files'] == 1 else 's'}" if f["name"].endswith("/") else ""
        rows.append([f["name"], in_words(f["bytes"]), number])
    return [*rows, ["all", in_words(sum(f["bytes"] for f in files)), ""]]


def of_removals(document: Document) -> list[str]:
    """What goes, or went, of each run, and how many bytes."""
    lines = [refused["reason"] for refused in document["refused"]]
    if not document["runs"]:
        return [*lines, "there is nothing to remove."]
    for run in document["runs"]:
        lines.append(f"{run['run']} ({run['state']}): {', '.join(run['files']) or 'nothing'}, {in_words(run['bytes'])}")
        lines += [f"  stay: {', '.join(run['kept'])}"] if run["kept"] else []
    verb = "freed" if document["removed"] else "would be freed"
    return [*lines, f"{in_words(document['bytes'])} ({document['bytes']:,} bytes) {verb}."]


def _number(value: Any, digits: int) -> str:
    if not isinstance(value, int | float):
        return NO_VALUE if value is None else shown(str(value))
    return f"{value:.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"
