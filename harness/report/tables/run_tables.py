"""The report's own tables: what was measured, how, where and with which deviations. The paper's: paper_tables."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.papers import published
from harness.papers.deviations import DEVIATIONS
from harness.recipes.config import digest
from harness.records.looks import REFERENCE, look, measured_title, order
from harness.records.panels import FINAL, device_title
from harness.records.schema import Manifest
from harness.records.store import LeftOut, Run
from harness.records.trials import distance_metric, metric_title
from harness.report.figures.figure3 import Figure3, Panel, Point
from harness.report.tables.table import NOTHING, Cell, Column, Table

UNTRAINED = "untrained"  # the name of the evaluation before the first step
METRIC_ORDER = (
    "fid", "fd", "sfid", "sfd", "is", "precision", "recall", "kid", "density", "coverage",
    "fid_infinity", "fd_infinity", "class_accuracy",
)  # fmt: skip
GIB, MILLION = 2**30, 1e6

Row = dict[str, Cell]

# Figure 3 --------------------------------------------------------------------------------------------------------

PAPER = ("Paper, steps/s", "Paper, FID-50K", "Paper, speed / DiT", "Paper, FID / DiT")
SPEED, DISTANCE = "Measured, steps/s", "Measured, distance"
MEASURED_RATIOS = ("Measured, speed / DiT", "Measured, distance / DiT")


def paper_against_measured(figure: Figure3) -> Table:
    """One row per measured point, and one per point of the paper that was not measured.

    A measured point stands beside the paper's only where both read the same share of the patches.
    """
    paper: dict[tuple[str, str], Point | None] = {(p.method, p.input_patches): p for p in figure.published.points}
    paper |= {(point.method, point.input_patches): None for point in figure.missing}
    measured = [
        (letter, panel, point)
        for letter, panel in figure.lettered()
        if panel.kind == "measured"
        for point in panel.points
    ]
    rows = [
        {"Panel": letter, "Method": point.label}
        | _printed(paper, (point.method, point.input_patches))
        | _measured(panel, point)
        for letter, panel, point in measured
    ]
    absent = paper.keys() - {(point.method, point.input_patches) for _, _, point in measured}
    rows += [
        {"Method": f"{look(method).title} {patches}"}
        | _printed(paper, (method, patches))
        | {SPEED: "not measured", DISTANCE: "not measured"}
        for method, patches in sorted(absent, key=lambda key: (order(key[0]), key[1]))
    ]
    return Table(
        name="speed-quality",
        title="Figure 3, paper against measured",
        columns=(
            Column("Panel"),
            Column("Method"),
            *(Column(name, "number") for name in PAPER),
            Column(SPEED, "number", spread=f"{SPEED}, SD"),
            Column(DISTANCE, "number", spread=f"{DISTANCE}, SD"),
            Column("Distance is"),
            *(Column(name, "number") for name in MEASURED_RATIOS),
            Column("n", "number"),
            Column("Comparable with the paper"),
        ),
        rows=tuple(rows),
        caption="Panels as in the figure. n counts seeds; behind ± is the standard deviation over them, absent where "
        "n = 1. missing: the paper draws it and prints no value.",
    )


def _printed(paper: Mapping[tuple[str, str], Point | None], key: tuple[str, str]) -> Row:
    point = paper.get(key)
    if point is None:
        return dict.fromkeys(PAPER, "missing" if key in paper else None)
    values = (point.speed.mean, point.distance.mean, _ratio(point.speed_ratio), _ratio(point.distance_ratio))
    return dict(zip(PAPER, values, strict=True))


def _measured(panel: Panel, point: Point) -> Row:
    return {
        SPEED: point.speed.mean,
        f"{SPEED}, SD": point.speed.sd,
        DISTANCE: point.distance.mean,
        f"{DISTANCE}, SD": point.distance.sd,
        "Distance is": panel.metric_title,
        **dict(zip(MEASURED_RATIOS, (_ratio(point.speed_ratio), _ratio(point.distance_ratio)), strict=True)),
        "n": point.speed.n,
        "Comparable with the paper": f"no: {', '.join(point.differences)}" if point.differences else "yes",
    }


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
    return _plain("missing", "Published values that are not in any text", rows)


# Runs ------------------------------------------------------------------------------------------------------------


def metrics(runs: Sequence[Run], figure: Figure3) -> tuple[Table, ...]:
    """All metrics of the final evaluation: a table for each set of metric names, as no two sets share a scale."""
    letters = _letters(figure)
    groups: dict[tuple[str, ...], list[Row]] = {}
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
        groups.setdefault(tuple(row), []).append(row)
    caption = (
        "Of the evaluation after the last step. A metric's name carries the features and the number of images; only "
        "FID-50K is FID-50K. Untrained / final is how many times the distance shrank in training."
    )
    return _numbered("metrics", "All metrics", list(groups.values()), caption)


def training(runs: Sequence[Run], figure: Figure3) -> Table:
    """Speed, memory, size and arithmetic of every run."""
    letters, dit = _letters(figure), _arithmetic_of_dit(runs)
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
    return _plain("training", "Training", rows, caption)


def environment(runs: Sequence[Run]) -> tuple[Table, ...]:
    """A table of facts for each environment the runs come from."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(digest(_facts(run.manifest)), []).append(run)
    tables: list[list[Row]] = []
    for members in groups.values():
        facts = _facts(members[0].manifest)
        facts["Recipes"] = ", ".join(sorted({run.result.recipe for run in members}))
        facts["Seeds"] = ", ".join(map(str, sorted({run.result.seed for run in members})))
        tables.append([{"Fact": name, "Value": value} for name, value in facts.items()])
    return _numbered("environment", "Environment", tables)


def deviations() -> Table:
    rows: list[Row] = [{"Concerns": d.concerns, "Kind": d.kind, "Papers": d.paper, "Here": d.here} for d in DEVIATIONS]
    caption = (
        "changed: it differs from the paper. inferred: the paper does not say, another of its numbers does. "
        "assumed: the paper does not say, this is a guess."
    )
    return _plain("deviations", "Deviations from the papers", rows, caption)


def left_out(items: Sequence[LeftOut]) -> Table:
    return _plain("left-out", "Left out", [{"Folder": item.name, "Why": item.reason} for item in items])


def _plain(name: str, title: str, rows: Sequence[Row], caption: str = "") -> Table:
    """A table whose rows all have the same cells, in the order of its columns."""
    return Table(name, title, tuple(rows[0]) if rows else (), tuple(rows), caption)


def _numbered(name: str, title: str, groups: Sequence[Sequence[Row]], caption: str = "") -> tuple[Table, ...]:
    """A table for each group, numbered from the second on; without any, an empty one that says so."""
    return tuple(
        _plain(
            f"{name}-{i}" if i > 1 else name, f"{title}, {i} of {len(groups)}" if groups[1:] else title, rows, caption
        )
        for i, rows in enumerate(groups or [[]], start=1)
    )


def _letters(figure: Figure3) -> dict[Path, str]:
    """The panel that shows each run, by its folder."""
    return {run.path: letter for letter, panel in figure.lettered() for point in panel.points for run in point.runs}


def _method(run: Run) -> str:
    return f"{measured_title(run.result.method, run.config['knobs'])} {run.result.input_patches}"


def _metric_order(name: str) -> tuple[int, str]:
    family = re.split(r"[-@\d]", name, maxsplit=1)[0]
    return (METRIC_ORDER.index(family) if family in METRIC_ORDER else len(METRIC_ORDER), name)


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


def _ratio(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
