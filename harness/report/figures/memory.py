"""Memory of a training step: bars measured here beside the papers' GB per GPU.

What a run calls its peak is either what torch allocated on the GPU or, on a CPU, the whole process. A bench counts its
contender's part alone. These are different quantities: each has axes of its own, for each machine and way of training.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from harness.papers import published
from harness.recipes.config import digest
from harness.records.bench_record import Bench
from harness.records.evidence import Evidence
from harness.records.looks import from_title, look, measured_title, order
from harness.records.panels import LONGEST_NAME, device_title
from harness.records.store import Run
from harness.records.trials import Setting, Trial
from harness.report.drawing.lettering import text_width
from harness.report.drawing.sheet import KEY_SIZE, NOTE_COLOUR, NOTE_SIZE, TEXT_COLOUR, Block, Drawing, Row, compose
from harness.report.figures import measured as shared
from harness.report.figures.figure3 import Spread

NAME = "memory"
TITLE = "Memory of a training step"
SUBHEADING = (
    "Filled: measured. Light: published; hatched where it was read off a chart. GB are 1e9 bytes where measured here."
)

GIGA = 1e9
KINDS = {
    "device allocated": "Peak of torch's allocations on the device",
    "process RSS": "Peak of the whole process, with Python and torch",
}
OF_A_BENCH = "Peak that a contender added on the device"
ASIDE = ("steps", "learning_rate", "betas", "weight_decay", "ema_decay", "ema_warmup", "label_dropout", "flips")
# The protocol's settings that leave memory as it is; all others must be equal on one pair of axes.
OF_EXECUTION = ("micro_batch", "residency", "activation_checkpointing", "attention")

MAX_PANELS = 5  # of what was measured; the others are counted
MAX_BARS = 16  # of one panel
ROW = 0.19  # inches a bar
LONGEST_LABEL = 1.5  # inches
FOREIGN_COLOUR = "#9a9a9a"  # code that is not this harness's
HATCH = "////"
PALE = 0.3
ROOM = 1.24  # of the longest bar, for the number behind it


@dataclass(frozen=True)
class Bar:
    label: str
    method: str | None  # None: other code
    gigabytes: Spread
    seeds: str
    runs: str
    digitised: bool = False
    source: str = "measured"
    protocol: str = ""  # of a published one
    batch_size: int | None = None
    group: str = ""  # a heading over it and its neighbours of the same group

    @property
    def colour(self) -> str:
        return look(self.method).colour if self.method else FOREIGN_COLOUR


@dataclass(frozen=True)
class Panel:
    """Bars of one kind of memory under equal conditions, but for those that their labels name."""

    title: str
    kind: str
    device: str
    bars: tuple[Bar, ...]
    measured: bool
    notes: tuple[str, ...] = ()


def make(evidence: Evidence) -> Drawing:
    """Peak memory of the runs with the paper's knobs and of every bench, then what the papers say."""
    measured = [*_of_runs(evidence.runs), *(panel for bench in evidence.benches for panel in _of_bench(bench))]
    panels = [*measured[:MAX_PANELS], *_published()]
    notes = list(_remarks(evidence, measured))
    blocks = [_block(panel) for panel in panels]
    rows = [row for panel in panels for row in _rows(panel)]
    figure = compose(TITLE, blocks, subheading=SUBHEADING, notes=notes)
    told = tuple(dict.fromkeys([*(note for panel in panels for note in panel.notes), *notes]))
    return Drawing(NAME, TITLE, _alternative(panels), figure, rows, told)


def _remarks(evidence: Evidence, measured: Sequence[Panel]) -> Iterator[str]:
    if len(measured) > MAX_PANELS:
        yield f"{len(measured) - MAX_PANELS} more groups of measured bars are not drawn; name fewer runs to see them."
    if not any(panel.kind == "device allocated" for panel in measured):
        yield "No run on a GPU: the papers' GB per GPU have no counterpart here. `harness run` on one logs its peak."
    kept = sum(len(bar.runs.split()) for panel in measured for bar in panel.bars)
    without = sum(not run.result.peak_memory_bytes for run in evidence.runs)
    if without:
        yield f"{without} run{'s' * (without > 1)} logged no peak memory."
    if other := len(evidence.runs) - without - kept:
        yield f"No bar: {other} run{'s' * (other > 1)} with other knobs than the papers', or at steps that fewer have."
    on_cpu = sum(all(entry.peak_allocated_bytes is None for entry in bench.entries) for bench in evidence.benches)
    if on_cpu:
        yield (
            f"{on_cpu} bench{'es' * (on_cpu > 1)} on a CPU: one process holds every contender, so none has a peak of "
            "its own. On a GPU each has."
        )
    yield (
        "Published: digitised ones have an error of about 0.3 GB; those above 80 GB are as drawn there, how they were "
        "obtained is not stated. GB or GiB is not stated."
    )
    table = published.memory()
    for row in table[table["value"].isna()].to_dict("records"):
        yield f"Not shown: {row['model']} ({row['figure_or_table']}): {row['source']}."


# Measured --------------------------------------------------------------------------------------------------------


