"""Draws a bench as bars: PNG, SVG and the CSV behind them. The same record always gives the same bytes."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from harness.records.bench_record import Bench, Entry
from harness.records.looks import look
from harness.report.drawing.lettering import wrap
from harness.report.drawing.sheet import (
    EDGE,
    HEADING_SIZE,
    LINE,
    NOTE_COLOUR,
    NOTE_SIZE,
    TITLE_SIZE,
    WIDTH,
    Row,
    csv_of,
    save,
    style,
)

ROW = 0.36  # inches a bar, its name above it
FOREIGN_COLOUR = "#9a9a9a"  # code that is not this harness's


def write(bench: Bench, out: Path) -> list[Path]:
    """Write bench.png, .svg and .csv into `out`, and return their paths."""
    return save(draw(bench), as_csv(bench), out, "bench")


def as_csv(bench: Bench) -> str:
    """Every bar as one line, the columns named in the first."""
    return csv_of([_row(entry) for entry in bench.entries])


def _row(entry: Entry) -> Row:
    speed, ratio = entry.steps_per_sec, entry.ratio
    return {
        "name": entry.name,
        "batch_size": entry.num_images,
        "steps_per_sec": speed.median,
        "steps_per_sec_lowest": speed.lowest,
        "steps_per_sec_highest": speed.highest,
        "ratio": ratio.median,
        "ratio_lowest": ratio.lowest,
        "ratio_highest": ratio.highest,
        "floor_steps_per_sec": _fastest(entry),
        "mfu": entry.mfu,
    }


def draw(bench: Bench) -> Figure:
    """One bar for each contender, in the order of the bench, the floor of its arithmetic and bytes as a line."""
    entries = bench.entries
    with style():
        heading = wrap(f"Training steps on {bench.device.name}", WIDTH - 2 * EDGE, size=HEADING_SIZE, weight="bold")
        said = f"Bars: median of {bench.rounds} windows in turns; whiskers: lowest and highest. Ratio to the first."
        if any(entry.over_floor for entry in entries):
            said += " Line: the fastest that this machine's measured rates allow."
        notes = wrap(said, WIDTH - 2 * EDGE, size=NOTE_SIZE)
        top = EDGE + len(heading) * HEADING_SIZE * LINE + len(notes) * NOTE_SIZE * LINE + 0.1
        height = top + ROW * len(entries) + 0.42
        figure = Figure(figsize=(WIDTH, height))
        FigureCanvasAgg(figure)
        place = EDGE
        for line in heading:
            figure.text(EDGE / WIDTH, 1 - place / height, line, size=HEADING_SIZE, weight="bold", va="top")
            place += HEADING_SIZE * LINE
        for line in notes:
            figure.text(EDGE / WIDTH, 1 - place / height, line, size=NOTE_SIZE, color=NOTE_COLOUR, va="top")
            place += NOTE_SIZE * LINE
        bottom = 0.4 / height
        axes = figure.add_axes((EDGE / WIDTH, bottom, 1 - 2 * EDGE / WIDTH, ROW * len(entries) / height))
        _bars(axes, entries)
    return figure


def _bars(axes, entries: list[Entry]) -> None:
    widest = max(_reach(entry) for entry in entries)
    for row, entry in enumerate(entries):
        speed, y = entry.steps_per_sec, len(entries) - 1 - row
        ours = entry.conditions["code"] == "harness"
        colour = look(entry.conditions["method"]).colour if ours else FOREIGN_COLOUR
        axes.barh(y - 0.18, speed.median, height=0.36, color=colour, gid=entry.name)
        spread = [[speed.median - speed.lowest], [speed.highest - speed.median]]
        axes.errorbar(speed.median, y - 0.18, xerr=spread, color="#202020", linewidth=0.8, capsize=2)
        floor = _fastest(entry)
        if floor:
            axes.plot([floor, floor], [y - 0.4, y + 0.04], color="#202020", linewidth=1.2)
        told = f"{entry.name}: {speed.median:.3g}" + ("" if row == 0 else f", x {entry.ratio.median:.2f}")
        axes.text(0, y + 0.1, told, size=TITLE_SIZE - 1.5, va="bottom", ha="left")
    axes.set_ylim(-0.5, len(entries) - 0.35)
    axes.set_xlim(0, widest * 1.04)
    axes.set_yticks([])
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("Training speed, steps/s (higher is better)")


def _reach(entry: Entry) -> float:
    return max(entry.steps_per_sec.highest, _fastest(entry) or 0)


def _fastest(entry: Entry) -> float | None:
    """Steps/s that the ceilings measured in the same bench allow."""
    return 1 / entry.floors[0].seconds if entry.floors and entry.floors[0].seconds else None
