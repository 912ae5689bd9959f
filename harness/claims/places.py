"""Where claims are asked: the settings, machines and counts that the evidence has, and what is found in each."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from harness.claims import contests
from harness.claims.comparisons import Arm, Pairs, Pool, distance_at, knob_differences, paired
from harness.claims.contests import LATENTS, Contest, Machine, Pipelines, Quantity
from harness.claims.verdicts import Comparison
from harness.records.evidence import Evidence
from harness.records.looks import look
from harness.records.trials import PAPER_METRIC, Scale, Setting, metric_title

PAPER_BATCH = 256
PARAMETERS_WITHIN = 0.001
Published = tuple[float, float]  # of the two arms, in the paper


@dataclass(frozen=True)
class Found:
    """What a predicate found in one place."""

    comparisons: tuple[Comparison, ...] = ()
    lacking: tuple[str, ...] = ()  # without it the claim is not tested
    missing: tuple[str, ...] = ()  # told, no more
    remarks: tuple[str, ...] = ()  # effects besides the ratios
    steps: int | None = None  # after which it was read, where the predicate chose


@dataclass(frozen=True)
class Finding:
    """What a test found in one place, ready to be judged."""

    scale: Scale | None
    title: str
    name: str
    found: Found
    differences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Index:
    """The evidence with what all claims look up in it, made once."""

    evidence: Evidence

    @cached_property
    def pools(self) -> dict[str, Pool]:
        return {setting.name: Pool(setting.trials) for setting in self.evidence.settings}

    @cached_property
    def machines(self) -> list[Machine]:
        return contests.machines(self.evidence.runs)

    def contests(
        self, quantity: Quantity, arms: tuple[Arm, Arm], pipelines: Pipelines, published: Published | None
    ) -> list[Contest]:
        asked = (quantity, arms, pipelines, published)
        return [*contests.of_runs(self.machines, *asked), *contests.of_benches(self.evidence.benches, *asked)]


@dataclass(frozen=True)
class Place:
    """A setting, read after `steps` steps at one batch."""

    index: Index
    setting: Setting
    steps: int
    batch_size: int

    @property
    def pool(self) -> Pool:
        return self.index.pools[self.setting.name]

    @property
    def quantity(self) -> str:
        return metric_title(self.setting.metric)

    def pairs(
        self, a: Arm, b: Arm, *, steps: tuple[int, int] | None = None, batch_size: int | None = None, **more: Any
    ) -> Pairs | None:
        """The arms' runs by seed; at the paper's scale each arm after its own steps, where it names them."""
        at_a, at_b = steps or (self.steps, self.steps)
        if self.setting.scale == "paper":
            at_a, at_b = a.steps or at_a, b.steps or at_b
        batch = batch_size or self.batch_size
        more = {"length_a": at_a, "length_b": at_b} | more
        return paired(self.pool, a, self.pool, b, distance_at(at_a), distance_at(at_b), batch_size=batch, **more)

    def no_pair(self, a: Arm, b: Arm, steps: str | None = None) -> str:
        where = steps or f"after {self.steps} steps at batch {self.batch_size}"
        return f"no seed with both {a.label()} and {b.label()} {where}"


class Predicate(Protocol):
    @property
    def arms(self) -> tuple[Arm, ...]: ...
    def __call__(self, place: Place) -> Found: ...


# Where predicates are asked --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Distances:
    """Asks all `predicates` of every setting: of the paper's at one size, at its steps and batch or at the setting's
    own budget if they were not measured; of others at their budget.

    Where the paper's batch is not 256, as many times the usual batch is taken elsewhere.
    """

    size: str
    steps: int
    predicates: tuple[Predicate, ...]
    batch: int = PAPER_BATCH
    paper_only: bool = False  # another claim asks the same elsewhere, or the steps mean nothing elsewhere

    def __call__(self, index: Index) -> Iterator[Finding]:
        for setting in index.evidence.settings:
            if self.paper_only and setting.scale != "paper":
                continue
            if setting.scale != "paper" or setting.size == self.size:
                yield self._finding(index, setting)

    def _finding(self, index: Index, setting: Setting) -> Finding:
        if not all(trial.run.manifest.data.real for trial in setting.trials):
            found = Found(lacking=("real data: distances of synthetic data mean nothing",))
            return Finding(setting.scale, setting.title, setting.name, found)
        places = [Place(index, setting, steps, batch) for steps, batch in self._budgets(setting)]
        tried = [(merged(predicate(place) for predicate in self.predicates), place) for place in places]
        found, place = min(tried, key=lambda pair: len(pair[0].lacking))
        steps, differences = found.steps or place.steps, list(setting.differences.values())
        if steps != self.steps:
            differences.append(f"steps {steps} instead of {self.steps}")
        if place.batch_size != self.batch:
            differences.append(f"batch {place.batch_size} instead of {self.batch}")
        title = f"{setting.title}, {steps} steps, batch {place.batch_size}"
        return Finding(setting.scale, title, setting.name, found, tuple(differences), tuple(_notes(setting)))

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


def distances(
    size: str, steps: int, *predicates: Predicate, batch: int = PAPER_BATCH, paper_only: bool = False
) -> Distances:
    return Distances(size, steps, predicates, batch, paper_only)


@dataclass(frozen=True)
class SideBySide:
    """Asks for speeds or memory wherever both arms of every pair were measured on one machine."""

    quantity: Quantity
    size: str
    pairs: tuple[tuple[Arm, Arm, Published | None], ...]
    pipelines: Pipelines = LATENTS
    own_size: bool = False  # ask at this size only: another claim asks the same elsewhere

    def __call__(self, index: Index) -> Iterator[Finding]:
        found = [
            contests.at_size(contest, self.size)
            for a, b, published in self.pairs
            for contest in index.contests(self.quantity, (a, b), self.pipelines, published)
            if contest.size == self.size or not self.own_size
        ]
        for place in contests.join(found):
            lacking = () if len(place) == len(self.pairs) else ("one of the methods on that machine",)
            comparisons = tuple(contest.comparison for contest in place)
            first = place[0]
            yield Finding(first.scale, first.title, first.name, Found(comparisons, lacking))


@dataclass(frozen=True)
class Parameters:
    """The networks that are sampled have the paper's numbers of parameters, in millions, to within 0.1%."""

    published: dict[str, float]  # by recipe

    def __call__(self, index: Index) -> Iterator[Finding]:
        comparisons, lacking, remarks = [], [], []
        for recipe, millions in self.published.items():
            counted = _counted(index.evidence, recipe)
            if counted is None:
                lacking.append(f"no count of {recipe}")
                continue
            params, source = counted
            method, _, size = recipe.partition("-")
            comparisons.append(
                Comparison(
                    subject=f"{look(method).title}-{size.upper()}/2",
                    other="the paper's",
                    quantity="parameters",
                    ratios=(params / 1e6 / millions,),
                    claimed="within",
                    bound=1 + PARAMETERS_WITHIN,
                    exact=True,
                    runs=(source,),
                )
            )
            remarks.append(f"{look(method).title}-{size.upper()}/2 {params / 1e6:.2f} M, paper {millions} M")
        found = Found(tuple(comparisons), tuple(lacking), remarks=tuple(remarks))
        yield Finding("paper" if comparisons else None, "the networks, counted", "counts", found)


