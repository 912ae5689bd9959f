"""The report's own tables: what was measured, how, where and with which deviations. The paper's: paper_tables."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.papers import published
from harness.papers.deviations import DEVIATIONS
from harness.papers.sddit.numbers import figure3
from harness.recipes.naming import digest
from harness.records.evidence import Evidence
from harness.records.looks import FINAL, REFERENCE, device_title, look, measured_title, order
from harness.records.schema import Manifest
from harness.records.store import LeftOut, Run
from harness.records.trials import distance_metric, metric_title
from harness.reporting.figures.speed_quality import Group
from harness.reporting.tables.table import METRIC_ORDER, NOTHING, Cell, Table, family, frame_of
from harness.system.groups import grouped

UNTRAINED = "untrained"  # the name of the evaluation before the first step
GIB, MILLION, HOUR = 2**30, 1e6, 3600.0
ENERGY = "Energy, J per trained image"
NOT_MEASURED = "not measured"

Row = dict[str, Cell]

# Figure 3 --------------------------------------------------------------------------------------------------------

PAPER = ("Paper, steps/s", "Paper, FID-50K", "Paper, speed / DiT", "Paper, FID / DiT")
SPEED, DISTANCE = "Measured, steps/s", "Measured, distance"
MEASURED = (SPEED, DISTANCE, "Measured, speed / DiT", "Measured, distance / DiT")
COMPARABLE = "Comparable with the paper"
POINT_COLUMNS = (
    "Panel", "Method", *PAPER, SPEED, f"{SPEED}, SD", DISTANCE, f"{DISTANCE}, SD", "Distance is", *MEASURED[2:], "n",
    COMPARABLE,
)  # fmt: skip
DIFFERS = "Differs from the paper in"


def paper_against_measured(groups: Sequence[Group]) -> Table:
    """One row per measured point of Fig. 3, and one per point of the paper that was not measured.

    A measured point shares a row with the paper's only where both read the same share of the patches.
    """
    drawn_only = figure3()[1]
    paper = {(point["method"], point["input_patches"]): dict.fromkeys(PAPER, "missing") for point in drawn_only}
    paper |= {(p["method"], p["input_patches"]): _values(PAPER, p) for p in groups[0].points}
    rows: list[Row] = []
    for group in groups[1:]:
        for point in group.points:
            place = (point["method"], point["input_patches"])
            measured = {
                **_values(MEASURED, point),
                **{f"{SPEED}, SD": point["steps_per_sec_sd"], f"{DISTANCE}, SD": point["value_sd"]},
                "Distance is": metric_title(group.metric),
                "n": point["n"],
                COMPARABLE: f"no: {', '.join(point['differences'])}" if point["differences"] else "yes",
            }
            rows.append({"Panel": group.letter, "Method": point["label"], **paper.get(place, {}), **measured})
    measured_too = {(point["method"], point["input_patches"]) for group in groups[1:] for point in group.points}
    for method, patches in sorted(paper.keys() - measured_too, key=lambda key: (order(key[0]), key[1])):
        absent = dict.fromkeys((SPEED, DISTANCE), NOT_MEASURED)
        rows.append({"Method": f"{look(method).title} {patches}", **paper[method, patches], **absent})
    caption = (
        "Panels as in the figure. n counts seeds; behind ± is the standard deviation over them, absent where n = 1. "
        "missing: the paper draws it and prints no value."
    )
    return Table("speed-quality", "Figure 3, paper against measured", frame_of(rows, POINT_COLUMNS), caption)


def _values(names: Sequence[str], point: Mapping[str, Any]) -> Row:
    """A point's speed, distance, and both relative to DiT's, under these names."""
    ratios = [point[name] for name in ("speed_relative_to_dit", "value_relative_to_dit")]
    rounded = [None if ratio is None else round(ratio, 3) for ratio in ratios]
    return dict(zip(names, [point["steps_per_sec"], point["value"], *rounded], strict=True))


def conditions(groups: Sequence[Group]) -> Table:
    """How the points of each measured panel were made, and what differs from the paper's."""
    rows: list[Row] = []
    for group in groups[1:]:
        differences = "; ".join(group.differences.values())
        notes = " ".join(group.notes)
        rows.append({"Of": f"{group.letter} {group.title}", "Conditions": notes, DIFFERS: differences or None})
        for point in group.points:
            own = [text for word, text in point["differences"].items() if word not in group.differences]
            if own:
                rows.append({"Of": f"{group.letter} {point['label']}", DIFFERS: f"further in {'; '.join(own)}"})
    return Table("conditions", "Conditions of the panels", frame_of(rows))


