"""The report: what the paper says and prints beside what was measured, and everything needed to judge the difference.

Written as one Markdown file and one page, with the figures, tables and verdicts beside them as files of their own. It
holds no date: the same evidence gives the same bytes.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.claims.verdicts import NOT_TESTED, Judgement
from harness.papers.sddit import claims
from harness.records.evidence import Evidence, gather
from harness.records.looks import REFERENCE
from harness.records.schema import read_json, write_atomically
from harness.records.store import LeftOut
from harness.report import figures
from harness.report.archive import keep
from harness.report.figures import Drawing, writing
from harness.report.figures.figure3 import Figure3, Panel, figure3
from harness.report.pages import markdown, page
from harness.report.pages.document import (
    Block,
    Bullets,
    Code,
    Details,
    Document,
    FigureBlock,
    Link,
    Paragraph,
    Section,
    TableBlock,
    Text,
    Verdicts,
)
from harness.report.tables import paper_tables, run_tables, table
from harness.report.tables.spending import spending
from harness.report.tables.table import Table
from harness.system.errors import DataError, UsageError

FORMATS = {"md": (markdown.render, "report.md"), "html": (page.render, "report.html")}
CLAIMS = "claims.json"
UNFINISHED = ("failed", "unfinished")  # how the reason of a run begins that was started and did not end

LEAD = (
    "Which claims of the SD-DiT paper (Zhu et al. 2024, arXiv:2403.17004) hold, by the runs at hand. Published numbers "
    "carry their source; a measured one stands beside them only where it was made under the same conditions."
)
READING = (
    "A verdict rests on runs paired by seed: the ratio of the two methods' results, its geometric mean and 95% "
    "interval. Reproduced: the whole interval lies on the claimed side. Not reproduced: on the other side. "
    "Inconclusive: it covers the bound, or there are fewer than three pairs. At the demo's scale a verdict is about a "
    "small network on 8 x 8 digits and says nothing about ImageNet."
)


@dataclass(frozen=True)
class Report:
    """What was written, and what a check needs of it."""

    files: tuple[Path, ...]
    evidence: Evidence
    judgements: tuple[Judgement, ...]

    @property
    def tally(self) -> dict[str, int]:
        """How many judgements came to each verdict, of those that any came to."""
        return {verdict: count for verdict, count in Verdicts(self.judgements).tally.items() if count}


def write(
    roots: Iterable[Path], out: Path, *, formats: Sequence[str] = ("md", "html"), records: bool = False
) -> Report:
    """Write the report of what lies below `roots` into `out`; `records` copies the small records behind it there too.

    Raises UsageError for an unknown format, DataError without evidence or where `out` cannot be written.
    """
    wrong = [name for name in formats if name not in FORMATS]
    if wrong:
        raise UsageError(f"--format is {wrong[0]!r}; it must be {' or '.join(FORMATS)}.")
    evidence = gather(roots)
    judgements = claims.judge(evidence)
    drawings = {name: make(evidence) for name, make in figures.MAKERS.items()}
    beside = (*paper_tables.tables(evidence), paper_tables.context(evidence))
    paths = [*figures.write(drawings.values(), out), *table.write(beside, out)]
    document = compose(evidence, judgements, drawings, beside, folder=out)
    with writing(out):
        for name in formats:
            render, file_name = FORMATS[name]
            write_atomically(out / file_name, render(document))
            paths.append(out / file_name)
        write_atomically(out / CLAIMS, json.dumps([j.as_json() for j in judgements], indent=1) + "\n")
        paths.append(out / CLAIMS)
        if records:
            paths += keep(evidence.runs, evidence.counts, out)
    return Report(tuple(paths), evidence, judgements)


def earlier_claims(path: Path) -> list[dict[str, Any]]:
    """The verdicts of an earlier report's claims.json. Raises DataError where it is none."""
    try:
        found = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not JSON"
        raise DataError(f"{path} cannot be read: {why}. Name the claims.json beside an earlier report.") from None
    if not isinstance(found, list) or not all(isinstance(each, dict) and "claim" in each for each in found):
        raise DataError(f"{path} holds no verdicts. Name the claims.json beside an earlier report.")
    return found


def compose(
    evidence: Evidence,
    judgements: Sequence[Judgement],
    drawings: Mapping[str, Drawing],
    beside: Sequence[Table],
    *,
    folder: Path | None = None,
) -> Document:
    """The report as a document. The figures' pictures are taken from `folder`, where they were written."""
    figure, without_numbers = figure3(evidence.runs)
    left_out = list(dict.fromkeys([*evidence.left_out, *without_numbers]))
    *papers, context = beside
    begun = [item for item in left_out if item.reason.startswith(UNFINISHED)]
    others = [item for item in left_out if item not in begun]
    return Document(
        "Paper against measured",
        [
            Section("Summary", [Bullets(list(_summary(evidence, figure, left_out, judgements)))]),
            Section("Claims", [Paragraph(READING), Verdicts(judgements)]),
            Section("Figures", [_figure(drawing, folder) for drawing in drawings.values()]),
            Section("Tables", [TableBlock(each) for each in papers]),
            Section("Later methods", [TableBlock(context)]),
            Section(
                "Every measured point of Fig. 3",
                [TableBlock(run_tables.paper_against_measured(figure)), *_folded("Conditions", _conditions(figure))],
            ),
            Section("All metrics", list(map(TableBlock, run_tables.metrics(evidence.runs, figure)))),
            Section("Training", [TableBlock(run_tables.training(evidence.runs, figure))]),
            Section("Time and energy", [TableBlock(spending(evidence))]),
            Section("Environment", list(map(TableBlock, run_tables.environment(evidence.runs)))),
            Section("Deviations from the papers", [TableBlock(run_tables.deviations())]),
            Section("Failed and unfinished runs", [TableBlock(run_tables.left_out(begun))]),
            Section("Left out", [TableBlock(run_tables.left_out(others)), *_bullets(_damaged(evidence))]),
            Section("Published values this report does not have", [TableBlock(run_tables.missing_values())]),
        ],
        lead=LEAD,
    )


