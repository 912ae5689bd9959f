"""Where a claim is asked: of the distances of every setting, or of a count of the networks."""

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from harness.claims.arms import Arm, Side, TwoArms, distance_at, two_arms
from harness.claims.comparison import Comparison
from harness.claims.machines import Index
from harness.claims.verdict import Found
from harness.records.information import LAST_LINES, LEAST, share_told
from harness.records.trials import PAPER_METRIC, Setting, metric_title, settings

PAPER_BATCH = 256
TOLD_NOTHING = (
    f"runs whose discriminative loss tells something: over the last {LAST_LINES} lines of their logs its targets tell "
    f"less than {LEAST:.0%} of ln K, or it lies within that of ln K, its value for targets that are all uniform"
)


@dataclass(frozen=True)
class Place:
    """A setting, read after `steps` steps at one batch."""

    index: Index
    setting: Setting
    steps: int
    batch_size: int

    @property
    def quantity(self) -> str:
        return metric_title(self.setting.metric)

    def runs_of(
        self, a: Arm, b: Arm, *, steps: tuple[int, int] | None = None, lengths: tuple[int, int] | None = None
    ) -> TwoArms | None:
        """The arms' runs; at the paper's scale each arm after its own steps, where it names them."""
        at_a, at_b = steps or (self.steps, self.steps)
        if self.setting.scale == "paper":
            at_a, at_b = a.steps or at_a, b.steps or at_b
        length_a, length_b = lengths or (at_a, at_b)
        side_a = Side(a, self.setting.trials, distance_at(at_a), length_a)
        side_b = Side(b, self.setting.trials, distance_at(at_b), length_b)
        return two_arms(side_a, side_b, batch_size=self.batch_size)

    def steps_of(self, method: str) -> set[int]:
        """After how many steps a distance of the method was measured."""
        trials = [trial for trial in self.setting.trials if trial.method == method]
        return {step for trial in trials for step in (*trial.curve, trial.steps)}

    def numbers_of(self, method: str, knob: str) -> list[float]:
        """The measured values of a knob that are numbers, in order."""
        return [value for value in self.setting.values_of(method, knob) if not isinstance(value, str)]

    def no_runs(self, a: Arm, b: Arm, steps: str | None = None) -> str:
        where = steps or f"after {self.steps} steps at batch {self.batch_size}"
        return f"no runs of both {a.label()} and {b.label()} {where}"


class Predicate(Protocol):
    """Asked of a place; its arms say which runs it is about."""

    @property
    def arms(self) -> tuple[Arm, ...]: ...
    def __call__(self, place: Place) -> Found: ...


class Distances:
    """Asks all its predicates of every setting.

    A setting at the paper's scale is asked at one size, at the paper's steps and batch, or at the setting's own budget
    if those were not measured. Any other setting is asked at its own budget. Where the paper's batch is not 256, it is
    asked at as many times its usual batch. A claim `of_targets` is about a discriminative loss: where the targets of
    its runs told nothing, no comparison decides.
    """

    def __init__(
        self,
        size: str,
        steps: int,
        *predicates: Predicate,
        batch: int = PAPER_BATCH,
        paper_only: bool = False,
        of_targets: bool = False,
        yardstick: str | None = None,
    ):
        self.size, self.steps, self.predicates, self.batch = size, steps, predicates, batch
        self.of_targets = of_targets
        self.yardstick = yardstick  # a metric in place of the Fréchet distance, like "denoiser_error"
        self.paper_only = paper_only  # another claim asks the same elsewhere, or the steps mean nothing elsewhere

    def __call__(self, index: Index) -> Iterator[Found]:
        asked_of: Sequence[Setting] = index.evidence.settings
        if self.yardstick is not None:
            asked_of, _ = settings(index.evidence.runs, self.yardstick)
        for setting in asked_of:
            asked = setting.size == self.size if setting.scale == "paper" else not self.paper_only
            if asked:
                yield self._found(index, setting)

    def _found(self, index: Index, setting: Setting) -> Found:
        if not all(trial.run.manifest.data.real for trial in setting.trials):
            return Found(lacking=("real data: distances of synthetic data mean nothing",))
        places = [Place(index, setting, steps, batch) for steps, batch in self._budgets(setting)]
        tried = [(self._merged(place), place) for place in places]
        found, place = min(tried, key=lambda pair: len(pair[0].lacking))
        differences = list(setting.differences.values())
        if place.steps != self.steps:
            differences.append(f"steps {place.steps} instead of {self.steps}")
        if place.batch_size != self.batch:
            differences.append(f"batch {place.batch_size} instead of {self.batch}")
        plain = setting.metric == PAPER_METRIC
        return replace(
            found,
            scale=setting.scale,
            title=f"{setting.title}, {place.steps} steps, batch {place.batch_size}",
            name=setting.name,
            differences=tuple(differences),
            notes=() if plain else (f"The distance is {setting.metric}, not FID-50K.",),
        )

    def _merged(self, place: Place) -> Found:
        parts = [predicate(place) for predicate in self.predicates]
        return Found(
            comparisons=tuple(self._kept(place, comparison) for part in parts for comparison in part.comparisons),
            lacking=tuple(dict.fromkeys(text for part in parts for text in part.lacking)),
            missing=tuple(dict.fromkeys(text for part in parts for text in part.missing)),
            remarks=tuple(dict.fromkeys(text for part in parts for text in part.remarks)),
        )

    def _kept(self, place: Place, comparison: Comparison) -> Comparison:
        """The comparison; void where it is of targets, and those of its runs told nothing in the mean."""
        if not self.of_targets:
            return comparison
        runs = {trial.run.name: trial.run for trial in place.setting.trials}
        behind = [runs[name] for name in comparison.runs]
        shares = [share_told(run.result.method, run.config["knobs"], run.metrics) for run in behind]
        known = [share for share in shares if share is not None]  # logs without that loss do not count
        if not known or statistics.fmean(known) >= LEAST:
            return comparison
        return replace(comparison, void=TOLD_NOTHING)

    def _budgets(self, setting: Setting) -> list[tuple[int, int]]:
        """Steps and batch at which the predicates are tried, the paper's first."""
        methods = {arm.method for predicate in self.predicates for arm in predicate.arms}
        budgets = [(self.steps, self.batch)] if setting.scale == "paper" else []
        if self.batch == PAPER_BATCH:
            return list(dict.fromkeys([*budgets, setting.budget(methods)]))
        batch = self.batch if setting.scale == "paper" else self.batch // PAPER_BATCH * setting.batch_size
        trials = [trial for trial in setting.trials if trial.batch_size == batch]
        lengths = Counter(trial.steps for trial in trials if trial.method in methods)
        longest = max(lengths, key=lambda steps: (lengths[steps], -steps), default=setting.budget(methods)[0])
        return list(dict.fromkeys([*budgets, (longest, batch)]))