def missing_values() -> Table:
    rows = [
        {
            "Figure or table": row.figure_or_table,
            "Model": row.model or row.method,
            "At": " = ".join(filter(None, (row.x_unit, row.x))) or None,
            "Value": row.metric,
            "Why": row.source,
        }
        for row in published.missing().itertuples()
    ]
    return Table("missing", "Published values that are not in any text", frame_of(rows))


# Runs ------------------------------------------------------------------------------------------------------------


def metrics(runs: Sequence[Run], groups: Sequence[Group]) -> list[Table]:
    """All metrics of the final evaluation: a table for each set of metric names, as no two sets share a scale."""
    letters = _letters(groups)
    tables: dict[tuple[str, ...], list[Row]] = {}
    for run in runs:
        final, untrained = (run.result.evaluations.get(name) for name in (FINAL, UNTRAINED))
        if final is None:
            continue
        names = sorted(final.metrics, key=_metric_order)
        row: Row = {"Panel": letters.get(run.path), "Run": run.name, "Method": _method(run)}
        row["Weights"] = final.weights
        row |= {metric_title(name): final.metrics[name] for name in names}
        distance = distance_metric(names)
        before = untrained.metrics.get(distance) if untrained is not None and distance else None
        if distance and before is not None:
            row[f"Untrained {metric_title(distance)}"] = before
            row["Untrained / final"] = before / final.metrics[distance] if final.metrics[distance] > 0 else None
        tables.setdefault(tuple(row), []).append(row)
    caption = (
        "Of the evaluation after the last step. A metric's name carries the features and the number of images; only "
        "FID-50K is FID-50K. Untrained / final is how many times the distance shrank in training."
    )
    return _numbered("metrics", "All metrics", list(tables.values()), caption)


def training(runs: Sequence[Run], groups: Sequence[Group]) -> Table:
    """Speed, memory, size and arithmetic of every run."""
    letters, dit = _letters(groups), _arithmetic_of_dit(runs)
    rows = [
        {
            "Panel": letters.get(run.path),
            "Run": run.name,
            "Method": _method(run),
            "Device": device_title(run.result.device),
            "Steps": run.result.steps,
            "Steps/s": run.result.steps_per_sec,
            "SD over windows": run.result.steps_per_sec_sd,
            "Timed steps": run.result.timed_steps,
            "Images/s": _images_per_second(run),
            "Peak memory, GiB": run.result.peak_memory_bytes / GIB if run.result.peak_memory_bytes else None,
            "Memory is": run.result.peak_memory_kind,
            "Parameters, M": run.result.params / MILLION,
            "GMAC forward": run.result.gmacs_forward,
            "GMAC step": run.result.gmacs_step,
            "GMAC step / DiT": run.result.gmacs_step / dit[_task(run)] if _task(run) in dit else None,
            "Wall seconds": run.result.wall_seconds,
        }
        for run in runs
    ]
    caption = (
        "Steps per second are the mean over the timed steps, warm-up and evaluation excluded. GMAC are 1e9 "
        "multiply-accumulates per image; a step counts forward and backward. Parameters are the sampled network's."
    )
    return Table("training", "Training", frame_of(rows), caption)


def environment(runs: Sequence[Run]) -> list[Table]:
    """A table of facts for each environment the runs come from."""
    tables: list[list[Row]] = []
    for facts, members in grouped(runs, lambda run: tuple(_facts(run.manifest).items())).items():
        recipes = ", ".join(sorted({run.result.recipe for run in members}))
        seeds = ", ".join(map(str, sorted({run.result.seed for run in members})))
        rows = [*facts, ("Recipes", recipes), ("Seeds", seeds)]
        tables.append([{"Fact": name, "Value": value} for name, value in rows])
    return _numbered("environment", "Environment", tables)


def deviations() -> Table:
    rows: list[Row] = [{"Concerns": d.concerns, "Kind": d.kind, "Papers": d.paper, "Here": d.here} for d in DEVIATIONS]
    caption = (
        "changed: it differs from the paper. inferred: the paper does not say, another of its numbers does. "
        "assumed: the paper does not say, this is a guess."
    )
    return Table("deviations", "Deviations from the papers", frame_of(rows), caption)


def left_out(items: Iterable[LeftOut], runs: Iterable[Run] = ()) -> Table:
    """Folders and runs that the report does not use and why, and what is damaged in the `runs` that it uses."""
    rows: list[Row] = [{"Folder": item.name, "Why": item.reason} for item in items]
    for run in runs:
        if run.damaged_lines:
            why = f"{run.damaged_lines} line(s) of metrics.jsonl could not be read; the run is used"
            rows.append({"Folder": run.name, "Why": why})
        for name in run.damaged_evaluations:
            why = f"evaluations/{name} is damaged and left out; the command harness evaluate makes it again"
            rows.append({"Folder": run.name, "Why": why})
    return Table("left-out", "Left out", frame_of(rows))


