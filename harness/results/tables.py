"""The report's tables, each a Markdown string. Numbers keep four digits; the CSV and JSON hold all of them."""

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from harness.config import digest
from harness.results import published
from harness.results.compare import Figure3, Panel, Point, Spread
from harness.results.deviations import DEVIATIONS
from harness.results.methods import REFERENCE, look, measured_title, order
from harness.results.panels import FINAL, device_title
from harness.results.schema import Manifest
from harness.results.store import LeftOut, Run
from harness.results.trials import distance_metric, metric_title

UNTRAINED = "untrained"  # the name of the evaluation before the first step
METRIC_ORDER = (
    "fid", "fd", "sfid", "sfd", "is", "precision", "recall", "kid", "density", "coverage",
    "fid_infinity", "fd_infinity", "class_accuracy",
)  # fmt: skip
NOTHING = "–"
GIB, MILLION = 2**30, 1e6

Cell = str | int | float | None


def markdown(rows: Sequence[Mapping[str, Cell]]) -> str:
    """The rows as a Markdown table, every cell escaped; columns of numbers to the right. Empty without rows."""
    if not rows:
        return "None.\n"
    frame = pd.DataFrame([{escape(name): escape(_text(cell)) for name, cell in row.items()} for row in rows])
    numeric = {escape(name) for name in rows[0] if all(not isinstance(row.get(name), str) for row in rows)}
    alignment = ["right" if name in numeric else "left" for name in frame.columns]
    return frame.to_markdown(index=False, disable_numparse=True, colalign=alignment) + "\n"


