"""What `harness runs` prints where JSON was not asked for: plain aligned text that fits the terminal, or 80 columns."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from harness.cli.app.layout import columns, columns_by_row, shown, wrapped
from harness.records.folders.departures import as_text

Document = Mapping[str, Any]
NO_VALUE = "-"
HASH = 12  # characters of a hash that are printed
AGES = (("w", 7 * 86400, 20), ("d", 86400, 2), ("h", 3600, 2), ("min", 60, 2), ("s", 1, 0))  # unit, seconds, from
STATES = ("finished", "unfinished", "damaged", "imported", "exported")


# The list -----------------------------------------------------------------------------------------------------------


def of_the_list(document: Document) -> list[str]:
    """A table for each metric, its runs under a heading for each configuration; then what is damaged or no run."""
    runs = [run for run in document["runs"] if run["state"] != "foreign"]
    foreign = [run for run in document["runs"] if run["state"] == "foreign"]
    metrics = _metrics_of_sections(runs)
    lines = []
    for metric in dict.fromkeys(metrics.values()):
        lines += [*_table([run for run in runs if metrics[_section(run)] == metric], metric), ""]
    for title, state in (("Damaged", "damaged"), ("Not runs", "foreign")):
        told = [run for run in document["runs"] if run["state"] == state]
        lines += [*([title] if told else []), *_reasons(told), *([""] if told else [])]
    counts = Counter(run["state"] for run in runs)
    found = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    rest = f"; {len(foreign)} not a run" if foreign else ""
    if runs:
        return [*lines, f"{len(runs)} run{'s' if len(runs) > 1 else ''}: {found}{rest}."]
    where = ", ".join(document["roots"])
    return [*lines, *wrapped(f"no run in {where}. `harness demo` or `harness run dit-tiny` makes one.")]


def _section(run: Document) -> tuple[str, str, tuple[str, ...]]:
    """Runs of one configuration but for their seeds stand together."""
    place = run["run"].rpartition("/")[0] or run["recipe"] or ""
    return place, run["method"] or "", tuple(run["settings"])


def _metrics_of_sections(runs: Sequence[Document]) -> dict[tuple, str]:
    """Under which distance a configuration's runs stand: its own, or, where it has none yet, the commonest."""
    all_of_them = Counter(run["metric"] for run in runs if run["metric"])
    default = all_of_them.most_common(1)[0][0] if all_of_them else "distance"
    found: dict[tuple, str] = {_section(run): default for run in runs}
    return found | {_section(run): run["metric"] for run in runs if run["metric"]}


def _table(runs: Sequence[Document], metric: str) -> list[str]:
    titles = ["run", "seed", "steps", "steps/s", metric, "age", "state"]
    ordered = sorted(runs, key=_section)  # stable: within a configuration they keep their order
    head, *rows = columns_by_row([titles, *(_row(run, metric) for run in ordered)])
    lines = list(head)
    for (place, method, settings), group in groupby(zip(ordered, rows, strict=True), lambda pair: _section(pair[0])):
        heading = ", ".join(filter(None, [method, *settings]))
        lines += wrapped(f"{place}: {heading}" if heading else place, rest="    ")
        lines += [line for _, row in group for line in row]
    return lines


def _row(run: Document, metric: str) -> list[str]:
    # A run with another distance than its configuration's others keeps the name beside the value.
    other = f" {run['metric']}" if run["metric"] not in (None, metric) else ""
    return [
        f"  {run['run'].rpartition('/')[2]}",
        _or_none(run["seed"]),
        _steps(run),
        _number(run["steps_per_sec"], 3),
        _number(run["distance"], 4) + other,
        _age(run["last_active"]),
        run["state"],
    ]


def _reasons(runs: Sequence[Document]) -> list[str]:
    return [line for run in runs for line in wrapped(f"{run['run']}: {run['reason']}", "  ", "    ")]


def _steps(run: Document) -> str:
    done, asked = run["steps_done"], run["steps_asked"]
    if done is None:
        return NO_VALUE
    return _count(done) if done == asked else f"{_count(done)}/{_count(asked) if asked else '?'}"


