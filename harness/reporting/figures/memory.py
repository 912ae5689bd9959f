"""Memory of a training step: bars measured here beside the papers' GB per GPU.

What a run calls its peak is either what torch allocated on the GPU or, on a CPU, the whole process. A bench counts its
contender's part alone. These are different quantities: each has axes of its own, for each machine and way of training.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from harness.papers import published
from harness.recipes.naming import digest
from harness.records.bench_record import Bench
from harness.records.evidence import Evidence
from harness.records.looks import (
    SHORT_HASH,
    device_title,
    distinct,
    flat,
    from_title,
    look,
    order,
)
from harness.records.store import Run
from harness.records.trials import Setting, Trial
from harness.reporting.drawing.sheet import FOREIGN_COLOUR, KEY_SIZE, TEXT_COLOUR, Drawing, Panel, Row, drawing
from harness.reporting.figures import measured as shared
from harness.reporting.tables.table import count
from harness.system.groups import grouped

NAME = "memory"
TITLE = "Memory of a training step"
SUBHEADING = (
    "Filled: measured. Light: published; hatched where it was read off a chart. GB are 1e9 bytes where measured here."
)

GIGA = 1e9
ON_DEVICE = "device allocated"
KINDS = {
    ON_DEVICE: "Peak of torch's allocations on the device",
    "process RSS": "Peak of the whole process, with Python and torch",
}
OF_A_BENCH = "Peak that a contender added on the device"
ASIDE = ("steps", "learning_rate", "betas", "weight_decay", "ema_decay", "ema_warmup", "label_dropout", "flips")
# The protocol's settings that leave memory as it is; all others must be equal on one pair of axes.
OF_EXECUTION = ("micro_batch", "residency", "activation_checkpointing", "attention")

BAR = 0.2  # inches, the height of a bar and the space to the next
LONGEST_LABEL = 30  # letters
PALE = 0.3


def make(evidence: Evidence) -> Drawing:
    """What the papers say, then peak memory of the runs with the paper's knobs and of every bench."""
    measured = [*_of_runs(evidence.runs), *(panel for bench in evidence.benches for panel in _of_bench(bench))]
    papers = _published()
    notes = [SUBHEADING, *_remarks(evidence, measured)]
    alternative = f"Bars of memory: {len(measured)} groups measured here, {len(papers)} groups the papers print or draw"
    return drawing(NAME, TITLE, alternative, [*papers, *measured], notes=notes)


def _remarks(evidence: Evidence, measured: Sequence[Panel]) -> Iterator[str]:
    rows = [row for panel in measured for row in panel.rows]
    if not any(row["kind"] == ON_DEVICE for row in rows):
        yield "No run on a GPU: the papers' GB per GPU have no counterpart here. `harness run` on one logs its peak."
    kept = sum(len(row["runs"].split()) for row in rows)
    without = sum(not run.result.peak_memory_bytes for run in evidence.runs)
    if without:
        yield f"{count(without, 'run')} logged no peak memory."
    if other := len(evidence.runs) - without - kept:
        yield f"No bar: {count(other, 'run')} with other knobs than the papers', or at steps that fewer have."
    on_cpu = sum(all(entry.peak_allocated_bytes is None for entry in bench.entries) for bench in evidence.benches)
    if on_cpu:
        yield (
            f"{on_cpu} bench{'es' * (on_cpu > 1)} on a CPU: one process runs every contender, so none has a peak of "
            "its own. On a GPU each has."
        )
    yield (
        "Published: digitised ones have an error of about 0.3 GB; those above 80 GB are as drawn there, how they were "
        "obtained is not stated. GB or GiB is not stated."
    )
    table = published.memory()
    for row in table[table["value"].isna()].itertuples():
        yield f"Not shown: {row.model} ({row.figure_or_table}): {row.source}."


def _row(panel: str, kind: str, device: str, label: str, gigabytes: float, **more: Any) -> Row:
    """A bar. What is said neither here nor in `more` is not known of it."""
    place = {"panel": panel, "kind": kind, "device": device, "label": label, "method": None, "batch_size": None}
    spread = {"gigabytes": gigabytes, "sd": None, "n": None, "seeds": ""}
    return {**place, **spread, "quality": "measured", "source": "measured", "protocol": "", "runs": "", **more}


def _panel(rows: Sequence[Row], *notes: str) -> Panel:
    return Panel(rows[0]["panel"], rows, _draw, notes, height=BAR * len(rows) + 0.06)


# Measured --------------------------------------------------------------------------------------------------------


def _of_runs(runs: Iterable[Run]) -> list[Panel]:
    """A panel for each kind, machine and way of training, those with most methods first."""
    logged = [
        Trial(run, "")
        for run in runs
        if run.result.peak_memory_bytes and isinstance(run.config["protocol"].get("batch_size"), int)
    ]
    groups = grouped(logged, lambda trial: digest(_conditions(trial))).values()
    found = [(rows, flat("", _conditions(trials[0]))) for trials in groups if (rows := _rows(trials))]
    titles = distinct([(rows[0]["panel"], conditions) for rows, conditions in found])
    titled = [[{**row, "panel": title} for row in rows] for (rows, _), title in zip(found, titles, strict=True)]
    titled.sort(key=lambda rows: (rows[0]["kind"] != ON_DEVICE, -len(rows), rows[0]["panel"]))
    return [_panel(rows, *_notes(rows)) for rows in titled]


def _conditions(trial: Trial) -> dict[str, Any]:
    config, result = trial.run.config, trial.run.result
    execution = config.get("execution")
    execution = execution if isinstance(execution, dict) else {}
    return {
        "kind": result.peak_memory_kind,
        "machine": trial.machine[:SHORT_HASH],
        "size": result.size,
        "network": config["network"],
        "input": config.get("input"),
        "protocol": {key: value for key, value in config["protocol"].items() if key not in ASIDE},
        "execution": {key: execution.get(key) for key in OF_EXECUTION},
    }


