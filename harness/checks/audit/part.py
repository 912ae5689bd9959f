"""A requirement as parts, each of which holds, does not, or cannot be seen; and what follows for the whole."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from harness.checks.audit import across
from harness.checks.audit.checkout import Checkout
from harness.checks.audit.finding import FAILED, OK, Finding, Status
from harness.records.documents import Documents
from harness.records.schema import Result

Standing = Literal["holds", "holds in part", "does not hold", "cannot be seen from here"]
HOLDS: Standing = "holds"
IN_PART: Standing = "holds in part"
DOES_NOT: Standing = "does not hold"
UNSEEN: Standing = "cannot be seen from here"


class Part(NamedTuple):
    """One fact that a requirement asks for. `holds` is None where it cannot be seen from here."""

    holds: bool | None
    says: str


class Requirement(NamedTuple):
    id: str  # "R8"
    asks: str
    standing: Standing
    evidence: str
    parts: list[Part]


@dataclass(frozen=True)
class Audited:
    """One run with what the checks found."""

    run: Documents
    findings: dict[str, Finding]
    differing: list[dict]  # settings that are not the recipe's
    data_here: bool

    @property
    def failed(self) -> bool:
        return any(finding.status == FAILED for finding in self.findings.values())


@dataclass(frozen=True)
class Seen:
    """All that requirements are judged by."""

    audited: Sequence[Audited]
    checkout: Checkout | None

    @cached_property
    def finished(self) -> list[Audited]:
        return [one for one in self.audited if one.run.result]

    @cached_property
    def results(self) -> list[Result]:
        return [one.run.result for one in self.audited if one.run.result]

    @cached_property
    def groups(self) -> dict[str, list[Documents]]:
        return across.groups([one.run for one in self.audited])

    def statuses(self, *checks: str) -> list[Status]:
        return [one.findings[check].status for one in self.audited for check in checks]

    def passed(self, *checks: str) -> int:
        """Runs that pass all of these checks without a failure, a remark or anything missing."""
        return sum(all(one.findings[check].status == OK for check in checks) for one in self.audited)

    def every(self, says: str, *checks: str) -> Part:
        """A part that holds when all runs pass `checks`; what could not be checked is not counted as passed."""
        passed, of = self.passed(*checks), len(self.audited)
        return Part(passed == of, f"{says} in {passed} of {of} runs")

    def project(self, says: str, test: Callable[[Checkout], bool], otherwise: str) -> Part:
        """A part about the project's files, where they can be seen."""
        if self.checkout is None:
            return Part(None, f"no checkout here: {says}?")
        holds = test(self.checkout)
        return Part(holds, says if holds else otherwise)


def judge(id: str, asks: str, parts: Sequence[Part]) -> Requirement:
    """What the parts come to. The evidence tells first what is missing."""
    known = [part.holds for part in parts if part.holds is not None]
    if not known:
        standing = UNSEEN
    elif all(known) and len(known) == len(parts):
        standing = HOLDS
    else:
        standing = IN_PART if any(known) else DOES_NOT
    missing = [part.says for part in parts if not part.holds]
    there = [part.says for part in parts if part.holds]
    evidence = "; ".join(there) if not missing else "; ".join([*missing, *(there[:1])])
    return Requirement(id, asks, standing, evidence, list(parts))