def spending(evidence: Evidence) -> Table:
    """Hours by recipe and device, then their sum; then the energy that benches measured."""
    groups = grouped(evidence.runs, lambda run: (run.result.recipe, device_title(run.result.device)))
    rows = [_spent(recipe, device, runs) for (recipe, device), runs in sorted(groups.items())]
    if len(rows) > 1:
        rows.append(_spent("all", "", evidence.runs))
    rows += [
        {"What": entry.name, "Device": device_title(bench.device), ENERGY: entry.joules_per_image}
        for bench in evidence.benches
        for entry in bench.entries
        if entry.joules_per_image is not None
    ]
    caption = (
        "Hours are wall time from a run's start to its result, interruptions left out. Energy is measured by "
        "harness bench on GPUs that report it; a run's own is not measured."
    )
    formats = dict.fromkeys(("Hours", "Of these evaluating, hours", "Device-hours"), ",.2f")
    return Table("spending", "Time and energy", frame_of(rows), caption, formats)


def _spent(recipe: str, device: str, runs: Sequence[Run]) -> Row:
    hours = [run.result.wall_seconds / HOUR for run in runs]
    return {
        "What": recipe,
        "Device": device,
        "Runs": len(runs),
        "Training steps": sum(run.result.steps for run in runs),
        "Hours": sum(hours),
        "Of these evaluating, hours": sum(e.seconds for run in runs for e in run.result.evaluations.values()) / HOUR,
        "Device-hours": sum(h * run.result.device.num_devices for h, run in zip(hours, runs, strict=True)),
        ENERGY: NOT_MEASURED,
    }


def _numbered(name: str, title: str, groups: Sequence[Sequence[Row]], caption: str = "") -> list[Table]:
    """A table for each group, numbered where there are several. Without any, an empty one."""
    several = [(f"{name}-{i}" if i > 1 else name, f"{title}, {i} of {len(groups)}") for i in range(1, len(groups) + 1)]
    titles = several if len(groups) > 1 else [(name, title)]
    return [Table(*named, frame_of(rows), caption) for named, rows in zip(titles, groups or [[]], strict=True)]


def _letters(groups: Sequence[Group]) -> dict[Path, str]:
    """The panel that shows each run, by its folder."""
    return {trial.run.path: g.letter for g in groups for point in g.points for trial in point["trials"]}


def _method(run: Run) -> str:
    return f"{measured_title(run.result.method, run.config['knobs'])} {run.result.input_patches}"


def _metric_order(name: str) -> tuple[int, str]:
    return ([*METRIC_ORDER, family(name)].index(family(name)), name)


def _images_per_second(run: Run) -> float | None:
    batch_size = run.config["protocol"].get("batch_size")
    return run.result.steps_per_sec * batch_size if run.result.steps_per_sec and batch_size else None


def _arithmetic_of_dit(runs: Sequence[Run]) -> dict[str, float]:
    """GMAC of a DiT's step by network and data; the device does not matter to a count."""
    found: dict[str, float] = {}
    for run in runs:
        if run.result.method == REFERENCE and run.result.gmacs_step > 0:
            found.setdefault(_task(run), run.result.gmacs_step)
    return found


def _task(run: Run) -> str:
    return digest({"network": run.config["network"], "data": run.manifest.data.model_dump(mode="json")})


def _facts(manifest: Manifest) -> dict[str, str]:
    device, data = manifest.device, manifest.data
    commit = manifest.git_commit or "not a git checkout"
    changed = f", with uncommitted changes ({manifest.git_diff_sha256[:8]})" if manifest.git_diff_sha256 else ""
    return {
        "Device": device_title(device),
        "Threads": str(device.threads),
        "Memory": f"{device.memory_bytes / GIB:.0f} GiB" if device.memory_bytes else NOTHING,
        "Driver, CUDA": f"{device.driver or NOTHING}, {device.cuda or NOTHING}",
        "Platform": f"{manifest.platform}, Python {manifest.python}",
        "Packages": ", ".join(f"{name} {version}" for name, version in sorted(manifest.packages.items())),
        "Harness": f"{manifest.harness_version}, commit {commit}{changed}",
        "Precision": ", ".join(f"{name} {value}" for name, value in sorted(manifest.precision.items())),
        "Data": f"{data.name}, {data.num_images} images, {'real' if data.real else 'synthetic'}, {data.sha256[:8]}",
    }
