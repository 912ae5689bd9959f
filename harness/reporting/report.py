"""The report: what the paper says and prints beside what was measured, and everything needed to judge the difference.

report.md and report.html have the same content. The figures, tables and verdicts are also written as files of their
own. No file has a date in it: the same evidence gives the same bytes.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.claims import registration
from harness.claims.comparison import NOT_TESTED, VERDICTS
from harness.claims.verdict import MOST_SHOWN, Judgement, agreement
from harness.papers import claims, specified
from harness.papers.sddit import tolerance
from harness.records.evidence import Evidence, gather
from harness.records.looks import REFERENCE
from harness.records.schema import read_json, write_atomically
from harness.records.store import LeftOut
from harness.records.trials import metric_title
from harness.reporting import figures
from harness.reporting.archive import keep
from harness.reporting.drawing.sheet import Drawing
from harness.reporting.figures.speed_quality import Group, groups, trials_of
from harness.reporting.pages.render import render
from harness.reporting.tables import paper_tables, registered, run_tables, table
from harness.reporting.tables.table import Table, count, frame_of, writing
from harness.system.errors import DataError, UsageError
from harness.system.groups import grouped

FORMATS = ("md", "html")
CLAIMS = "claims.json"
UNFINISHED = ("failed", "unfinished")  # how the reason of a run begins that was started and did not end
LONG_TABLE = 30  # rows; a longer table is shown on demand
MOST_NUMBERS = 400  # rows of a figure's numbers in the page; its CSV has all
MOST_RUNS = 40  # named below one verdict

READING = (
    "A verdict rests on independent runs: the ratio of the two methods' mean results and its 95% interval (Welch, on "
    "logarithms). Reproduced: the whole interval lies on the claimed side. Not reproduced: on the other side. "
    "Inconclusive: it covers the bound, or a method has fewer than three runs. Of all decided verdicts of this report "
    "at most 5% should be false (Benjamini and Hochberg). A speed on a CPU decides nothing. At the demo's scale a "
    "verdict is about a small network on 8 x 8 digits and says nothing about ImageNet."
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
        return {verdict: number for verdict, number in tally(self.judgements).items() if number}


def write(
    roots: Iterable[Path], out: Path, *, formats: Sequence[str] = ("md", "html"), records: bool = False
) -> Report:
    """Write the report of what lies below `roots` into `out`; `records` copies the small records behind it there too.

    Raises UsageError for an unknown format, DataError without evidence or where `out` cannot be written.
    """
    wrong = [name for name in formats if name not in FORMATS]
    if wrong:
        raise UsageError(f"--format is {wrong[0]!r}; it must be {' or '.join(FORMATS)}.")
    roots = list(roots)
    evidence = gather(roots)
    outcomes = registration.outcomes(registration.below(roots), evidence.runs)
    judgements = claims.judge(evidence)
    drawings = {name: make(evidence) for name, make in figures.MAKERS.items()}
    if not drawings[figures.HELD_OUT].rows:  # the paper has no such figure, and many data have no such images
        del drawings[figures.HELD_OUT]
    beside = [*paper_tables.tables(evidence), paper_tables.context(evidence)]
    paths = [*figures.write(drawings.values(), out), *table.write(beside, out)]
    context = compose(evidence, judgements, list(drawings.values()), beside, outcomes, folder=out)
    with writing(out):
        for name in formats:
            paths.append(out / f"report.{name}")
            write_atomically(paths[-1], render(f"report.{name}.j2", context))
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
        raise DataError(f"{path} is no list of verdicts. Name the claims.json beside an earlier report.")
    return found


def outside_tolerance(written: Report, earlier: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    """What `--check` refuses: numbers too far from the paper's, and contradictions to an earlier report's verdicts."""
    return [
        *tolerance.outside_tolerance(written.evidence, written.judgements),
        *agreement(written.judgements, earlier),
    ]


def compose(
    evidence: Evidence,
    judgements: Sequence[Judgement],
    drawings: Sequence[Drawing],
    beside: Sequence[Table],
    outcomes: Sequence[registration.Outcome] = (),
    *,
    folder: Path,
) -> dict[str, Any]:
    """What both templates of the report show. The figures were written into `folder`."""
    points = groups(evidence.runs, specified("figures.yaml")["3"])
    left_out = list(dict.fromkeys([*evidence.left_out, *trials_of(evidence.runs)[1]]))
    begun = [item for item in left_out if item.reason.startswith(UNFINISHED)]
    others = [item for item in left_out if item not in begun]
    *papers, later_methods = beside
    return {
        "title": "Paper against measured",
        "lead": specified("tables.yaml")["report"]["lead"],
        "summary": list(_summary(evidence, points, left_out, judgements)),
        "reading": READING,
        **verdicts(judgements),
        "figures": [_shown(drawing) for drawing in drawings],
        "folder": folder,
        "sections": {
            **({registered.TITLE: [registered.table(outcomes)]} if outcomes else {}),
            "Tables": papers,
            "Later methods": [later_methods],
            "Every measured point of Fig. 3": [
                run_tables.paper_against_measured(points),
                run_tables.conditions(points),
            ],
            "All metrics": run_tables.metrics(evidence.runs, points),
            "Training": [run_tables.training(evidence.runs, points)],
            "Time and energy": [run_tables.spending(evidence)],
            "Environment": run_tables.environment(evidence.runs),
            "Deviations from the papers": [run_tables.deviations()],
            "Failed and unfinished runs": [run_tables.left_out(begun)],
            "Left out": [run_tables.left_out(others, evidence.runs)],
            "Published values this report does not have": [run_tables.missing_values()],
        },
        "LONG_TABLE": LONG_TABLE,
    }


def verdicts(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """The judgements in a row, and grouped by claim: a claim may be judged in several settings."""
    by_claim = grouped(judgements, lambda judgement: judgement.claim)
    idle = [found for found in by_claim.values() if all(each.verdict == NOT_TESTED for each in found)]
    return {
        "judgements": judgements,
        "tally": tally(judgements),
        "tested": [found for found in by_claim.values() if found not in idle],
        "idle": idle,
        "MOST_RUNS": MOST_RUNS,
        "MOST_SHOWN": MOST_SHOWN,
    }


def tally(judgements: Iterable[Judgement]) -> dict[str, int]:
    """How many judgements came to each verdict, in the order of the verdicts."""
    counts = Counter(judgement.verdict for judgement in judgements)
    return {verdict: counts[verdict] for verdict in VERDICTS}


def _shown(drawing: Drawing) -> dict[str, Any]:
    """A figure with its first numbers as a table."""
    notes = list(drawing.notes)
    if len(drawing.rows) > MOST_NUMBERS:
        notes.append(
            f"The first {MOST_NUMBERS:,} of {len(drawing.rows):,} numbers; {drawing.name}.csv has all of them."
        )
    return {
        "name": drawing.name,
        "title": drawing.title,
        "alternative": drawing.alternative,
        "notes": notes,
        "numbers": Table(drawing.name, drawing.title, frame_of(drawing.rows[:MOST_NUMBERS])),
    }


# Summary ---------------------------------------------------------------------------------------------------------


def _summary(
    evidence: Evidence, points: Sequence[Group], left_out: Sequence[LeftOut], judgements: Sequence[Judgement]
) -> Iterable[str]:
    """Sentences, in which a command of the harness stands between backticks."""
    runs, settings = count(len(evidence.runs), "finished run"), count(len(evidence.settings), "setting")
    benches = f", {count(len(evidence.benches), 'bench', 'benches')} of the step" if evidence.benches else ""
    unused = count(len(left_out), "folder or run", "folders or runs")
    yield f"{runs} in {settings} whose distances may be compared{benches}; {unused} left out."
    for scale, words in (
        ("paper", "At the paper's scale"),
        ("demo", "At the demo's scale (a small network on digits)"),
        ("other", "At other scales"),
    ):
        found = [judgement for judgement in judgements if judgement.scale == scale]
        if found:
            counts = Counter(judgement.verdict for judgement in found)
            yield f"{words}: {', '.join(f'{number} {verdict}' for verdict, number in counts.most_common())}."
    untested = [judgement for judgement in judgements if judgement.verdict == NOT_TESTED and judgement.scale is None]
    if untested:
        command = next((judgement.to_test for judgement in untested if judgement.to_test), "")
        example = f"; for example `{command}` makes runs for it" if command else ""
        yield f"{count(len(untested), 'claim')} not tested at any scale{example}."
    for group in points[1:]:
        shown = group.drawn_points
        if len(shown) > 1 and all(point["speed_relative_to_dit"] is not None for point in shown):
            yield f"{group.letter} {group.title}, relative to its DiT: {_ratios(group)} {_seeds(group)}"
    yield f"The paper's Fig. 3, relative to its DiT: {_ratios(points[0])}"
    yield _comparable(points[1:])


def _comparable(measured: Sequence[Group]) -> str:
    comparable = [f"{p['label']} {group.letter}" for group in measured for p in group.points if not p["differences"]]
    if not measured:
        return "Nothing was measured that Fig. 3 could show."
    if not comparable:
        return "No measured number may stand beside the paper's: the conditions differ, as the tables say."
    return f"Measured under the paper's conditions: {', '.join(comparable)}."


def _ratios(group: Group) -> str:
    """Each method's speed and distance as multiples of those of the panel's DiT, in words."""
    said = "{label}: {speed_relative_to_dit:.2f} × the speed, {value_relative_to_dit:.2f} × the "
    others = [point for point in group.drawn_points if point["method"] != REFERENCE]
    return ("; ".join(said.format_map(p) + metric_title(group.metric) for p in others) or "nothing else ran") + "."


def _seeds(group: Group) -> str:
    counts = sorted({point["n"] for point in group.drawn_points})
    if counts == [1]:
        return "n = 1 seed each, so the spread is unknown."
    return f"n = {counts[0]} seeds each." if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]} seeds."