def _rows(trials: Sequence[Trial]) -> list[Row]:
    """A row for each method that has runs with the paper's knobs."""
    group = Setting("", "", "other", trials[0].run.result.size, "", tuple(trials), {})
    run = trials[0].run
    protocol, result = run.config["protocol"], run.result
    way = [run.data_title, f"size {result.size}", f"batch {protocol['batch_size']}"]
    way += [str(protocol[key]) for key in ("precision", "pipeline") if key in protocol]
    way += ["compiled"] * bool(result.compiled)
    way += [f"{result.world_size} processes"] * (result.world_size > 1)
    device = device_title(result.device)
    panel = f"{KINDS[result.peak_memory_kind]}: {device}; {', '.join(way)}"
    rows: list[Row] = []
    for method in group.methods:
        if found := _most_steps(group, method):
            peaks = shared.of_runs(found, [(trial.run.result.peak_memory_bytes or 0) / GIGA for trial in found])
            rows.append(
                _row(
                    panel,
                    result.peak_memory_kind,
                    device,
                    shared.title_of_runs(found),
                    peaks["value"],
                    method=method,
                    batch_size=found[0].batch_size,
                    sd=peaks["value_sd"],
                    **{name: peaks[name] for name in ("n", "seeds", "runs")},
                )
            )
    return rows


def _most_steps(group: Setting, method: str) -> tuple[Trial, ...]:
    """The runs with the paper's knobs, of the number of steps that most have: a peak grows no more after the first."""
    steps = sorted({trial.steps for trial in group.trials if trial.method == method})
    return max((group.select(method, steps=number) for number in steps), key=len, default=())


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    yield shared.counted({row["label"]: row["n"] for row in rows})
    if rows[0]["kind"] == "process RSS":
        yield "Libraries are most of a small process: such bars do not show the methods' own shares."


def _of_bench(bench: Bench) -> Iterator[Panel]:
    """On a GPU: a panel for each number of images a step, the contenders named as the bench names them."""
    device = device_title(bench.device)
    rows_of_all = []
    for entry in bench.entries:
        if entry.peak_allocated_bytes:
            ours, images = entry.conditions.get("code") == "harness", entry.num_images
            panel = f"{OF_A_BENCH}: {device}; bench of {bench.measured_at[:10]}, {images} images a step"
            method = str(entry.conditions.get("method")) if ours else None
            peak = entry.peak_allocated_bytes / GIGA
            step = {"method": method, "batch_size": images, "n": 1}
            rows_of_all.append(_row(panel, "bench, device allocated", device, entry.name, peak, **step))
    for _, rows in sorted(grouped(rows_of_all, lambda row: row["batch_size"]).items()):
        yield _panel(rows, "n = 1: the highest of all its steps. Each bar's name says how its step was made.")


# Published -------------------------------------------------------------------------------------------------------


def _published() -> list[Panel]:
    """GB per GPU as the papers print or draw them, images of 256 and of 512 pixels apart."""
    table = published.memory()
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in table[table["value"].notna()].itertuples():
        network, _, pixels = str(row.model).partition(" ")
        pixels = pixels or "256"
        series, title = str(row.series), str(row.method)
        arithmetic = series.removeprefix(title).strip() if series.startswith(title) else ""
        groups[pixels].append(
            _row(
                f"Published, GB per GPU of 8 x A100: images of {pixels} x {pixels} pixels",
                "published GB per GPU",
                "8 x A100",
                f"{network}, {arithmetic}" if arithmetic else network,
                float(row.value),
                method=from_title(title),
                batch_size=None if pd.isna(row.batch_size) else int(row.batch_size),
                quality="digitised" if row.quality == "digitised" else "text",
                source=str(row.source),
                protocol=str(row.protocol),
            )
        )
    return [
        _panel(sorted(rows, key=lambda row: (row["batch_size"] or 0, order(row["method"]))))
        for _, rows in sorted(groups.items())
    ]


# Drawing ---------------------------------------------------------------------------------------------------------


def _draw(frame: pd.DataFrame, axes: Axes) -> None:
    for place, row in enumerate(frame.itertuples()):
        colour = look(row.method).colour if row.method else FOREIGN_COLOUR
        bar = axes.barh(
            place,
            row.gigabytes,
            height=0.66,
            color=colour if row.quality == "measured" else _pale(colour),
            edgecolor=colour,
            hatch="////" if row.quality == "digitised" else None,
            linewidth=0.8,
            xerr=row.sd,
            error_kw={"ecolor": TEXT_COLOUR, "elinewidth": 0.8},
        )
        bar[0].set_gid(f"bar/{row.label}")
        axes.bar_label(bar, fmt="%.3g", size=KEY_SIZE - 0.5, padding=2)
    axes.set_yticks(range(len(frame)), [_tick(row) for row in frame.to_dict("records")], size=KEY_SIZE)
    axes.tick_params(axis="y", length=0)
    axes.set(ylim=(len(frame) - 0.4, -0.6), xlabel="GB (lower is better)")
    axes.margins(x=0.15)
    axes.grid(axis="y", visible=False)


def _tick(row: Row) -> str:
    label = row["label"] if len(row["label"]) <= LONGEST_LABEL else row["label"][: LONGEST_LABEL - 1] + "…"
    return f"{label}, batch {row['batch_size']}" if row["quality"] != "measured" and row["batch_size"] else label


def _pale(colour: str) -> tuple[float, ...]:
    """Opaque: an SVG drops the transparency of a hatched face, and with it the hatching."""
    return tuple(PALE * part + 1 - PALE for part in to_rgb(colour))