@dataclass(frozen=True)
class MemoryAtMost:
    """A device holds at most so much at its peak, with the paper's batch over its eight GPUs: 32 images on each."""

    arm: Arm
    size: str
    gibibytes: float
    at_most: float  # what is printed is rounded: the largest number it may stand for

    def __call__(self, index: Index) -> Iterator[Finding]:
        for title, name, peak, source, on_eight in contests.peaks(index.evidence, self.arm, self.size):
            comparison = Comparison(
                subject=f"{self.arm.label()}-{self.size.upper()}/2",
                other=f"the paper's {self.gibibytes:g} GB",
                quantity="peak memory of a GPU",
                ratios=(peak / 2**30 / self.gibibytes,),
                claimed="below",
                bound=self.at_most / self.gibibytes,
                exact=True,
                runs=(source,),
                notes=("The paper says neither how it measured nor which gigabyte; a GB is taken as 2**30 bytes.",),
                differences=() if on_eight else (f"{title} instead of 8 x A100",),
            )
            remarks = (f"{peak / 2**30:.1f} GB",)
            yield Finding("paper", title, name, Found((comparison,), remarks=remarks))


Test = Callable[[Index], Iterable[Finding]]


def merged(found: Iterable[Found]) -> Found:
    parts = list(found)
    return Found(
        tuple(c for part in parts for c in part.comparisons),
        tuple(dict.fromkeys(text for part in parts for text in part.lacking)),
        tuple(dict.fromkeys(text for part in parts for text in part.missing)),
        tuple(dict.fromkeys(text for part in parts for text in part.remarks)),
    )


def _notes(setting: Setting) -> Iterator[str]:
    if setting.metric != PAPER_METRIC:
        yield f"The distance is {setting.metric}, not FID-50K."


def _counted(evidence: Evidence, recipe: str) -> tuple[int, str] | None:
    """Parameters of the network that a recipe samples: from its count, else from a run of it with the paper's knobs."""
    count = evidence.count(recipe)
    if count is not None:
        return count.params, f"count of {recipe}"
    method, _, size = recipe.partition("-")
    for run in evidence.runs:
        ours = (run.result.method, run.result.size, run.config["network"].get("patch")) == (method, size, 2)
        if ours and not knob_differences(method, run.config["knobs"]):
            return run.result.params, run.name
    return None