def _figure(drawing: Drawing, folder: Path | None) -> FigureBlock:
    return FigureBlock(drawing, None if folder is None else folder / f"{drawing.name}.svg")


def _folded(summary: str, items: Iterable[Text]) -> list[Block]:
    found = list(items)
    return [Details(summary, [Bullets(found)])] if found else []


def _bullets(items: Iterable[Text]) -> list[Block]:
    found = list(items)
    return [Bullets(found)] if found else []


# Summary ---------------------------------------------------------------------------------------------------------


def _summary(
    evidence: Evidence, figure: Figure3, left_out: Sequence[LeftOut], judgements: Sequence[Judgement]
) -> Iterable[Text]:
    runs, settings = _count(len(evidence.runs), "finished run"), _count(len(evidence.settings), "setting")
    benches = f", {_count(len(evidence.benches), 'bench', 'benches')} of the step" if evidence.benches else ""
    yield f"{runs} in {settings} whose distances may be compared{benches}; {_left_out(left_out)}."
    for scale, words in (
        ("paper", "At the paper's scale"),
        ("demo", "At the demo's scale (a small network on digits)"),
        ("other", "At other scales"),
    ):
        found = [judgement for judgement in judgements if judgement.scale == scale]
        if found:
            yield (f"{words}: {_tally(found)}. See ", Link("the claims", "claims"), ".")
    untested = [judgement for judgement in judgements if judgement.verdict == NOT_TESTED and judgement.scale is None]
    if untested:
        commands = list(dict.fromkeys(judgement.to_test for judgement in untested if judgement.to_test))
        yield (
            f"{_count(len(untested), 'claim')} not tested at any scale; for example ",
            Code(commands[0]),
            " makes runs for it.",
        )
    for letter, panel in figure.lettered():
        if (
            panel.kind == "measured"
            and len(panel.drawn_points) > 1
            and all(point.speed_ratio is not None for point in panel.drawn_points)
        ):
            yield f"{letter} {panel.title}, relative to its DiT: {_ratios(panel)} {_seeds(panel)}"
    yield f"The paper's Fig. 3, relative to its DiT: {_ratios(figure.published)}"
    yield _comparable(figure)


def _tally(judgements: Sequence[Judgement]) -> str:
    counts = Counter(judgement.verdict for judgement in judgements)
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())


def _left_out(items: Sequence[LeftOut]) -> str:
    return f"{_count(len(items), 'folder or run', 'folders or runs')} left out"


def _comparable(figure: Figure3) -> str:
    points = [(letter, point) for letter, panel in figure.lettered()[1:] for point in panel.points]
    comparable = [f"{point.label} {letter}" for letter, point in points if not point.differences]
    if not points:
        return "Nothing was measured that Fig. 3 could show."
    if not comparable:
        return "No measured number may stand beside the paper's: the conditions differ, as the tables say."
    return f"Measured under the paper's conditions: {', '.join(comparable)}."


def _ratios(panel: Panel) -> str:
    """Each method's speed and distance as multiples of those of the panel's DiT, in words."""
    parts = [
        f"{point.label}: {point.speed_ratio:.2f} × the speed, {point.distance_ratio:.2f} × the {panel.metric_title}"
        for point in panel.drawn_points
        if point.method != REFERENCE
    ]
    return ("; ".join(parts) or "nothing else ran") + "."


def _seeds(panel: Panel) -> str:
    counts = sorted({point.speed.n for point in panel.drawn_points})
    if counts == [1]:
        return "n = 1 seed each, so the spread is unknown."
    return f"n = {counts[0]} seeds each." if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]} seeds."


# Lists below the tables ------------------------------------------------------------------------------------------


def _conditions(figure: Figure3) -> Iterable[str]:
    for letter, panel in figure.lettered():
        if panel.kind != "measured":
            continue
        yield f"{letter} {panel.title}. {' '.join(panel.notes)}"
        if panel.differences:
            yield f"{letter} differs from the paper in: {'; '.join(panel.differences.values())}."
        for point in panel.points:
            own = [text for word, text in point.differences.items() if word not in panel.differences]
            if own:
                yield f"{letter} {point.label} differs further in: {'; '.join(own)}."


def _damaged(evidence: Evidence) -> Iterable[str]:
    for run in evidence.runs:
        if run.damaged_lines:
            lines = _count(run.damaged_lines, "line")
            yield f"{run.name}: {lines} of metrics.jsonl could not be read; the run is used."
        for name in run.damaged_evaluations:
            yield f"{run.name}: evaluations/{name} is damaged and left out; `harness evaluate` makes it again."


def _count(number: int, what: str, plural: str | None = None) -> str:
    return f"{number} {what if number == 1 else plural or f'{what}s'}"
