"""What one check says of one run."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

Status = Literal["ok", "remark", "not kept", "failed"]
OK: Status = "ok"
REMARK: Status = "remark"  # it holds, and a reader should know how
NOT_KEPT: Status = "not kept"  # what the check needs is not there, as in committed records, which hold no weights
FAILED: Status = "failed"

CHECKS = {  # in the order they are told
    "records": "documents parse, of a known schema version",
    "agreement": "config, manifest and result say the same",
    "id": "the run's id is the hash of its configuration",
    "recipe": "configuration against the recipe as it is now",
    "checkpoints": "checkpoint files against their sha256",
    "weights": "evaluated weights are those of the checkpoint",
    "conditions": "every condition of every evaluation is recorded",
    "names": "metrics are called what they are",
    "features": "feature network against its pinned hash",
    "data": "data as they are now against the manifest",
    "seeds": "seeds differ between runs of a setting, and have an effect",
    "precision": "precision and determinism are recorded",
    "code": "the code's commit and changes are recorded",
    "versions": "package versions are recorded",
    "device": "hardware and number of processes are recorded",
    "timing": "warm-up left out, timed window and wait for data add up",
    "log": "metrics.jsonl is whole, in order and finite",
    "privacy": "no host, user or absolute path",
    "times": "recorded times are consistent",
}


class Finding(NamedTuple):
    check: str  # a key of CHECKS
    status: Status
    says: str  # in one line


def judged(check: str, problems: Sequence[str], ok: str, *, remarks: Sequence[str] = ()) -> Finding:
    """Failed with the `problems` if there are any; else what holds, and a remark where there is something to say."""
    if problems:
        return Finding(check, FAILED, "; ".join(problems))
    return Finding(check, REMARK if remarks else OK, "; ".join(remarks) or ok)


def not_kept(check: str, why: str) -> Finding:
    return Finding(check, NOT_KEPT, why)