def escape(text: str) -> str:
    """`text` on one line, with nothing in it that Markdown or HTML would take for markup."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", line)


def number(value: float | int | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if abs(value) >= 10_000 or isinstance(value, int) else f"{value:.4g}"


def spread(value: Spread) -> str:
    return number(value.mean) if value.sd is None else f"{number(value.mean)} ± {value.sd:.2g}"


# Figure 3 --------------------------------------------------------------------------------------------------------


def paper_against_measured(figure: Figure3) -> str:
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
        {"Panel": NOTHING, "Method": f"{look(method).title} {patches}"}
        | _printed(paper, (method, patches))
        | _measured(None, None)
        for method, patches in sorted(absent, key=lambda key: order(key[0]))
    ]
    return markdown(rows)


def _printed(paper: Mapping[tuple[str, str], Point | None], key: tuple[str, str]) -> dict[str, Cell]:
    names = ("Paper, steps/s", "Paper, FID-50K", "Paper, speed / DiT", "Paper, FID / DiT")
    point = paper.get(key)
    if point is None:
        return dict.fromkeys(names, "missing" if key in paper else NOTHING)
    values = (point.speed.mean, point.distance.mean, _ratio(point.speed_ratio), _ratio(point.distance_ratio))
    return dict(zip(names, values, strict=True))


def _measured(panel: Panel | None, point: Point | None) -> dict[str, Cell]:
    names = ("Measured, steps/s", "Measured, distance", "Measured, speed / DiT", "Measured, distance / DiT", "n")
    if panel is None or point is None:
        return dict.fromkeys(names, "not measured") | {"Comparable with the paper": NOTHING}
    return {
        "Measured, steps/s": spread(point.speed),
        "Measured, distance": f"{spread(point.distance)} ({panel.metric_title})",
        "Measured, speed / DiT": _ratio(point.speed_ratio),
        "Measured, distance / DiT": _ratio(point.distance_ratio),
        "n": point.speed.n,
        "Comparable with the paper": f"no: {', '.join(point.differences)}" if point.differences else "yes",
    }


def table1() -> str:
    """SD-DiT Table 1 as published."""
    return markdown(
        [
            {
                "Model": row.model,
                "Training steps": int(row.training_steps_k * 1000),
                "FID-50K": row.value,
                "Quality": row.quality,
                "Source": row.source,
            }
            for row in published.table1().itertuples()
        ]
    )


def missing_values() -> str:
    return markdown(
        [
            {
                "Figure or table": row.figure_or_table,
                "Model": row.model or row.method,
                "At": " = ".join(filter(None, (row.x_unit, row.x))) or NOTHING,
                "Value": row.metric,
                "Why": row.source,
            }
            for row in published.missing().itertuples()
        ]
    )


# Runs ------------------------------------------------------------------------------------------------------------


def metrics(runs: Sequence[Run], figure: Figure3) -> str:
    """All metrics of the final evaluation: a table for each set of metric names, as no two sets share a scale."""
    groups: dict[tuple[str, ...], list[dict[str, Cell]]] = {}
    for run in runs:
        final, untrained = (run.result.evaluations.get(name) for name in (FINAL, UNTRAINED))
        if final is None:
            continue
        names = sorted(final.metrics, key=_metric_order)
        row: dict[str, Cell] = {"Panel": figure.letter_of(run), "Run": run.name, "Method": _method(run)}
        row["Weights"] = final.weights
        row |= {metric_title(name): final.metrics[name] for name in names}
        distance = distance_metric(names)
        before = untrained.metrics.get(distance) if untrained is not None and distance else None
        if distance and before is not None:
            row[f"Untrained {metric_title(distance)}"] = before
            row["Untrained / final"] = before / final.metrics[distance] if final.metrics[distance] > 0 else None
        groups.setdefault(tuple(row), []).append(row)
    return "\n".join(markdown(rows) for rows in groups.values()) or markdown([])


def training(runs: Sequence[Run], figure: Figure3) -> str:
    """Speed, memory, size and arithmetic of every run. GMAC are multiply-accumulates per image, in units of 1e9."""
    return markdown(
        [
            {
                "Panel": figure.letter_of(run),
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
                "GMAC step / DiT": _arithmetic_ratio(run, runs),
                "Wall seconds": run.result.wall_seconds,
            }
            for run in runs
        ]
    )


def environment(runs: Sequence[Run]) -> str:
    """A column of facts for each environment the runs come from."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        facts = _facts(run.manifest)
        groups.setdefault(digest(facts), []).append(run)
    texts = []
    for members in groups.values():
        facts = _facts(members[0].manifest)
        facts["Recipes"] = ", ".join(sorted({run.result.recipe for run in members}))
        facts["Seeds"] = ", ".join(map(str, sorted({run.result.seed for run in members})))
        texts.append(markdown([{"Fact": name, "Value": value} for name, value in facts.items()]))
    return "\n".join(texts)


def deviations() -> str:
    return markdown([{"Concerns": d.concerns, "Kind": d.kind, "Papers": d.paper, "Here": d.here} for d in DEVIATIONS])


def left_out(items: Sequence[LeftOut]) -> str:
    return markdown([{"Folder": item.name, "Why": item.reason} for item in items])


def _method(run: Run) -> str:
    return f"{measured_title(run.result.method, run.config['knobs'])} {run.result.input_patches}"


def _metric_order(name: str) -> tuple[int, str]:
    family = re.split(r"[-@\d]", name, maxsplit=1)[0]
    return (METRIC_ORDER.index(family) if family in METRIC_ORDER else len(METRIC_ORDER), name)


def _images_per_second(run: Run) -> float | None:
    batch_size = run.config["protocol"].get("batch_size")
    return run.result.steps_per_sec * batch_size if run.result.steps_per_sec and batch_size else None


def _arithmetic_ratio(run: Run, runs: Sequence[Run]) -> float | None:
    """To the step of a DiT with the same network on the same data; the device does not matter to a count."""
    for other in runs:
        same = other.config["network"] == run.config["network"] and other.manifest.data == run.manifest.data
        if other.result.method == REFERENCE and same and other.result.gmacs_step > 0:
            return run.result.gmacs_step / other.result.gmacs_step
    return None


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


def _text(cell: Cell) -> str:
    if isinstance(cell, str):
        return cell
    return number(cell)