def _age(time: str | None) -> str:
    if time is None:
        return NO_VALUE
    seconds = max((datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds(), 0)
    unit, length = next((unit, length) for unit, length, least in AGES if seconds >= least * length)
    return f"{seconds / length:.0f}{unit}"


# One run --------------------------------------------------------------------------------------------------------------


def of_one(run: Document) -> list[str]:
    """The sections of one run's description, and what is damaged in it."""
    steps = f"{run['steps_done']:,} steps" if run["state"] == "finished" else f"step {run['steps_done'] or 0:,}"
    asked = f" of {run['steps_asked']:,}" if run["steps_asked"] and run["state"] != "finished" else ""
    done = "" if run["state"] == "imported" else f" after {steps}" if run["state"] == "finished" else f" at {steps}"
    return [
        *wrapped(f"{run['run']}: {run['method'] or 'a run'}, {run['state']}{done}{asked}"),
        *wrapped(f"in {run['path']}", "  "),
        *_section_of("Damaged", [line for reason in run["damaged"] for line in wrapped(reason, "  ", "    ")]),
        *_settings(run["config"]),
        *_section_of("Where it comes from", _pairs(_provenance(run["manifest"]))),
        *_section_of("Speed and memory", _pairs(_speed(run))),
        *_section_of("Evaluations", _evaluations(run["evaluations"])),
        *_section_of("Events", columns(_events(run["events"]), indent="  ")),
        *_section_of("Files", columns(_files(run["files"]), indent="  ")),
    ]


def _section_of(title: str, lines: Sequence[str]) -> list[str]:
    return ["", title, *lines] if lines else []


def _pairs(pairs: Mapping[str, str | None]) -> list[str]:
    return columns([[name, value] for name, value in pairs.items() if value], indent="  ")


def _settings(config: Document | None) -> list[str]:
    if config is None:
        return []
    if config["recipe"] is None:
        return ["", *wrapped("Its recipe is not one of this version's: there is nothing to compare its settings with.")]
    rows = [
        [f"  {d['setting']}", as_text(d["value"]), as_text(d["recipe"]) if "recipe" in d else NO_VALUE, d["source"]]
        for d in config["differing"]
    ]
    lines = ["", *columns([["Settings", "value", "recipe's", "source"], *rows])] if rows else [""]
    equal = f"{config['equal']} settings are as in {config['recipe']}."
    absent = f" Not recorded, since later versions added them: {', '.join(config['absent'])}."
    return [*lines, *wrapped(equal + (absent if config["absent"] else ""), rest="")]


def _provenance(manifest: Document | None) -> dict[str, str | None]:
    if manifest is None:
        return {}
    device, data = manifest["device"], manifest["data"]
    changed = f", changed ({manifest['git_diff_sha256'][:HASH]})" if manifest["git_diff_sha256"] else ""
    memory = f", {device['memory_bytes'] / 2**30:.0f} GiB" if device["memory_bytes"] else ""
    versions = ", ".join(f"{name} {device[name]}" for name in ("driver", "cuda") if device[name])
    return {
        "command": manifest["command"],
        "started": manifest["started_at"],
        "commit": manifest["git_commit"] and manifest["git_commit"][:HASH] + changed,
        "harness": f"{manifest['harness_version']}, Python {manifest['python']}, {manifest['platform']}",
        "device": f"{device['count']} x {device['name']}{memory}, {device['threads']} threads",
        "driver": versions,
        "processes": str(manifest["world_size"]),
        "data": f"{data['name']}, {data['num_images']:,} images, sha256 {data['sha256'][:HASH]}"
        + ("" if data["real"] else ", random numbers")
        + (f", VAE {data['vae']}" if data["vae"] else ""),
        "precision": _named(manifest["precision"]),
        "packages": _named(manifest["packages"]),
    }


def _speed(run: Document) -> dict[str, str | None]:
    speed, memory, cost = run["speed"], run["memory"], run["cost"] or {}
    spread = f", sd {_number(speed['steps_per_sec_sd'], 3)} over its windows" if speed.get("steps_per_sec_sd") else ""
    timed = f", {speed['timed_steps']:,} steps timed" if speed.get("timed_steps") else ""
    kind = f" ({memory['kind']})" if memory["kind"] else ""
    return {
        "steps/s": f"{_number(speed['steps_per_sec'], 4)}{spread}{timed}" if speed["steps_per_sec"] else None,
        "waiting for data": _share(speed["data_wait_share"]),
        "MFU": _share(speed["mfu"]),
        "compiled": {True: "yes", False: "no"}.get(speed.get("compiled")),
        "attention": speed.get("attention"),
        "peak memory": f"{memory['peak_bytes'] / 2**30:.2f} GiB{kind}" if memory["peak_bytes"] else None,
        "wall time": f"{run['wall_seconds']:,.0f} s" if run["wall_seconds"] else None,
        "parameters": f"{cost['params'] / 1e6:.2f} M of the sampled network" if cost else None,
        "arithmetic": f"{cost['gmacs_forward']:.4g} GMAC an image forward, {cost['gmacs_step']:.4g} a step"
        if cost
        else None,
        "notes": "; ".join(run["notes"]),
    }


def _evaluations(evaluations: Sequence[Document]) -> list[str]:
    """Each with its metrics, then the conditions; those that an earlier one had too are not printed again."""
    lines: list[str] = []
    seen: dict[str, Any] = {}
    for e in evaluations:
        about = [f"step {e['step']:,}" if e["step"] is not None else "images of a file"]
        about += [f"{e['weights']} weights"] if e["weights"] else []
        lines += wrapped(f"{e['name']}: {', '.join(about)}, {e['seconds']:.0f} s", "  ")
        errors = e["standard_errors"]
        rows = [
            [name, _number(value, 5), f"standard error {_number(errors[name], 2)}" if name in errors else ""]
            for name, value in e["metrics"].items()
        ]
        lines += columns(rows, indent="    ")
        conditions = _named({key: value for key, value in e["protocol"].items() if value is not None})
        lines += wrapped(f"under: {'as ' + seen[conditions] if conditions in seen else conditions}", "    ", "      ")
        seen.setdefault(conditions, e["name"])
        lines += [line for note in e["notes"] for line in wrapped(note, "    ", "      ")]
    return lines


def _events(events: Sequence[Document]) -> list[list[str]]:
    """One line an event, but one for checkpoints in a row."""
    rows = []
    for kind, group in groupby(events, lambda event: event.get("event")):
        members = list(group)
        if kind == "checkpoint" and len(members) > 1:
            steps = [str(event.get("step")) for event in members]
            text = f"checkpoint: {len(members)}, steps {steps[0]} to {steps[-1]}"
            rows.append([str(members[-1].get("time", NO_VALUE)), text])
            continue
        rows += [[str(e.get("time", NO_VALUE)), ", ".join(_event_parts(e))] for e in members]
    return rows


def _event_parts(event: Document) -> Iterator[str]:
    yield str(event.get("event"))
    for key, value in event.items():
        if key not in ("time", "event"):
            yield as_text(value) if key == "text" else f"{key} {as_text(value)}"


def _files(files: Sequence[Document]) -> list[list[str]]:
    rows = [[f["name"], size(f["bytes"]), _files_in(f) if f["name"].endswith("/") else ""] for f in files]
    return [*rows, ["all", size(sum(f["bytes"] for f in files)), ""]]


def _files_in(folder: Document) -> str:
    return f"{folder['files']} file{'' if folder['files'] == 1 else 's'}"


# Removals -------------------------------------------------------------------------------------------------------------


def of_removals(document: Document) -> list[str]:
    """What goes, or went, of each run, and how many bytes."""
    lines = [line for refused in document["refused"] for line in wrapped(refused["reason"])]
    if not document["runs"]:
        return [*lines, "there is nothing to remove."]
    for run in document["runs"]:
        lines += wrapped(f"{run['run']} ({run['state']}): {', '.join(run['files']) or 'nothing'}, {size(run['bytes'])}")
        lines += wrapped(f"stay: {', '.join(run['kept'])}", "  ", "    ") if run["kept"] else []
    verb = "freed" if document["removed"] else "would be freed"
    return [*lines, f"{size(document['bytes'])} ({document['bytes']:,} bytes) {verb}."]


# Words and numbers --------------------------------------------------------------------------------------------------


def size(count: int) -> str:
    """Bytes as a person reads them."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def _named(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_cut(key, value)}" for key, value in values.items())


def _cut(key: str, value: Any) -> str:
    text = as_text(value)
    return text[:HASH] if "sha256" in key else text


def _number(value: Any, digits: int) -> str:
    if not isinstance(value, int | float):
        return NO_VALUE if value is None else shown(str(value))
    return f"{value:.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"


def _or_none(value: Any) -> str:
    return NO_VALUE if value is None else str(value)


def _count(steps: int) -> str:
    return f"{steps // 1000}k" if steps and steps % 1000 == 0 else str(steps)
