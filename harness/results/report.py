"""The report: what the papers print beside what was measured, and everything a reader needs to judge the difference."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.results import figures, tables
from harness.results.compare import Comparison, Figure3, Panel, compare_runs
from harness.results.methods import REFERENCE
from harness.results.schema import write_atomically
from harness.results.store import Run, load_runs
from harness.results.tables import escape

NAME = "report.md"

AGAINST = (
    "Panels as in the figure. *n* counts seeds; behind ± is the standard deviation over them, absent where n = 1. "
    "*missing*: the paper draws it and prints no value."
)
METRICS = (
    "Of the evaluation after the last step. A metric's name carries the features and the number of images; only "
    "FID-50K is FID-50K. *Untrained / final* is how many times the distance shrank in training."
)
TRAINING = (
    "Steps per second are the mean over the timed steps, warm-up and evaluation excluded. GMAC are 1e9 "
    "multiply-accumulates per image; a step counts forward and backward. Parameters are the sampled network's."
)
DEVIATIONS = (
    "*changed*: it differs from the paper. *inferred*: the paper does not say, another of its numbers does. "
    "*assumed*: the paper does not say, this is a guess."
)


def write(roots: list[Path], out: Path) -> Path:
    """Write report.md and the figure beside it into `out`; returns the report's path."""
    runs, left_out = load_runs(roots)
    comparison = compare_runs(runs, left_out)
    figures.write(comparison, out)
    path = out / NAME
    with figures.writing(out):
        write_atomically(path, compose(runs, comparison))
    return path


def compose(runs: Sequence[Run], comparison: Comparison) -> str:
    """The report as Markdown. It holds no date: the same runs give the same text."""
    figure = comparison.figures["3"]
    sections = {
        "Summary": _bullets(_summary(runs, comparison)),
        "Figure 3": _figure(),
        "Figure 3, paper against measured": (
            f"{AGAINST}\n\n{tables.paper_against_measured(figure)}\n{_bullets(_conditions(figure))}"
        ),
        "All metrics": f"{METRICS}\n\n{tables.metrics(runs, figure)}",
        "Training": f"{TRAINING}\n\n{tables.training(runs, figure)}",
        "SD-DiT Table 1, as published": tables.table1(),
        "Environment": tables.environment(runs),
        "Deviations from the papers": f"{DEVIATIONS}\n\n{tables.deviations()}",
        "Left out": f"{tables.left_out(comparison.left_out)}\n{_bullets(_damaged_lines(runs))}",
        "Published values this report does not have": tables.missing_values(),
    }
    parts = [f"## {title}\n\n{text.rstrip()}\n" for title, text in sections.items()]
    return "\n".join(["# Paper against measured\n", *parts])


def _figure() -> str:
    alternative = "Training speed against sample quality: published, measured, and both relative to DiT"
    return f"![{alternative}](figure3.png)\n\nAs [SVG](figure3.svg); the numbers behind it as [CSV](figure3.csv)."


# Summary ---------------------------------------------------------------------------------------------------------


def _summary(runs: Sequence[Run], comparison: Comparison) -> Iterable[str]:
    figure = comparison.figures["3"]
    groups = _count(len(figure.measured), "group")
    left_out = _count(len(comparison.left_out), "folder or run", "folders or runs")
    yield f"{_count(len(runs), 'finished run')} in {groups} of equal conditions; {left_out} left out."
    yield f"The paper's Fig. 3, relative to its DiT: {_ratios(figure.published)}"
    for point in figure.missing:
        yield f"{point.model} of Fig. 3: {point.reason}."
    for letter, panel in figure.lettered():
        if panel.kind == "measured":
            yield f"{letter} {escape(panel.title)}, relative to its DiT: {_ratios(panel)} {_seeds(panel)}"
    yield _comparable(figure)


def _comparable(figure: Figure3) -> str:
    points = [(letter, point) for letter, panel in figure.lettered()[1:] for point in panel.points]
    comparable = [f"{escape(point.label)} {letter}" for letter, point in points if not point.differences]
    if not points:
        return "Nothing was measured that could be drawn; see *Left out*."
    if not comparable:
        return "No measured number may stand beside the paper's: the conditions differ, as listed below."
    return f"Measured under the paper's conditions: {', '.join(comparable)}."


def _ratios(panel: Panel) -> str:
    """Each method's speed and distance as multiples of those of the panel's DiT, in words."""
    if any(point.speed_ratio is None for point in panel.points):
        return "there is no single DiT run to compare with."
    metric = escape(panel.metric_title)
    parts = [
        f"{escape(point.label)}: {point.speed_ratio:.2f} × the speed, {point.distance_ratio:.2f} × the {metric}"
        for point in panel.points
        if point.method != REFERENCE
    ]
    return ("; ".join(parts) or "nothing else ran") + "."


def _seeds(panel: Panel) -> str:
    counts = sorted({point.speed.n for point in panel.points})
    if counts == [1]:
        return "n = 1 seed each, so the spread is unknown."
    return f"n = {counts[0]} seeds each." if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]} seeds."


# Lists below the tables ------------------------------------------------------------------------------------------


def _conditions(figure: Figure3) -> Iterable[str]:
    for letter, panel in figure.lettered():
        if panel.kind != "measured":
            continue
        yield f"{letter} {escape(panel.title)}. {escape(' '.join(panel.notes))}"
        if panel.differences:
            yield f"{letter} differs from the paper in: {escape('; '.join(panel.differences.values()))}."
        for point in panel.points:
            own = [text for word, text in point.differences.items() if word not in panel.differences]
            if own:
                yield f"{letter} {escape(point.label)} differs further in: {escape('; '.join(own))}."


def _damaged_lines(runs: Iterable[Run]) -> Iterable[str]:
    for run in runs:
        if run.damaged_lines:
            lines = _count(run.damaged_lines, "line")
            yield f"{escape(run.name)}: {lines} of metrics.jsonl could not be read; the run is used."


def _count(number: int, what: str, plural: str | None = None) -> str:
    return f"{number} {what if number == 1 else plural or f'{what}s'}"


def _bullets(lines: Iterable[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)
