"""What `harness compare` answers: figures drawn and written, their numbers, the verdicts, and what was left out."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.papers import claims
from harness.records.evidence import gather
from harness.reporting import figures
from harness.reporting.figures.speed_quality import trials_of

SCHEMA_VERSION = 1  # increased when a field of this document changes its meaning


def compare(roots: Iterable[Path], which: str, out: Path) -> dict[str, Any]:
    """Draw what `which` names ("3", "losses", "all") of the evidence below `roots` into `out`, and tell what it shows.

    Plain data, without NaN. Raises UsageError for an unknown figure, DataError without evidence or where `out` cannot
    be written.
    """
    names = figures.named(which)
    evidence = gather(roots)
    drawn = {}
    for name in names:
        drawing = figures.MAKERS[name](evidence)
        drawn[name] = {**drawing.as_json(), "files": [str(path) for path in figures.write([drawing], out)]}
    without_speed = trials_of(evidence.runs)[1] if "3" in drawn else []
    left_out = dict.fromkeys((str(item.path), item.reason) for item in [*evidence.left_out, *without_speed])
    return {
        "schema_version": SCHEMA_VERSION,
        "figures": drawn,
        "claims": [judgement.as_json() for judgement in claims.judge(evidence)],
        "left_out": [{"path": path, "reason": reason} for path, reason in left_out],
        "files": [path for figure in drawn.values() for path in figure["files"]],
    }
