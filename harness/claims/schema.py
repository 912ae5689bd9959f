"""What a claims.yaml may hold: its numbers, its arms and its claims, and the predicates that a claim may ask.

A predicate is a class with its name in `predicate`; `made` gives what harness.claims.predicates and
harness.claims.machines ask of runs. Names of arms and numbers are looked up in the file.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Protocol

from pydantic import Field

from harness.claims.arms import Arm, Published
from harness.claims.counts import Parameters, Reachable, StepAtMost
from harness.claims.machines import LATENTS, OTHER_ENCODES, MemoryAtMost
from harness.claims.places import PAPER_BATCH
from harness.claims.predicates import (
    Ahead,
    AtEveryStep,
    Best,
    Comparable,
    FasterHere,
    Guided,
    Lower,
    SameCost,
    WorseThanSmaller,
)
from harness.recipes.config import Settings

OF_DISTANCE, OF_SPEED, OF_MEMORY, OF_PARAMETERS, OF_ARITHMETIC = (  # yardsticks
    "distance", "speed", "memory", "parameters", "arithmetic",
)  # fmt: skip
Pair = tuple[str, str]


class Names(Protocol):
    """Looks up what a claim names; what is not there becomes a fault at that place of the ask."""

    size: str  # where the paper measured

    def arm(self, name: str, *place: str | int) -> Arm: ...
    def recipe(self, name: str, *place: str | int) -> str: ...
    def number(self, name: str, *place: str | int) -> float: ...
    def pair(self, names: Pair | None, *place: str | int) -> Published | None: ...


class Number(Settings):
    """A published number, and the row of a published CSV that has it: as many columns as tell it from all others."""

    value: float = Field(description="the number as the row has it")
    table: str = Field(description="figure_or_table of the row")
    metric: str = "FID-50K"
    series: str | None = None
    method: str | None = None
    model: str | None = None
    steps: int | None = Field(None, description="training steps")
    batch: int | None = None
    x: str | float | None = None


class ArmOf(Settings):
    """One side of a comparison: a method with some of its knobs."""

    method: str = Field(description="the method, as `harness recipes list` calls it")
    knobs: dict[str, Any] = Field({}, description="knobs and their values")
    steps: int | None = Field(None, ge=1, description="the paper's training steps, where the arms differ in them")
    guided: bool = Field(False, description="sampled with guidance")


class At(Settings):
    """Where the paper measured."""

    size: str = Field(description="the network's size: s, b, l or xl")
    steps: int | None = Field(None, ge=1, description="training steps")
    batch: int = Field(PAPER_BATCH, ge=1)
    elsewhere: bool = Field(True, description="whether other sizes, data and steps are asked too")


class ClaimOf(Settings):
    """One statement of a paper. It asks its predicates, or says why it is not tested."""

    id: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", description="a name of small letters, digits and hyphens")
    place: str = Field(min_length=1, description="where the paper says it, like Table 1; Sec. 4.2")
    statement: str = Field(min_length=1, description="what it says, as a sentence that can be true or false")
    printed: str | None = Field(None, description="the paper's numbers in words; else those named in published")
    published: list[str] = Field([], description="names of the numbers behind an untested claim")
    yardstick: str = Field(OF_DISTANCE, description="distance, speed, memory, parameters, or a metric's name")
    at: At | None = None
    asks: list[Any] = Field([], description="the predicates, all of which the claim says")
    needs: Literal["live-targets"] | None = Field(None, description="a condition without which runs cannot tell")
    untested: str | None = Field(None, min_length=1, description="why no runs of this harness can test it")
    command: str | None = Field(None, description="the command whose runs test it")
    note: str = Field("", description="what a reader of its verdict should know")
    by_construction: str = Field("", description="why it cannot fail here, so that no measurement tests it")


class Document(Settings):
    """A claims.yaml."""

    numbers: dict[str, Any] = Field({}, description="published numbers by name")
    arms: dict[str, Any] = Field({}, description="arms by name")
    claims: list[Any] = Field(min_length=1, description="the list of claims")


# Predicates -----------------------------------------------------------------------------------------------------------


class Ask(Settings):
    """A predicate, as a claim writes it."""

    yardsticks: ClassVar[tuple[str, ...]] = (OF_DISTANCE,)  # of which it may be asked; a metric's name is a distance

    predicate: str

    def made(self, names: Names) -> Any:
        """What is asked of runs."""
        raise NotImplementedError


class OfTwo(Ask):
    """A predicate about two arms."""

    arms: Pair = Field(description="the two arms that are compared")
    published: Pair | None = Field(None, description="the names of the arms' two numbers")

    def both(self, names: Names) -> tuple[Arm, Arm, Published | None]:
        a, b = (names.arm(name, "arms", place) for place, name in enumerate(self.arms))
        return a, b, names.pair(self.published, "published")


class AskLower(OfTwo):
    """The first arm's distance, or memory, is lower."""

    yardsticks = (OF_DISTANCE, OF_MEMORY)
    predicate: Literal["lower"]

    def made(self, names: Names) -> Lower:
        return Lower(*self.both(names))


class AskComparable(OfTwo):
    """The two distances differ by at most `within`."""

    predicate: Literal["comparable"]
    within: float = Field(gt=0, lt=1, description="how far the two may differ, as a share")

    def made(self, names: Names) -> Comparable:
        return Comparable(*self.both(names), within=self.within)


class AskAhead(OfTwo):
    """The first arm's distance is lower than the second's after up to `factor` times the steps."""

    predicate: Literal["ahead"]
    factor: float = Field(gt=1, description="how many times as long the second arm may train")

    def made(self, names: Names) -> Ahead:
        return Ahead(*self.both(names), factor=self.factor)


