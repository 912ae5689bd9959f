"""What a check finds: the shape that `harness audit` and `harness doctor` share."""

from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

Status = Literal["ok", "warning", "not kept", "failure"]
OK: Status = "ok"
WARNING: Status = "warning"
NOT_KEPT: Status = "not kept"  # the run folder lacks what the check needs: committed records hold no weights
FAILURE: Status = "failure"


class Finding(NamedTuple):
    status: Status
    found: str  # in one line
    advice: str = ""  # what the user can do about it


ok, warning = partial(Finding, OK), partial(Finding, WARNING)
not_kept, failure = partial(Finding, NOT_KEPT), partial(Finding, FAILURE)


def judged(problems: Sequence[str], found: str, *, remarks: Sequence[str] = ()) -> Finding:
    """A failure that lists the problems, else a warning that lists the remarks, else ok with what was found."""
    if problems:
        return failure("; ".join(problems))
    return warning("; ".join(remarks)) if remarks else ok(found)
