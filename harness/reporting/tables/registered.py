"""What was registered before its runs existed, beside what they say."""

from collections.abc import Iterable

from harness.claims.comparison import Comparison, number
from harness.claims.registration import Outcome
from harness.reporting.tables.table import NOTHING, Row, Table, frame_of

NAME, TITLE = "registered", "Registered before the runs"
SHOWN_HASH = 10  # characters
COLUMNS = (
    "Statement",
    "Both arms",
    "First / second",
    "Expected",
    "Found",
    "Verdict",
    "Runs",
    "Begun before",
    "Registered",
    "SHA-256",
)
CAPTION = (
    "Each line was written down with its runs, by name, before they were made. No other run counts, and nothing is "
    "judged before all are finished. Begun before: runs that existed when it was written, so that their results could "
    "be known. False discoveries are controlled over these lines together."
)


def table(outcomes: Iterable[Outcome]) -> Table:
    """A line a registration."""
    rows: list[Row] = []
    for outcome in outcomes:
        said, ratio = outcome.registration, outcome.judgement.decisive
        rows.append(
            {
                "Statement": said.why,
                "Both arms": said.of,
                "First / second": " / ".join(said.labels),
                "Expected": f"{said.yardstick} {said.expectation}",
                "Found": _ratio(ratio) if ratio else NOTHING,
                "Verdict": outcome.judgement.verdict,
                "Runs": f"{outcome.finished} of {len(said.runs)}",
                "Begun before": len(outcome.looked_at),
                "Registered": said.registered_at,
                "SHA-256": said.sha256[:SHOWN_HASH],
            }
        )
    return Table(NAME, TITLE, frame_of(rows, COLUMNS), CAPTION)


def _ratio(found: Comparison) -> str:
    interval = found.interval()
    return number(found.mean) + (f" ({number(interval[0])} to {number(interval[1])})" if interval else "")
