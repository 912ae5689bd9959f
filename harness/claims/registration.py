"""What was written down before the runs: two arms with the runs that will decide, and what is expected of their ratio.

A registration names its runs one by one. A run that it does not name never counts, and nothing is judged before all of
them are finished: with a look in between, chance decides more often than the interval says.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from harness.claims.comparison import NOT_TESTED, Comparison
from harness.claims.verdict import Judgement, conclude, hold_false_discoveries
from harness.recipes.naming import digest
from harness.records.schema import SCHEMA_VERSION, Record, read_record, write_record
from harness.records.store import Run
from harness.records.trials import metric_title, trial_of
from harness.system.errors import DataError, UsageError

FOLDER = "registered"  # every JSON file in a folder called so is a registration
Expected = Literal["lower", "higher", "equal"]
Read = tuple[float, str]  # a run's value, and the metric's name
CLAIMED: dict[str, Literal["below", "above", "within"]] = {"lower": "below", "higher": "above", "equal": "within"}


class Arm(Record):
    """One side: the runs, which differ in their seed alone."""

    recipe: str
    settings: tuple[str, ...]
    runs: tuple[str, ...] = Field(min_length=1)  # <recipe>/<run id>, by seed


class Registration(Record):
    """A comparison as it was announced."""

    schema_version: int = SCHEMA_VERSION
    harness_version: str
    git_commit: str | None
    registered_at: str  # UTC, ISO 8601
    why: str = Field(min_length=1)  # what the result would say
    first: Arm
    second: Arm
    yardstick: str  # of the last evaluation; less is better
    expected: Expected  # of the first arm's mean over the second's
    within: float | None = Field(gt=0, lt=1)  # how far they may differ and be called equal
    seen: tuple[str, ...]  # those of the runs that were finished before

    @property
    def sha256(self) -> str:
        """What a reader may publish before the runs exist. The file has it too, so a change is seen when it is read."""
        return digest(self.model_dump(mode="json"))

    @property
    def runs(self) -> tuple[str, ...]:
        return (*self.first.runs, *self.second.runs)

    @property
    def shared(self) -> tuple[str, ...]:
        """The settings that both arms have."""
        return tuple(setting for setting in self.first.settings if setting in self.second.settings)

    @property
    def labels(self) -> tuple[str, str]:
        """The arms by what they do not share: "mask_ratio=0" and "without"."""
        return self._label(self.first), self._label(self.second)

    def _label(self, arm: Arm) -> str:
        own = [setting for setting in arm.settings if setting not in self.shared]
        recipe = [arm.recipe] if self.first.recipe != self.second.recipe else []
        return " ".join([*recipe, *own]) or "without"

    @property
    def of(self) -> str:
        """What both arms are: "sddit-mini learning_rate=0.004"."""
        recipe = [self.first.recipe] if self.first.recipe == self.second.recipe else []
        return " ".join([*recipe, *self.shared])

    @property
    def expectation(self) -> str:
        """ "below 1", "within 2% of 1"."""
        if self.within is not None:
            return f"within {self.within:.2g} of 1"
        return f"{CLAIMED[self.expected]} 1"


@dataclass(frozen=True)
class Outcome:
    """A registration beside what was found."""

    name: str
    registration: Registration
    judgement: Judgement
    finished: int  # of its runs
    looked_at: tuple[str, ...]  # runs that had begun before it was written


def write(registration: Registration, path: Path) -> None:
    """Writes it; a registration is never changed.

    Raises UsageError for arms that share a run, for an equality without a bound, and where the file is there already;
    DataError where the disk refuses.
    """
    shared = sorted(set(registration.first.runs) & set(registration.second.runs))
    if shared:
        raise UsageError(f"both arms have the run {shared[0]}. Name two arms that differ in a setting.")
    if (registration.expected == "equal") != (registration.within is not None):
        raise UsageError("--within belongs to --expect equal: say how far two equal arms may differ, like 0.02.")
    if path.exists():
        raise UsageError(f"{path} is there already, and a registration is never changed. Choose another name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_record(path, registration)


def below(roots: Iterable[Path]) -> dict[str, Registration]:
    """The registrations below `roots` by name.

    Raises DataError for one that is damaged or was changed after it was written, and for two of one name that differ.
    """
    found: dict[str, Registration] = {}
    for path in sorted(path for root in roots for path in Path(root).rglob(f"{FOLDER}/*.json")):
        registration = read_record(path, Registration)
        if found.setdefault(path.stem, registration) != registration:
            raise DataError(f"{path} has the name of another registration. Rename one of them.")
    return found


def outcomes(registrations: dict[str, Registration], runs: Sequence[Run]) -> tuple[Outcome, ...]:
    """Each registration with what its runs say; false discoveries are controlled over all of them."""
    by_name = {run.name: run for run in runs}
    judged = [_judgement(name, each, by_name) for name, each in registrations.items()]
    return tuple(
        Outcome(
            name=judgement.claim,
            registration=registration,
            judgement=judgement,
            finished=sum(name in by_name for name in registration.runs),
            looked_at=tuple(sorted({*registration.seen, *_begun_before(registration, by_name)})),
        )
        for registration, judgement in zip(registrations.values(), hold_false_discoveries(judged), strict=True)
    )


def _begun_before(registration: Registration, by_name: dict[str, Run]) -> Iterator[str]:
    written = datetime.fromisoformat(registration.registered_at)
    for name in registration.runs:
        if name in by_name and datetime.fromisoformat(by_name[name].manifest.started_at) < written:
            yield name


def _judgement(name: str, registration: Registration, by_name: dict[str, Run]) -> Judgement:
    first, lacking = _read(registration.first, registration.yardstick, by_name)
    second, also = _read(registration.second, registration.yardstick, by_name)
    missing = (*lacking, *also)
    comparisons = () if missing else (_comparison(registration, first, second),)
    verdict = conclude(comparisons, missing)
    only = comparisons[0] if comparisons else None
    return Judgement(
        claim=name,
        place=f"registered {registration.registered_at[:10]}",
        statement=registration.why,
        published="",
        scale=None if verdict == NOT_TESTED else "other",
        setting="",
        setting_name="",
        verdict=verdict,
        effect=only.text if only else "",
        decisive=only,
        comparisons=comparisons,
        missing=missing,
        notes=tuple(only.statistical_notes()) if only else (),
    )


def _read(arm: Arm, yardstick: str, by_name: dict[str, Run]) -> tuple[list[Read], list[str]]:
    """The values of its finished runs with the names of what was read, and what is missing."""
    values: list[Read] = []
    missing: list[str] = []
    for name in arm.runs:
        trial = trial_of(by_name[name], yardstick) if name in by_name else "it is not finished"
        if isinstance(trial, str):
            missing.append(f"{name}: {trial}")
        elif not (math.isfinite(trial.distance) and trial.distance > 0):
            missing.append(f"{name}: its {trial.metric} is {trial.distance}")
        else:
            values.append((trial.distance, trial.metric))
    return values, missing


def _comparison(registration: Registration, first: list[Read], second: list[Read]) -> Comparison:
    return Comparison(
        subject=registration.labels[0],
        other=registration.labels[1],
        quantity=metric_title(first[0][1]),
        values=(tuple(value for value, _ in first), tuple(value for value, _ in second)),
        claimed=CLAIMED[registration.expected],
        bound=1 + (registration.within or 0),
        names=(registration.first.runs, registration.second.runs),
    )