def _of_runs(runs: Iterable[Run]) -> list[Panel]:
    """A panel for each kind, machine and way of training, those with most methods first."""
    groups: dict[str, list[Trial]] = defaultdict(list)
    for run in runs:
        if run.result.peak_memory_bytes and isinstance(run.config["protocol"].get("batch_size"), int):
            groups[digest(_conditions(run))].append(Trial(run, ""))
    panels = [panel for trials in groups.values() if (panel := _panel(trials))]
    titles = [panel.title for panel in panels]
    repeated = {title for title in titles if titles.count(title) > 1}
    shown = [panel for panel in panels if panel.title not in repeated]
    for title in sorted(repeated):  # what differs is in their runs' configurations; the letters keep them apart
        alike = [panel for panel in panels if panel.title == title]
        shown += [
            Panel(f"{panel.title} ({number} of {len(alike)})", panel.kind, panel.device, panel.bars, True, panel.notes)
            for number, panel in enumerate(alike, start=1)
        ]
    return sorted(shown, key=lambda panel: (panel.kind != "device allocated", -len(panel.bars), panel.title))


def _conditions(run: Run) -> dict[str, Any]:
    config, result = run.config, run.result
    execution = config.get("execution")
    execution = execution if isinstance(execution, dict) else {}
    return {
        "kind": result.peak_memory_kind,
        "machine": Trial(run, "").machine,
        "size": result.size,
        "network": config["network"],
        "input": config.get("input"),
        "protocol": {key: value for key, value in config["protocol"].items() if key not in ASIDE},
        "execution": {key: execution.get(key) for key in OF_EXECUTION},
    }


def _panel(trials: Sequence[Trial]) -> Panel | None:
    """None where no run has the paper's knobs."""
    group = Setting("", "", "other", trials[0].run.result.size, "", tuple(trials), {})
    run = trials[0].run
    bars = []
    for method in sorted({trial.method for trial in trials}, key=order):
        found = _most_steps(group, method)
        peaks = [peak / GIGA for trial in found if (peak := trial.run.result.peak_memory_bytes) is not None]
        if peaks:
            bars.append(
                Bar(
                    label=measured_title(method, found[0].knobs),
                    method=method,
                    gigabytes=Spread.of(peaks),
                    seeds=" ".join(str(trial.seed) for trial in found),
                    runs=" ".join(trial.run.name for trial in found),
                    batch_size=found[0].batch_size,
                )
            )
    if not bars:
        return None
    protocol, result = run.config["protocol"], run.result
    data = PurePath(run.manifest.data.name).name[:LONGEST_NAME]
    way = [data, f"size {result.size}", f"batch {protocol['batch_size']}"]
    way += [str(protocol[key]) for key in ("precision", "pipeline") if key in protocol]
    way += ["compiled"] * bool(result.compiled)
    way += [f"{result.world_size} processes"] * (result.world_size > 1)
    device = device_title(result.device)
    notes = [shared.counted((bar.label, bar.gigabytes) for bar in bars)]
    if result.peak_memory_kind == "process RSS":
        notes.append("Libraries are most of a small process: such bars do not show the methods' own shares.")
    return Panel(
        f"{KINDS[result.peak_memory_kind]}: {device}; {', '.join(way)}",
        result.peak_memory_kind,
        device,
        tuple(bars),
        True,
        tuple(notes),
    )


def _most_steps(group: Setting, method: str) -> tuple[Trial, ...]:
    """The runs with the paper's knobs, of the number of steps that most have: a peak grows no more after the first."""
    steps = sorted({trial.steps for trial in group.trials if trial.method == method})
    return max((group.select(method, steps=number) for number in steps), key=len, default=())


def _of_bench(bench: Bench) -> Iterator[Panel]:
    """On a GPU: a panel for each number of images a step, the contenders named as the bench names them."""
    groups: dict[int, list[Bar]] = defaultdict(list)
    for entry in bench.entries:
        if entry.peak_allocated_bytes:
            ours = entry.conditions.get("code") == "harness"
            groups[entry.num_images].append(
                Bar(
                    label=entry.name,
                    method=str(entry.conditions.get("method")) if ours else None,
                    gigabytes=Spread.of([entry.peak_allocated_bytes / GIGA]),
                    seeds="",
                    runs="",
                    batch_size=entry.num_images,
                )
            )
    device = device_title(bench.device)
    for images, bars in sorted(groups.items()):
        title = f"{OF_A_BENCH}: {device}; bench of {bench.measured_at[:10]}, {images} images a step"
        notes = ("n = 1: the highest of all its steps. Each bar's name says how its step was made.",)
        yield Panel(title, "bench, device allocated", device, tuple(bars), True, notes)


# Published -------------------------------------------------------------------------------------------------------