class AskGuided(OfTwo):
    """With guidance the first arm's distance is lower."""

    predicate: Literal["guided"]

    def made(self, names: Names) -> Guided:
        return Guided(*self.both(names))


class AskSameCost(OfTwo):
    """The networks that are sampled have equal parameters and arithmetic."""

    predicate: Literal["same-cost"]

    def made(self, names: Names) -> SameCost:
        return SameCost(*self.both(names))


class AskFaster(OfTwo):
    """The first arm takes more training steps a second."""

    yardsticks = (OF_DISTANCE, OF_SPEED)
    predicate: Literal["faster"]
    encoding: bool = Field(False, description="whether the second arm encodes its images in the step")

    def made(self, names: Names) -> FasterHere:
        return FasterHere(*self.both(names), OTHER_ENCODES if self.encoding else LATENTS)


class OfKnob(Ask):
    """A predicate about the values of a knob of one arm."""

    arm: str
    knob: str
    values: tuple[float, ...] = Field(min_length=1)
    published: dict[str, float] = Field({}, description="the knob's value at each number, by the number's name")

    def distances(self, names: Names) -> Mapping[float, float]:
        return {value: names.number(name, "published", name) for name, value in self.published.items()}


class AskBest(OfKnob):
    """The arm's own value of the knob has the lowest distance; `values` are the others the paper has."""

    predicate: Literal["best"]
    least: bool = Field(False, description="the best is the least value there can be")

    def made(self, names: Names) -> Best:
        arm = names.arm(self.arm, "arm")
        return Best(arm, self.knob, self.values, self.distances(names), least=self.least)


class AskWorse(OfKnob):
    """Each of `values` has a higher distance than every smaller value."""

    predicate: Literal["worse-than-smaller"]

    def made(self, names: Names) -> WorseThanSmaller:
        return WorseThanSmaller(names.arm(self.arm, "arm"), self.knob, self.values, self.distances(names))


class Printed(Settings):
    """The numbers of two arms after some steps."""

    other: str = Field(description="the other arm's method")
    steps: int
    numbers: Pair = Field(description="the names of the two arms' numbers after these steps")


class AskEveryStep(Ask):
    """The arm's distance is lower than the others' through the whole of training."""

    predicate: Literal["lower-at-every-step"]
    arm: str
    others: tuple[str, ...] = Field(min_length=1)
    published: list[Printed] = Field([], description="what the paper prints after some steps")

    def made(self, names: Names) -> AtEveryStep:
        others = tuple(names.arm(name, "others", place) for place, name in enumerate(self.others))
        printed = {
            (each.other, each.steps): pair
            for place, each in enumerate(self.published)
            if (pair := names.pair(each.numbers, "published", place, "numbers"))
        }
        return AtEveryStep(names.arm(self.arm, "arm"), others, printed)


class AskAtMost(Ask):
    """A GPU needs at most so many gigabytes."""

    yardsticks = (OF_MEMORY,)
    predicate: Literal["at-most"]
    arm: str
    published: str = Field(description="the name of the number of gigabytes")
    bound: float = Field(description="the largest number that the printed one may stand for")

    def made(self, names: Names) -> MemoryAtMost:
        printed = names.number(self.published, "published")
        return MemoryAtMost(names.arm(self.arm, "arm"), names.size, printed, self.bound)


class AskEqual(Ask):
    """The networks have the printed numbers of parameters."""

    yardsticks = (OF_PARAMETERS,)
    predicate: Literal["equal"]
    published: dict[str, str] = Field(min_length=1, description="by recipe, the name of its number in millions")
    fitted: tuple[str, ...] = Field((), description="recipes that were fitted to their number, which tests nothing")

    def made(self, names: Names) -> Parameters:
        counted = {names.recipe(r, "published", r): names.number(n, "published", r) for r, n in self.published.items()}
        return Parameters(counted, fitted=tuple(names.recipe(name, "fitted") for name in self.fitted))


class AskStepAtMost(Ask):
    """A training step takes at most `times` the arithmetic of another's. A recipe may have settings: dit-s:with=x."""

    yardsticks = (OF_ARITHMETIC,)
    predicate: Literal["step-at-most"]
    recipes: Pair
    times: float = Field(gt=0, description="the largest ratio that the claim's words may stand for")

    def made(self, names: Names) -> StepAtMost:
        a, b = (names.recipe(name, "recipes", place) for place, name in enumerate(self.recipes))
        return StepAtMost(a, b, self.times)


class AskReachable(Ask):
    """The published speed asks for at most a share of what the devices can do."""

    yardsticks = (OF_ARITHMETIC,)
    predicate: Literal["reachable"]
    recipe: str
    published: str = Field(description="the name of the number of training steps a second")
    batch: int = Field(PAPER_BATCH, ge=1)
    devices: int = Field(ge=1)
    tflops: float = Field(gt=0, description="of one device at its peak, in the precision that the paper names")
    share: float = Field(gt=0, le=1, description="the largest share of the peak that is believed")

    def made(self, names: Names) -> Reachable:
        speed = names.number(self.published, "published")
        return Reachable(names.recipe(self.recipe, "recipe"), speed, self.batch, self.devices, self.tflops, self.share)


ASKS: dict[str, type[Ask]] = {
    ask.model_fields["predicate"].annotation.__args__[0]: ask  # type: ignore[union-attr]
    for ask in (
        AskLower, AskComparable, AskAhead, AskGuided, AskSameCost, AskFaster, AskBest, AskWorse, AskEveryStep,
        AskAtMost, AskEqual, AskStepAtMost, AskReachable,
    )
}  # fmt: skip