def _published() -> list[Panel]:
    """GB per GPU as the papers print or draw them, images of 256 and of 512 pixels apart."""
    table = published.memory()
    groups: dict[str, list[Bar]] = defaultdict(list)
    for row in table[table["value"].notna()].to_dict("records"):
        batch = None if row["batch_size"] != row["batch_size"] else int(row["batch_size"])
        network, _, pixels = str(row["model"]).partition(" ")
        series, title = str(row["series"]), str(row["method"])
        arithmetic = series.removeprefix(title).strip() if series.startswith(title) else ""
        groups[pixels or "256"].append(
            Bar(
                label=f"{network}, {arithmetic}" if arithmetic else network,
                method=from_title(str(row["method"])),
                gigabytes=Spread.of([float(row["value"])]),
                seeds="",
                runs="",
                digitised=row["quality"] == "digitised",
                source=str(row["source"]),
                protocol=str(row["protocol"]),
                batch_size=batch,
                group=f"batch {batch}" if batch else "batch not stated",
            )
        )
    panels = []
    for pixels, bars in sorted(groups.items()):
        bars = sorted(bars, key=lambda bar: (bar.batch_size or 0, order(bar.method or "")))
        title = f"Published, GB per GPU of 8 x A100: images of {pixels} x {pixels} pixels"
        panels.append(Panel(title, "published GB per GPU", "8 x A100", tuple(bars), False))
    return panels


# Drawing ---------------------------------------------------------------------------------------------------------


def _block(panel: Panel) -> Block:
    bars = panel.bars[:MAX_BARS]
    widest = max(text_width(bar.label, size=KEY_SIZE) for bar in bars)
    notes = list(panel.notes)
    if len(panel.bars) > MAX_BARS:
        notes.append(f"{len(panel.bars) - MAX_BARS} more bars are in the CSV alone.")
    return Block(
        panel.title,
        partial(_draw, bars=bars, measured=panel.measured),
        tuple(notes),
        axes_height=ROW * (_rows_of(bars)[-1] + 1) + 0.06,
        left=min(widest, LONGEST_LABEL) + 0.2,
    )


def _rows_of(bars: Sequence[Bar]) -> list[int]:
    """The row of each bar from the top, a row free above each group that has a heading."""
    rows, row = [], -1
    for before, bar in zip((None, *bars), bars, strict=False):
        row += 2 if bar.group and (before is None or before.group != bar.group) else 1
        rows.append(row)
    return rows


def _draw(grid: Sequence[Axes], *, bars: Sequence[Bar], measured: bool) -> None:
    (axes,) = grid
    reach = max(bar.gigabytes.mean + (bar.gigabytes.sd or 0) for bar in bars)
    rows = _rows_of(bars)
    headed = None
    for row, bar in zip(rows, bars, strict=True):
        if bar.group and bar.group != headed:
            headed = bar.group
            axes.text(0.012 * reach, row - 1, headed, size=NOTE_SIZE, va="center", color=NOTE_COLOUR, style="italic")
        value = bar.gigabytes
        face = bar.colour if measured else _pale(bar.colour)
        hatch = HATCH if bar.digitised else None
        (drawn,) = axes.barh(row, value.mean, height=0.66, color=face, edgecolor=bar.colour, hatch=hatch, linewidth=0.8)
        drawn.set_gid(f"bar/{bar.label}")
        if value.sd is not None:
            axes.errorbar(value.mean, row, xerr=value.sd, color=TEXT_COLOUR, linewidth=0.8, capsize=2)
        end = value.mean + (value.sd or 0) + 0.015 * reach
        axes.text(end, row, f"{value.mean:.3g}", size=KEY_SIZE - 0.5, va="center", color=TEXT_COLOUR)
    axes.set_yticks(rows, [_shortened(bar.label) for bar in bars], size=KEY_SIZE)
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(0, reach * ROOM), ylim=(rows[-1] + 0.6, -0.6), xlabel="GB (lower is better)")
    axes.grid(axis="y", visible=False)


def _shortened(label: str) -> str:
    """As much of the label as fits, its end cut."""
    shown = label
    while text_width(shown, size=KEY_SIZE) > LONGEST_LABEL and len(shown) > 4:
        shown = shown[:-2].rstrip(" .…") + "…"
    return shown


# Words -----------------------------------------------------------------------------------------------------------


def _rows(panel: Panel) -> Iterator[Row]:
    for bar in panel.bars:
        yield {
            "panel": panel.title,
            "kind": panel.kind,
            "device": panel.device,
            "label": bar.label,
            "method": bar.method,
            "batch_size": bar.batch_size,
            "gigabytes": bar.gigabytes.mean,
            "sd": bar.gigabytes.sd,
            "n": bar.gigabytes.n if panel.measured else None,
            "seeds": bar.seeds,
            "quality": "measured" if panel.measured else ("digitised" if bar.digitised else "text"),
            "source": bar.source,
            "protocol": bar.protocol,
            "runs": bar.runs,
        }


def _alternative(panels: Sequence[Panel]) -> str:
    measured = sum(panel.measured for panel in panels)
    return f"Bars of memory: {measured} groups measured here, {len(panels) - measured} groups the papers print or draw"


def _pale(colour: str) -> tuple[float, ...]:
    """Opaque: an SVG drops the transparency of a hatched face, and with it the hatching."""
    return tuple(PALE * part + 1 - PALE for part in to_rgb(colour))
